"""The command `harness plugins new`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.render.terminal import make_console
from harness.scaffold import STAGES, write_package


@click.command("new", epilog="Example:  harness plugins new layer-kl --stage ablate")
@click.argument("name")
@click.option(
    "--stage",
    required=True,
    metavar="STAGE",
    type=click.Choice([*STAGES, *STAGES.values()]),
    help=f"What the plugin does: {', '.join(STAGES)}.",
)
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Folder to write to. Default: ./NAME.")
def new_plugin(name: str, stage: str, out: Path | None) -> None:
    """Write a package for a plugin of your own, with a test that passes."""
    out = out or Path(name)
    console = make_console()
    for path in write_package(name, stage, out):
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    last = f"--provider {name}" if STAGES.get(stage, stage) == "providers" else f"--plugin {name}"
    console.print(
        f"next: pip install -e {out} && pytest {out}\nthen: harness run {last}   (the guide: docs/writing-a-plugin.md)",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
