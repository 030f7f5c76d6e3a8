"""`harness run` from Python: the same plan, keys and database."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.api.results import Results, Run
from harness.contract.session import Session
from harness.errors import HarnessError, UsageError
from harness.render.live import LiveDisplay
from harness.render.outcome import run_and_tell
from harness.render.terminal import make_console
from harness.store.writer import Store
from harness.study.display import Display, Quiet
from harness.study.manager import Manager
from harness.study.plan import make_plan
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry
from harness.study.runner import Runner


def run(
    study: str = "rank1-lora",
    preset: str | None = None,
    set: Mapping[str, Any] | None = None,
    provider: str | Sequence[str] = (),
    *,
    only: Sequence[str] = (),
    seed: int = 0,
    db: str | Path = "results.db",
    artifacts: str | Path = "artifacts",
    device: str = "auto",
    max_cost_usd: float | None = None,
    progress: bool | None = None,
) -> Run:
    """Run a study, or one plugin with what it needs. Steps that are done are skipped; an interrupted run goes on.

    Args:
        study: a study or plugin of the registry.
        preset: one of the study's.
        set: `{"rank1-lora.rank": 4}`: what `--set rank1-lora.rank=4` sets.
        provider: the LLM, `NAME:MODEL` or several of `ROLE=NAME:MODEL`.
        only: stages, with what they need.
        seed: of the run.
        db: SQLite file or SQLAlchemy URL; made if it is not there.
        artifacts: folder of checkpoints, activations and dictionaries.
        device: torch device; `auto` is the first GPU, else the CPU.
        max_cost_usd: budget of the LLM calls.
        progress: draw it; on a terminal if not given. Without it nothing is printed.

    Returns:
        The run, with its tables.

    Raises:
        HarnessError: something would fail (nothing was begun), or a step failed; what is stored stays.
    """
    registry = read_registry(find_registry(None))
    manager = Manager(registry)
    settings: dict[str, dict[str, Any]] = {}
    for key, value in (set or {}).items():
        name, dot, field = key.rpartition(".")
        if not (dot and name and field):
            raise UsageError(f"set={{{key!r}: ...}}: a key is NAME.KEY, for example rank1-lora.epochs")
        settings.setdefault(name, {})[field] = value
    providers = (provider,) if isinstance(provider, str) else tuple(provider)
    plan = make_plan(
        registry, manager, study, preset=preset, settings=settings, seed=seed, only=only, provider=providers
    )
    session = Session(max_cost_usd=max_cost_usd)
    shown = sys.stderr.isatty() if progress is None else progress
    console = make_console(stderr=True)
    display: Display = LiveDisplay(console, session) if shown else Quiet()
    with Store.open(str(db)) as store:
        runner = Runner(plan, manager, store, Path(artifacts), device=device, display=display, llm=session)
        if isinstance(display, LiveDisplay):
            summary = run_and_tell(runner, display, console)
        else:
            runner.check()
            summary = runner.run()
    left = {**summary.failed, **({} if summary.waiting else summary.unfinished)}  # a batch may be waited for
    if left:
        step, why = next(iter(left.items()))
        raise HarnessError(
            f"run {summary.run_id}: {step} is not done: {why} ({len(left)} of its steps; the rest is stored)"
        )
    return Results(str(db), Path(artifacts)).run(summary.run_id)
