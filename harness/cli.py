"""The command line: run · plugins · report · dashboard · db · doctor. Each command imports its work when called."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from harness import __version__
from harness.errors import HarnessError, UsageError, masked_url
from harness.render.card import card
from harness.render.commands import figures, report, sql
from harness.render.dashboard.command import dashboard
from harness.render.dictionary_command import dictionary
from harness.render.terminal import make_console
from harness.scaffold.command import new_plugin
from harness.startup import prepare

if TYPE_CHECKING:
    from harness.study.display import RunSummary
    from harness.study.manager import Manager
    from harness.study.registry import Registry

STAGES_HELP = "train, evaluate, probe, learn, interpret or ablate"


_DB = click.option(
    "--db", "url", default="results.db", show_default=True, metavar="URL", help="SQLite file or SQLAlchemy URL."
)


class _OrderedGroup(click.Group):
    """A group whose commands are listed in the order in which they are defined."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_OrderedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with:  harness run --plugin rank1-lora   then:  harness report",
)
@click.version_option(__version__, prog_name="harness")
@click.option(
    "--registry", metavar="FILE", help="Registry to use. Default: $HARNESS_REGISTRY, ./registry.yaml, the package's."
)
@click.option("--debug", is_flag=True, help="Show tracebacks and debug logs.")
@click.pass_context
def cli(ctx: click.Context, registry: str | None, debug: bool) -> None:
    """Evaluate and take apart fine-tuned language models, by plugins.

    A study trains an adapter, evaluates it, reads its scalars on every token, learns a dictionary on them, interprets
    and grades the features, and ablates components. Everything ends up in results.db.
    """
    ctx.obj = {"registry": registry, "debug": debug}
    _configure_logging(debug)


def _configure_logging(debug: bool) -> None:
    import logging

    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Their warnings are about retried downloads, and advice on lm-eval's own command line.
    for name in ("huggingface_hub", "lm_eval"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.ERROR)


def _only_one(ctx: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> str:
    """One name; click alone would silently take the last of several."""
    if len(names) > 1:
        raise UsageError(
            f"--plugin was given {len(names)} times ({', '.join(names)}); a run has one: run them one after the other "
            "(what is done is reused), or write a study in registry.yaml"
        )
    return names[0]


def _load(ctx: click.Context) -> tuple[Registry, Manager]:
    from harness.study.manager import Manager
    from harness.study.registry import read_registry
    from harness.study.registry_file import find_registry

    registry = read_registry(find_registry(ctx.obj["registry"]))
    return registry, Manager(registry)


@cli.command(
    epilog="""\b
Examples:
  harness run --plugin rank1-lora
  harness run --plugin rank1-lora --dry-run
  harness run --plugin rank1-lora --seeds 0-4
  harness run --plugin rank1-lora --set rank1-lora.rank=4 --set features.documents=200
  harness run --plugin rank1-lora --only interpret --provider openai:gpt-5-mini --max-cost 5
  harness run --plugin rank1-lora --provider openai:gpt-5-mini --provider judge=anthropic:MODEL
  harness run --plugin batch-topk --set batch-topk.k=8
  harness run --plugin rank1-lora --only ablate --executor ray
  harness run --plugin rank1-lora --set model.path=/models/Qwen2.5-1.5B-Instruct --set data.path=traces.jsonl"""
)
@click.option(
    "--plugin",
    "target",
    required=True,
    multiple=True,
    metavar="NAME",
    callback=_only_one,
    help="A study of the registry, or one plugin with what it needs.",
)
@click.option("--preset", metavar="P", help="A preset of the study (harness plugins show STUDY).")
@click.option(
    "--set", "pairs", multiple=True, metavar="NAME.KEY=VALUE", help="Override a setting; repeatable; wins over all."
)
@click.option(
    "--provider",
    multiple=True,
    metavar="[ROLE=]NAME[:MODEL]",
    help="LLM for interpretation, e.g. openai:gpt-5-mini; with a role (explainer, judge, second-judge, "
    "categories, categoriser, scorer, grader) only for that; repeatable.",
)
@click.option(
    "--max-cost", type=float, metavar="USD", help="Budget of this run's LLM calls; it stops before passing it."
)
@click.option("--max-calls", type=click.IntRange(min=0), metavar="N", help="Most LLM calls that this run sends.")
@click.option("--llm-batch", is_flag=True, help="Use the vendors' batch APIs: run again later to collect the answers.")
@click.option("--accept-failed", is_flag=True, help="Count steps as done though LLM calls failed (else asked again).")
@_DB
@click.option(
    "--artifacts", default="artifacts", show_default=True, metavar="DIR", help="Checkpoints, activations, dictionaries."
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of the run; part of the keys of what depends on it.",
)
@click.option(
    "--seeds", metavar="LIST", help="A run per seed, e.g. 0-4 or 0,3,7; what depends on no seed is done once."
)
@click.option("--device", default="auto", show_default=True, help="torch device; auto is the first GPU, else the CPU.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where captures, sweeps and encoding run: in this process, or in Ray workers, one per GPU.",
)
@click.option("--ray-address", metavar="HOST:PORT", help="A running Ray cluster. Default: one is started here.")
@click.option(
    "--ray-workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Ray workers. Default: one per GPU, else what CPUs allow.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 2),
    envvar="HARNESS_JOBS",
    metavar="1|2",
    help="2: a worker process does steps beside this one (CPU, local executor). Default: 2 for a small model, else 1.",
)
@click.option("--only", multiple=True, metavar="STAGE", help=f"Only {STAGES_HELP}, and what it needs; repeatable.")
@click.option("--dry-run", is_flag=True, help="Print the plan: each step, its key, done or to do, time here, cost.")
@click.option("--force", is_flag=True, help="Do every step again, also those that are done.")
@click.pass_context
def run(
    ctx: click.Context, target: str, preset: str | None, pairs: Sequence[str], provider: Sequence[str],
    max_cost: float | None, max_calls: int | None, llm_batch: bool, accept_failed: bool, url: str, artifacts: str,
    seed: int, seeds: str | None, device: str, executor: str, ray_address: str | None, ray_workers: int | None,
    jobs: int | None, only: Sequence[str], dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Run a study (or one plugin). Steps that are done are skipped; a killed run goes on where it was."""
    from pathlib import Path

    from harness.contract.session import Session
    from harness.render.live import LiveDisplay
    from harness.render.outcome import finish, run_and_tell
    from harness.render.plan import print_plan
    from harness.render.plugins import left_out
    from harness.store.writer import Store
    from harness.study.plan import make_plan, parse_settings
    from harness.study.ray import open_executor
    from harness.study.runner import Runner
    from harness.study.seeds import parse_numbers, run_seeds

    console = make_console(stderr=True)
    if seeds is not None and ctx.get_parameter_source("seed") is not ParameterSource.DEFAULT:
        raise UsageError("--seed and --seeds: give one of them")
    numbers = (seed,) if seeds is None else parse_numbers(seeds, "--seeds")
    registry, manager = _load(ctx)
    for sentence in left_out(manager):
        console.print(sentence)
    settings = parse_settings(pairs)
    plans = {
        n: make_plan(registry, manager, target, preset=preset, settings=settings, seed=n, only=only, provider=provider)
        for n in numbers
    }
    session = Session(max_calls=max_calls, max_cost_usd=max_cost, batch=llm_batch)
    fresh: set[str] = set()
    code = 0
    with Store.open(url) as store, open_executor(executor, device, ray_address, ray_workers) as workers:

        def runner(number: int, display: LiveDisplay) -> Runner:
            return Runner(
                plans[number], manager, store, Path(artifacts), device=device, force=force, display=display,
                llm=session, accept_failed=accept_failed, executor=workers, jobs=jobs, seeds=seeds, fresh=fresh,
            )  # fmt: skip

        def run_one(number: int) -> RunSummary:
            display = LiveDisplay(console, session)
            return run_and_tell(runner(number, display), display, console)

        if dry_run:
            display = LiveDisplay(console)
            pending = {k for n in numbers for k in runner(n, display).planned()}
            print_plan([*plans.values()], pending, make_console(), runner(numbers[0], display).machine())
        elif seeds is None:
            code = finish({seed: run_one(seed)}, {}, console)
        else:
            tell = partial(console.print, markup=False, highlight=False, soft_wrap=True)
            code = finish(*run_seeds(numbers, run_one, tell), console)
    ctx.exit(code)


@cli.group(invoke_without_command=True)
@click.pass_context
def plugins(ctx: click.Context) -> None:
    """List plugins and studies, show one's settings, print the hook reference, or begin a plugin of your own."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(plugins_list)


@plugins.command("list")
@click.pass_context
def plugins_list(ctx: click.Context) -> None:
    """Every study, plugin and observer, and what could not be loaded."""
    from harness.render.plugins import left_out, observer_table, plugin_table, study_table

    registry, manager = _load(ctx)
    console = make_console()
    console.print(study_table(registry))
    console.print(plugin_table(manager))
    if (observers := observer_table(manager)) is not None:
        console.print(observers)
    for sentence in left_out(manager):
        console.print(sentence)


@plugins.command(
    "show",
    epilog="""\b
Examples:
  harness plugins show rank1-lora                   # the study and the plugin of that name
  harness plugins show grading                      # a section of studies
  harness plugins show steer --preset tiny          # as the preset has it
  harness plugins show differences --study existing-adapter""",
)
@click.argument("name")
@click.option("--study", metavar="S", help="Whose values are shown. Default: the default study.")
@click.option("--preset", metavar="P", help="A preset of that study.")
@click.pass_context
def plugins_show(ctx: click.Context, name: str, study: str | None, preset: str | None) -> None:
    """Settings of a plugin, a section or a study: type, value, where that comes from, meaning (docs/settings.md)."""
    from harness.render.plugins import describe

    registry, manager = _load(ctx)
    for part in describe(registry, manager, name, study, preset):
        make_console().print(part)


@plugins.command("hooks")
def plugins_hooks() -> None:
    """The hook reference: every hook with its arguments and meaning."""
    from harness.render.plugins import hook_reference

    make_console().print(hook_reference(), markup=False, highlight=False)


plugins.add_command(new_plugin)

for _command in (report, figures, sql, dashboard, dictionary, card):
    cli.add_command(_command)


@cli.group()
def db() -> None:
    """The results database: where it is, its schema, and upgrading it."""


@db.command("path")
@_DB
def db_path(url: str) -> None:
    """Print the database's URL."""
    from harness.store.database import database_url

    click.echo(database_url(url))


@db.command("upgrade")
@_DB
def db_upgrade(url: str) -> None:
    """Create the database, or bring an older one up to this version's schema. Nothing stored is lost."""
    from harness.store.database import schema_version
    from harness.store.writer import Store

    with Store.open(url) as store:
        click.echo(f"{store.name}: schema {schema_version(store.engine)}")


@db.command("datasette")
def db_datasette() -> None:
    """Print metadata for Datasette: datasette results.db -m <(harness db datasette)."""
    import json

    from harness.store.describe import datasette_metadata

    click.echo(json.dumps(datasette_metadata(), indent=2, ensure_ascii=False))


@db.command("schema")
@click.pass_context
def db_schema(ctx: click.Context) -> None:
    """Print the tables and views as SQL, with those of plugins' records."""
    from harness.store.database import schema_sql

    _, manager = _load(ctx)
    click.echo(schema_sql(manager.records()))


@cli.command()
@_DB
@click.option(
    "--artifacts", is_flag=False, flag_value="artifacts", metavar="[DIR]",
    help="Also compare every file of the database's done steps with what was written.  [DIR: artifacts]",
)  # fmt: skip
@click.pass_context
def doctor(ctx: click.Context, url: str, artifacts: str | None) -> None:
    """Versions, devices, extras, API keys (present: yes or no), database and registry; on demand, damaged artefacts."""
    from itertools import chain
    from pathlib import Path

    from harness.render.doctor import artefact_checks, checks

    console, errors = make_console(), make_console(stderr=True)
    failed = False
    compared = artefact_checks(url, Path(artifacts), errors.print) if artifacts else ()
    for name, ok, text in chain(checks(ctx.obj["registry"], url), compared):
        failed |= ok is False
        mark = {True: "[green]ok[/]", False: "[red]!![/]", None: "[dim]--[/]"}[ok]
        console.print(f"{mark} {name:<14}", end=" ")
        console.print(text, markup=False, highlight=False, soft_wrap=True)  # paths stay whole
    if failed:
        ctx.exit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: one sentence and an exit code for every failure; tracebacks only with --debug."""
    prepare()
    if threading.current_thread() is threading.main_thread():  # a terminated run ends like an interrupted one
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    try:
        result: Any = cli.main(args, prog_name="harness", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except (click.exceptions.Abort, KeyboardInterrupt):
        # If Ctrl-C interrupts code that runs by exec (which is how a library's dataclasses are made while it loads),
        # CPython remembers an "unhandled" interrupt and ends with the signal instead of our code; an exec clears that.
        exec("")
        _fail("interrupted; what is done is kept, run again to go on", 130)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        click.echo(masked_url(shown.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except HarnessError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except OSError as error:
        if debug:
            raise
        _fail(_os_error_sentence(error), 1)
    except Exception as error:
        if debug:
            raise
        _fail(f"{type(error).__name__}: {error} (a fault of the harness or a plugin; --debug shows the traceback)", 1)


def _os_error_sentence(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk{where}; what is stored is kept: free some space and run again"
    return f"{error.strerror or error}{where}"


def _fail(sentence: str, code: int) -> None:
    click.echo(f"harness: {masked_url(sentence)}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
