"""Write the pages that say what the code says: `make docs`. A test fails where they are out of date.

python docs/generate.py            # write docs/hooks.md, cli.md, schema.md, settings.md, datasette.json
python docs/generate.py --readme results.db   # also refresh the README's tables from a finished run
python docs/generate.py --seeds results.db    # likewise the tables over seeds, also docs/seeds.md (`make seeds`)
python docs/generate.py --real real/results.db    # likewise those of the real model (`make demo-real`)
"""

from __future__ import annotations

import inspect
import io
import json
import sys
from pathlib import Path

import click

DOCS = Path(__file__).resolve().parent
README = DOCS.parent / "README.md"
NOTE = "<!-- Written by docs/generate.py (`make docs`); edit the code instead. -->\n\n"


def hooks() -> str:
    """Every hook: exact arguments, signature, docstring."""
    from harness.contract import hooks as hookspecs

    parts = [f"{NOTE}# Hooks\n\n{inspect.getdoc(hookspecs)}\n"]
    for name, function in inspect.getmembers(hookspecs, inspect.isfunction):
        if name.startswith("harness_"):
            signature = inspect.signature(function)
            title = f"## `{name}({', '.join(signature.parameters)})`"
            parts.append(f"{title}\n\nReturns `{signature.return_annotation}`.\n\n{inspect.getdoc(function)}\n")
    parts.append("# Events\n")
    for event in (hookspecs.StepStarted, hookspecs.StepProgressed, hookspecs.StepFinished):
        fields = ", ".join(f"{k}: {v}" for k, v in event.__annotations__.items())
        parts.append(f"## `{event.__name__}({fields})`\n\n{inspect.getdoc(event)}\n")
    return "\n".join(parts)


def cli() -> str:
    """Every command's help."""
    from harness.cli import cli as root

    parts = [f"{NOTE}# Command line\n"]

    def add(command: click.Command, path: tuple[str, ...], parent: click.Context | None) -> None:
        # The settings, too: click caches the help option of whichever context asks first.
        settings = {**command.context_settings, "terminal_width": 110}
        context = click.Context(command, info_name=path[-1], parent=parent, **settings)
        parts.append(f"## {' '.join(path)}\n\n```text\n{command.get_help(context)}\n```\n")
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                if child is not None:
                    add(child, (*path, name), context)

    add(root, ("harness",), None)
    return "\n".join(parts)


def schema() -> str:
    """Tables and views of results.db."""
    from harness.store.database import schema_sql
    from harness.store.describe import schema_markdown

    intro = (
        "One SQLite file (or PostgreSQL), migrated by alembic. Views (`v_...`) have readable names and the run's id; "
        '`harness sql "SELECT ..."` queries it without being able to write, `harness db datasette` prints metadata for '
        "Datasette. Columns that end in `_json` hold JSON. NULL has a `reason` beside it.\n\n"
    )
    intro += (
        "On PostgreSQL, give people who only read a role that may do nothing else:\n\n"
        "```sql\nCREATE ROLE reader LOGIN;\n"
        "GRANT USAGE ON SCHEMA public TO reader;\nGRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;\n"
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader;\n```\n\n"
    )
    return f"{NOTE}# results.db\n\n{intro}{schema_markdown()}\n## SQL\n\n```sql\n{schema_sql()}\n```\n"


def settings() -> str:
    """Every setting of every section and plugin: type, default, meaning."""
    from harness.records import ModelRef
    from harness.render.plugins import as_set, meanings
    from harness.study.effective import defaults, names_with_settings
    from harness.study.manager import Manager
    from harness.study.plain_types import type_of_field
    from harness.study.registry import STUDY_SECTIONS, read_registry

    manager = Manager(read_registry(DOCS.parent / "registry.yaml"))
    parts = [
        f"{NOTE}# Settings\n\nEverything that `--set NAME.KEY=VALUE` and registry.yaml reach, with its default. "
        "A value is YAML; a list may be written `a,b`. `harness plugins show NAME` prints the value that a study "
        "and preset give it, and where that comes from. Precedence: default < the plugin's row in registry.yaml < the "
        "study < the preset < `--set`.\n"
    ]
    for name in names_with_settings(manager):
        if name in manager.names():
            offer = manager.offer(name)
            declared, about = offer.registration.config, f"{offer.stage}: {offer.registration.summary}"
        else:
            declared = STUDY_SECTIONS.get(name, ModelRef)
            about = f"A section of every study. {(inspect.getdoc(declared) or '').splitlines()[0]}"
        rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
        said = meanings(declared)
        for key, default in defaults(declared).items():
            cells = (type_of_field(declared.model_fields[key]), f"`{as_set(default)}`", said[key])
            rows.append(f"| `{key}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append(f"## {name}\n\n{about}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def datasette() -> str:
    """Metadata for Datasette."""
    from harness.store.describe import datasette_metadata

    return json.dumps(datasette_metadata(), indent=2, ensure_ascii=False) + "\n"


PAGES = {"hooks.md": hooks, "cli.md": cli, "schema.md": schema, "settings.md": settings, "datasette.json": datasette}


def refresh_readme(database: str) -> None:
    """Put the tables of the database's latest run between the README's markers."""
    for section in ("recovery", "dictionaries"):
        put_between(README, section, table(section, database))


def refresh_real(database: str) -> None:
    """Put the tables of the real model's latest run into docs/real-model.md, that of recovery into the README."""
    page = DOCS / "real-model.md"
    for section in ("recovery", "dictionaries", "groups", "grades", "scores", "steps"):
        put_between(page, section, table(section, database))
    put_between(README, "real", table("recovery", database))


def table(section: str, database: str) -> str:
    """A report on the latest run, as markdown."""
    from rich.console import Console

    from harness.render.render import render

    out = io.StringIO()
    render([section], db=database, form="md", console=Console(file=out, width=200))
    return out.getvalue()


def refresh_seeds(database: str) -> None:
    """Put the tables over the latest command's seeds into docs/seeds.md, what concerns benchmarks into the README."""
    from rich.console import Console

    from harness.render.across import render_across

    for page, names in ((README, ("recovery",)), (DOCS / "seeds.md", ())):
        out = io.StringIO()
        render_across("latest", names, db=database, form="md", console=Console(file=out, width=200))
        put_between(page, "seeds", out.getvalue())


def put_between(page: Path, section: str, body: str) -> None:
    """Replace what stands between a page's markers of a section."""
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- {section}: begin -->\n", f"<!-- {section}: end -->"
    head, rest = text.split(start, 1)
    tail = rest.split(end, 1)[1]
    page.write_text(f"{head}{start}{body.strip()}\n{end}{tail}", encoding="utf-8")


def main(argv: list[str]) -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
    if argv[:1] == ["--readme"]:
        refresh_readme(argv[1])
    if argv[:1] == ["--seeds"]:
        refresh_seeds(argv[1])
    if argv[:1] == ["--real"]:
        refresh_real(argv[1])


if __name__ == "__main__":
    main(sys.argv[1:])
