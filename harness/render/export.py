"""Export a run to a folder: every table in every format, every figure in both themes, and an index."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy import Connection

from harness.contract.cells import visible
from harness.contract.report import Report
from harness.errors import StorageError
from harness.files import replaced_folder
from harness.records.segments import HEADLINE, TokensOf
from harness.render.formats import DATA_FORMATS, FORMATS, find_format
from harness.render.formats.md import markdown_text
from harness.render.loading import Loaded, load_report, run_title
from harness.render.terminal import PIPE_WIDTH
from harness.reports import load_reports
from harness.reports.common.run import open_results, resolve_run
from harness.reports.overview import overview
from harness.reports.steps import steps

MANIFEST = "index.json"
"""Contents of an export, for programs. A folder that has this file may be replaced by a later export."""

_MARK = "interp-harness export"


@dataclass
class Written:
    """What was written.

    Attributes:
        folder: where.
        index: the page that links everything.
        n_files: how many files.
        missing: why a figure is not there.
    """

    folder: Path
    index: Path
    n_files: int
    missing: list[str]


@dataclass
class Figures:
    """Figures that were written, and why others were not."""

    paths: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)


def export_run(
    folder: Path,
    *,
    db: str | Path,
    run: str | int = "latest",
    names: Sequence[str] = (),
    reports: Mapping[str, Report[Any]] | None = None,
    segment: TokensOf = HEADLINE,
    tell: Callable[[str], None] = lambda _: None,
) -> Written:
    """Write a run's tables (`tables/REPORT.SUFFIX`), figures and index to a folder, all or nothing.

    Args:
        folder: made where it does not exist; an earlier export in it is replaced.
        db: path or URL of the database.
        run: `latest` or an id.
        names: of `reports`, exported with their figures; all of them if not given.
        reports: all that can be asked for; the harness's own if not given.
        segment: tokens that KLs are averaged over, in tables and figures that have them by segment.
        tell: called with what is being written.

    Raises:
        StorageError: the folder holds something else, or cannot be written.
        ResultsError: no such database or run.
    """
    reports = load_reports() if reports is None else reports
    _check_replaceable(folder)
    with open_results(db) as connection, replaced_folder(folder) as fresh:
        run_id = resolve_run(connection, run)
        about_run = overview(connection, run_id)[0]
        manifest: dict[str, Any] = {"made_by": _MARK, "run": asdict(about_run)}
        manifest["steps"] = [asdict(step) for step in steps(connection, run_id)]
        manifest["tables"] = []
        (fresh / "tables").mkdir()
        title = run_title(about_run)
        for name in names or reports:
            tell(name)
            loaded = load_report(connection, run_id, reports[name], segment=segment)
            manifest["tables"].append(_write_tables(title, loaded, fresh / "tables"))
        (fresh / "figures").mkdir()
        drawn = _draw(connection, run_id, fresh / "figures", names=_figures_of(names), segment=segment, tell=tell)
        manifest |= {"figures": drawn.entries, "figures_missing": drawn.missing}
        (fresh / "index.md").write_text(_index(title, manifest), encoding="utf-8")
        text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
        (fresh / MANIFEST).write_text(text + "\n", encoding="utf-8")
        n_files = sum(p.is_file() for p in fresh.rglob("*"))
    return Written(folder, folder / "index.md", n_files, drawn.missing)


def export_figures(
    folder: Path,
    *,
    db: str | Path,
    run: str | int = "latest",
    names: Sequence[str] | None = None,
    formats: Sequence[str] = ("svg", "pdf", "png"),
    themes: Sequence[str] = ("light", "dark"),
    segment: TokensOf = HEADLINE,
) -> Figures:
    """Write a run's figures to a folder, `NAME-THEME.FORMAT`; files of the same names are replaced."""
    with open_results(db) as connection:
        run_id = resolve_run(connection, run)
        folder.mkdir(parents=True, exist_ok=True)
        return _draw(connection, run_id, folder, names=names, formats=formats, themes=themes, segment=segment)


def _figures_of(names: Sequence[str]) -> list[str] | None:
    """The figures of some reports; None, which means all, where none is named."""
    from harness.render.figures.catalogue import FIGURES

    return [figure for figure, plot in FIGURES.items() if plot.report in names] if names else None


def _draw(
    connection: Connection,
    run_id: int,
    folder: Path,
    *,
    names: Sequence[str] | None = None,
    formats: Sequence[str] = ("svg", "pdf", "png"),
    themes: Sequence[str] = ("light", "dark"),
    segment: TokensOf = HEADLINE,
    tell: Callable[[str], None] = lambda _: None,
) -> Figures:
    from harness.render.figures.catalogue import Missing, draw_figures
    from harness.render.figures.writer import write_figure

    figures = Figures()
    for theme in themes:
        for drawn in draw_figures(connection, run_id, theme, names, segment):  # type: ignore[arg-type]
            if isinstance(drawn, Missing):
                if drawn.reason not in figures.missing:
                    figures.missing.append(drawn.reason)
                continue
            tell(drawn.stem)
            paths = write_figure(drawn, folder, formats)
            figures.paths += paths
            figures.entries.append(
                {"name": drawn.name, "theme": drawn.theme, "title": drawn.title, "caption": drawn.caption,
                 "files": [p.name for p in paths]}
            )  # fmt: skip
    return figures


def _write_tables(title: str, loaded: Loaded, folder: Path) -> dict[str, Any]:
    report, files = loaded.report, []
    for form, suffix in FORMATS.items():
        stream = io.StringIO()
        console = Console(file=stream, width=PIPE_WIDTH, no_color=True, force_terminal=False)
        if form not in DATA_FORMATS:
            find_format(form).print_header(title, console)
        find_format(form).print_report(loaded, console)
        path = folder / f"{report.name}.{suffix}"
        path.write_text(stream.getvalue(), encoding="utf-8")
        files.append(path.name)
    return {"name": report.name, "title": report.title, "n_rows": len(loaded.rows), "files": files} | (
        {} if loaded.rows else {"reason": loaded.footer}
    )


def _index(title: str, manifest: dict[str, Any]) -> str:
    parts = [f"# {markdown_text(title)}", "## Tables"]
    lines = []
    for entry in manifest["tables"]:
        links = " · ".join(f"[{Path(f).suffix[1:]}](tables/{f})" for f in entry["files"])
        rows = f"{entry['n_rows']:,} rows" if entry["n_rows"] else markdown_text(visible(entry["reason"]))
        lines.append(f"- **{entry['name']}**: {markdown_text(entry['title'])} ({rows}) {links}")
    parts += ["\n".join(lines), "## Figures"]
    for entry in manifest["figures"]:
        if entry["theme"] != "light":
            continue
        first = next((f for f in entry["files"] if f.endswith(".svg")), entry["files"][0])
        links = " · ".join(
            f"[{f.rsplit('-', 1)[1]}](figures/{f})"
            for e in manifest["figures"]
            if e["files"][0].rsplit("-", 1)[0] == entry["files"][0].rsplit("-", 1)[0]
            for f in e["files"]
        )
        title, caption = (markdown_text(visible(entry[k])) for k in ("title", "caption"))
        parts.append(f"### {title}\n\n![{title}](figures/{first})\n\n{caption}\n\n{links}")
    if manifest["figures_missing"]:
        parts.append("\n".join(f"- not drawn: {markdown_text(visible(m))}" for m in manifest["figures_missing"]))
    return "\n\n".join(parts) + "\n"


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StorageError(f"{folder} is a file; name a folder to export to")
    if any(folder.iterdir()):
        try:
            mine = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("made_by") == _MARK
        except (OSError, ValueError, AttributeError):
            mine = False
        if not mine:
            raise StorageError(f"{folder} holds files that no export made; name a new or empty folder")
