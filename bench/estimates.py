"""Compare what a plan says of a finished run with what it took: python -m bench.estimates results.db [RUN]."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from harness.cli import run as run_command
from harness.store.readonly import ask
from harness.study.machine import Machine
from harness.study.manager import Manager
from harness.study.plan import make_plan, parse_settings
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry
from harness.study.step import Plan
from harness.study.steps import estimate
from harness.study.worker_process import jobs_for


def planned(argv: str) -> tuple[Plan, int]:
    """The plan of a stored command line `harness run ...`, and its number of processes."""
    words = argv.split()
    options = run_command.make_context("run", words[words.index("run") + 1 :], resilient_parsing=True).params
    registry = read_registry(find_registry(None))
    plan = make_plan(
        registry, Manager(registry), options["target"], preset=options["preset"],
        settings=parse_settings(options["pairs"]), seed=options["seed"], provider=options["provider"],
    )  # fmt: skip
    return plan, options["jobs"] or jobs_for(plan, "cpu")


@click.command(help=__doc__)
@click.argument("database", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("run", type=int, default=1)
def main(database: Path, run: int) -> None:
    """Steps of ten seconds or more, and all of them."""
    plan, jobs = planned(str(ask(database, f"SELECT argv FROM study_run WHERE id = {run:d}").rows[0][0]))
    took = dict(
        ask(
            database,
            "SELECT name, wall_s FROM step JOIN run_step ON step_id = step.id "
            f"WHERE run_id = {run:d} AND status = 'done' AND NOT reused",
        ).rows
    )
    machine = Machine.measured("cpu", plan.study.model.dtype, jobs)
    said = {n: machine.seconds(c.cpu_flops, c.other_s, c.gpu_h) for n, c in estimate(plan).items() if n in took}
    table = Table("step", "planned s", "wall s", "ratio")
    shown = [n for n in said if max(said[n], took[n]) >= 10]
    rows = [(n, said[n], took[n]) for n in shown] + [("all", sum(said.values()), sum(took.values()))]
    for name, planned_s, wall_s in rows:
        table.add_row(name, f"{planned_s:.1f}", f"{wall_s:.1f}", f"{planned_s / wall_s:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
