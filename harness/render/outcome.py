"""What `harness run` says while runs end, of one seed or of several."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from harness.errors import HarnessError, Waiting
from harness.render.live import LiveDisplay
from harness.render.plan import in_all
from harness.study.display import RunSummary
from harness.study.runner import Runner
from harness.study.steps import estimate


def run_and_tell(runner: Runner, display: LiveDisplay, console: Console) -> RunSummary:
    """Run a plan and say how it went.

    Raises:
        HarnessError: something would fail, or failed; what is stored stays.
    """
    runner.check()
    if not runner.pending():
        summary = runner.run()
        done = f"everything is done: {summary.n_steps} steps in {runner.store.name} (see: harness report)"
        console.print(done, markup=False)
        return summary
    costs = estimate(runner.plan)
    to_do = [costs[name] for name in runner.pending()]
    if not any(cost.unknown for cost in to_do):
        console.print(in_all(to_do, runner.machine()), markup=False, highlight=False, soft_wrap=True)
    with display:
        summary = runner.run()
    n_done = summary.n_steps - summary.n_reused - len(summary.unfinished) - len(summary.failed)
    console.print(
        f"run {summary.run_id}: {n_done} steps done, {summary.n_reused} reused, {summary.wall_s:.0f} s "
        "(see: harness report)",
        markup=False,
    )
    for name, why in summary.failed.items():
        console.print(f"  failed: {name}: {why}", markup=False, highlight=False, soft_wrap=True)
    for name, why in summary.unfinished.items():
        console.print(f"  not done: {name}: {why}", markup=False, highlight=False)
    return summary


def finish(runs: Mapping[int, RunSummary], failed: Mapping[int, str], console: Console) -> int:
    """Say how the seeds went where there are several; the exit code of the command.

    Args:
        runs: seed -> summary of its run.
        failed: seed -> why it failed.
        console: where to.
    """
    ids = ",".join(str(run.run_id) for run in runs.values())
    if len(runs) > 1:
        console.print(f"{len(runs)} seeds in runs {ids} (see: harness report --across {ids})", markup=False)
    for seed, why in failed.items():
        console.print(f"seed {seed} failed: {why}", markup=False, highlight=False, soft_wrap=True)
    unfinished = [run for run in runs.values() if run.unfinished]
    if failed or any(run.failed for run in runs.values()) or any(not run.waiting for run in unfinished):
        return HarnessError.exit_code
    return Waiting.exit_code if unfinished else 0
