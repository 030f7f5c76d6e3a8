"""Run the benches and print a table; write each module's section of docs/benchmarks.md.

python -m bench                    # all, from the top of the checkout
python -m bench exemplars capture  # some: the other sections stay as they are
python -m bench --list             # what there is
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import click
from rich.console import Console
from rich.table import Table

import bench
from bench.measure import Ratio, machine

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Ratios against a named rival, both measured in one process in interleaved rounds; above 1, ours is faster. The ratio is
the median over rounds, its range their lowest and highest. Written by `make bench` (`python -m bench NAME` for one
section); a section is as old as its date says.
"""
HELPERS = {"__main__", "estimates", "measure", "llm_server", "paper_loop", "paper_tracker", "planted"}
COLUMNS = ("what", "rival", "ours (s)", "rival (s)", "ratio", "range", "rounds", "also")


def modules() -> list[str]:
    """Names of the modules that hold benches."""
    names = sorted(m.name for m in pkgutil.iter_modules(bench.__path__))
    return [n for n in names if n not in HELPERS]


def missing(module: ModuleType) -> str | None:
    """The first library that a module measures against (`NEEDS`) and that is not installed here."""
    return next((n for n in getattr(module, "NEEDS", ()) if importlib.util.find_spec(n) is None), None)


def cells(r: Ratio) -> tuple[str, ...]:
    """A comparison as a row of `COLUMNS`."""
    span = f"{r.ratio_low:.2f} to {r.ratio_high:.2f}"
    times = f"{r.ours_s:.3f}", f"{r.rival_s:.3f}"
    return (r.name, r.rival, *times, f"{r.ratio:.2f}", span, str(r.n_rounds), r.note)


def section(name: str, about: str, rows: Sequence[Ratio]) -> str:
    """A module's part of the page."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in cells(r))} |" for r in rows]
    table = "\n".join(lines)
    return f"## {name}\n\n{about}\n\n{datetime.now(UTC):%Y-%m-%d}, {machine()}.\n\n{table}\n"


def write_sections(new: dict[str, str], page: Path = PAGE) -> None:
    """Replace these modules' sections; the others stay, those of modules that are gone go."""
    old = re.split(r"(?m)^(?=## )", page.read_text(encoding="utf-8"))[1:] if page.is_file() else []
    kept = {part.splitlines()[0].removeprefix("## "): part.rstrip() + "\n" for part in old}
    found = {name: text for name, text in (kept | new).items() if name in modules()}
    page.write_text("\n".join([HEAD, *(found[name] for name in sorted(found))]), encoding="utf-8")


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="Print the modules' names and what they measure; run nothing.")
@click.option("--write/--no-write", default=True, help="Whether docs/benchmarks.md is written.")
def main(names: tuple[str, ...], listing: bool, write: bool) -> None:
    """Run and print."""
    unknown = set(names) - set(modules())
    if unknown:
        raise click.UsageError(f"no bench {sorted(unknown)[0]!r}; there are: {', '.join(modules())}")
    console = Console(width=160)
    for name in names or modules():
        module = importlib.import_module(f"bench.{name}")
        about = (module.__doc__ or "").splitlines()[0]
        if listing:
            console.print(f"{name:14} {about}")
            continue
        if absent := missing(module):
            console.print(f"{name}: left out, {absent} is not installed here (make bench-peers)")
            continue
        if not names and (cost := getattr(module, "BY_HAND", None)):
            console.print(f"{name}: left out, it takes {cost} (python -m bench {name})")
            continue
        table = Table(title=f"{name}: {machine()}")
        for column in COLUMNS:
            table.add_column(column)
        rows = []
        for measure in module.BENCHES:
            rows.append(measure())
            table.add_row(*cells(rows[-1]))
            console.print(f"{rows[-1].name}, against {rows[-1].rival}: {cells(rows[-1])[4]}x")
        console.print(table)
        if write:
            write_sections({name: section(name, about, rows)})


if __name__ == "__main__":
    main()
