"""The command `harness dashboard`. `harness --help` imports this module: nothing heavy at the top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.render.commands import DB_OPTION, RUN_OPTION, find_reports
from harness.render.terminal import make_console


@click.command(
    epilog="""\b
Examples:
  harness dashboard --open
  harness dashboard --run 3 --out results-3 --documents 40"""
)
@RUN_OPTION
@DB_OPTION
@click.option("--artifacts", default="artifacts", show_default=True, metavar="DIR", help="The run's activations.")
@click.option("--out", default="dashboard", show_default=True, metavar="DIR", help="Folder to write (or replace).")
@click.option(
    "--documents", default=6, show_default=True, type=click.IntRange(min=0), help="Traces kept whole, all features."
)
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
@click.pass_obj
def dashboard(
    settings: dict[str, Any], run_id: str, db: str, artifacts: str, out: str, documents: int, show: bool
) -> None:
    """Write a run as a web site that opens from its folder: features, contexts, traces, components, tables."""
    import webbrowser

    from harness.render.dashboard.site import write_dashboard
    from harness.render.live import LiveDisplay

    console = make_console(stderr=True)
    with LiveDisplay(console) as display:
        made = write_dashboard(
            db, run=run_id, artifacts=Path(artifacts), out=Path(out), n_documents=documents, display=display,
            reports=find_reports((), settings["registry"]),
        )  # fmt: skip
    page = made.path.resolve() / "index.html"
    console.print(
        f"dashboard of run {made.run_id}: {made.n_features:,} features, {made.n_contexts:,} contexts, "
        f"{made.n_documents} whole traces, {made.n_bytes / 1e6:.1f} MB",
        markup=False,
        highlight=False,
    )
    click.echo(str(page))
    if show and not webbrowser.open(page.as_uri()):
        console.print("no browser was found here; open the file yourself", markup=False)
