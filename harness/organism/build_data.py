"""Writes the organism's data, the same bytes on every run: ``python -m harness.organism.build_data [--out FOLDER]``.

Traces and items are drawn from disjoint splits of the problems (see corpus). The shapes below set the difficulty;
they were chosen on the development items.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Literal

from harness.organism import TRACES
from harness.organism.corpus import Item, draw_items
from harness.organism.problems import TAUGHT, Shape

TRACE_SHAPE = Shape(steps=(2, 4), two=0.2, choice=0.2, noise=0.3, check=0.8, operators=TAUGHT)
"""What is trained: two to four steps, an operator that the base never saw, and most often one step checked."""

BENCHMARK_SHAPES = {
    "organism_chain": Shape(steps=(3, 4), two=0.0, choice=0.0, noise=1.0, operators=TAUGHT),
    "organism_long": Shape(steps=(5, 5), two=0.4, choice=0.0, noise=0.0),
    "organism_choice": Shape(steps=(3, 5), two=0.3, choice=1.0, noise=0.3),
}
"""What is tested: the new operator and noise; chains longer than the trained ones, and two at once; multiple choice."""

MAX_TOKENS = {"organism_chain": 120, "organism_long": 170, "organism_choice": 150}
"""The longest reply that a correct trace needs, and some more."""

COUNT = 200
"""Items per benchmark."""

EvalSplit = Literal["dev", "test"]


def traces(count: int = 1000) -> Iterable[Item]:
    """The training traces."""
    return draw_items(Random("traces"), TRACE_SHAPE, "traces", count, "trace")


def benchmark(name: str, split: EvalSplit) -> Iterable[Item]:
    """The items of one benchmark."""
    return draw_items(Random(f"{name}-{split}"), BENCHMARK_SHAPES[name], split, COUNT, f"{name}-{split}")


def write_rows(path: Path, items: Iterable[Item], *, spans: bool) -> None:
    """One JSON object per line, UTF-8, Unix line ends; with the class spans or without them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [item.row() for item in items]
    if not spans:
        rows = [{key: value for key, value in row.items() if key != "spans"} for row in rows]
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows]
    path.write_bytes("".join(lines).encode())


def build_data(out: Path) -> None:
    """Writes the traces, and each benchmark's test and development items, into ``out``."""
    write_rows(out / "traces.jsonl", traces(), spans=True)
    for name in BENCHMARK_SHAPES:
        write_rows(out / f"{name}.jsonl", benchmark(name, "test"), spans=False)
        write_rows(out / f"{name}.dev.jsonl", benchmark(name, "dev"), spans=False)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TRACES.parent, help="folder to write; the package's own by default")
    build_data(parser.parse_args().out)


if __name__ == "__main__":
    main()
