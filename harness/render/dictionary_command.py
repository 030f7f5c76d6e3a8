"""The command `harness dictionary`: list a run's dictionaries, export one. It imports nothing heavy at the top."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import UnknownName, UsageError
from harness.render.commands import DB_OPTION, RUN_OPTION
from harness.render.terminal import make_console

if TYPE_CHECKING:
    from harness.reports.dictionaries import FittedRow

DICTIONARY_FORMATS = ("saelens", "dictionary-learning")


@click.group()
def dictionary() -> None:
    """Dictionaries of a run: where they are, and exporting one to SAELens or dictionary_learning."""


@dictionary.command("list")
@RUN_OPTION
@DB_OPTION
def list_dictionaries(run_id: str, db: str) -> None:
    """Name, size and folder of each dictionary that a run fitted."""
    rows = [("name", "latents", "columns", "k", "folder")]
    for row in _fitted(db, run_id):
        size = f"{row.n_latents:,}{' signed' if row.signed else ''}"
        rows.append((row.name, size, f"{row.n_columns:,}", f"{row.k:g}", _from_here(row.path)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    console = make_console()
    for cells in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        # Not a rich table: it would fold a folder, and a folder in two pieces cannot be copied.
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@dictionary.command(
    epilog="""\b
Examples:
  harness dictionary export batch-topk --format saelens --out sae
  harness dictionary export batch-topk@k=8 --format dictionary-learning --out ae
  harness dictionary export sae --format dictionary-learning --out ae    # a folder: converts it
Then, in Python:
  sae = sae_lens.SAE.load_from_disk("sae")                               # same codes, to rounding
  ae, config = dictionary_learning.utils.load_dictionary("ae", "cpu")
And back:
  harness run --plugin existing-dictionary --set existing-dictionary.path=sae"""
)
@click.argument("name", metavar="NAME|FOLDER")
@click.option("--format", "form", required=True, type=click.Choice(DICTIONARY_FORMATS), help="Whose format.")
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Where to; made new.")
@RUN_OPTION
@DB_OPTION
def export(name: str, form: str, out: Path, run_id: str, db: str) -> None:
    """Write a dictionary as another tool reads it, by its name in a run or by its folder (of either tool).

    Codes are the same there, in raw units. Signed latents go out as two each, 2i the positive and 2i + 1 the negative.
    """
    from harness.dictionaries.formats import export as write
    from harness.dictionaries.formats import read

    weights = read(_folder(name, run_id, db))
    write(weights, out, form)
    written = weights.unsigned()
    both = f" ({weights.n_latents:,} signed ones)" if weights.signed else ""
    make_console().print(
        f"{out}: {written.n_latents:,} latents{both} on {written.d_in:,} columns, for {form}",
        markup=False, highlight=False,
    )  # fmt: skip


def _from_here(path: str) -> str:
    """A path relative to the current folder where it lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _folder(name: str, run_id: str, db: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    rows = _fitted(db, run_id)
    row = next((row for row in rows if _settings(row.name) == _settings(name)), None)
    if row is None:
        raise UnknownName("dictionary (or folder)", name, [r.name for r in rows], hint="list: harness dictionary list")
    folder = Path(row.path)
    if not folder.is_dir():
        raise UsageError(f"the folder of {name!r} is gone ({folder}); name the folder it is in now, or run again")
    return folder


def _settings(name: str) -> tuple[str, frozenset[str]]:
    """Learner and swept settings, in whatever order they are written: `batch-topk@k=8,expansion=4`."""
    learner, _, label = name.partition("@")
    return learner, frozenset(label.split(","))


def _fitted(db: str, run_id: str) -> list[FittedRow]:
    from harness.reports.common.run import open_results, resolve_run
    from harness.reports.dictionaries import fitted_dictionaries

    with open_results(db) as connection:
        return fitted_dictionaries(connection, resolve_run(connection, run_id))
