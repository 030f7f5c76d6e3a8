"""What a run hands to a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.contract.executors import Executor, LocalExecutor
from harness.contract.progress import Progress, SilentProgress
from harness.contract.provider import CallStore, Provider
from harness.contract.session import Session
from harness.contract.settings import EvaluateConfig

if TYPE_CHECKING:
    import torch

    from harness.records import Trace


@dataclass(frozen=True)
class RunContext:
    """What a run hands to a step.

    Attributes:
        out_dir: the step's folder, which survives interruptions; write nowhere else.
        seed: this step's seed, derived from the run's seed and the step's name.
        device: torch device, e.g. `cpu` or `cuda:0`.
        repeat: index among repetitions of the same work; LLM requests carry it, so that each is answered anew.
        done: items of this step already stored by an attempt that was interrupted; skip them.
        progress: where to report how far the step is.
        calls: journal of LLM calls (interpreters only).
        provider: role (one of `harness.records.ROLES`) -> (provider, model name); interpreters only.
        roles: roles for which the study names an LLM; `default` answers for the others.
        llm: the budget of the run's LLM calls; interpreters only.
        evaluate: how the study runs its benchmarks.
        held_out: traces that no trainer of the study read, where a benchmark asks for them.
        engines: the run's `harness.benchmarks.engine.Engines`, where `evaluate.backend` is vllm.
        executor: where maps over shards run: captures, sweeps, encoding.
    """

    out_dir: Path
    seed: int
    device: str = "cpu"
    repeat: int = 0
    done: frozenset[str] = frozenset()
    progress: Progress = field(default_factory=SilentProgress)
    calls: CallStore | None = None
    provider: Callable[[str], tuple[Provider, str]] | None = None
    evaluate: EvaluateConfig = field(default_factory=lambda: EvaluateConfig())
    roles: frozenset[str] = frozenset()
    llm: Session | None = None
    held_out: tuple[Trace, ...] = ()
    engines: object | None = None
    executor: Executor = field(default_factory=LocalExecutor)

    def generator(self) -> torch.Generator:
        """A CPU generator seeded with this step's seed."""
        import torch

        return torch.Generator().manual_seed(self.seed)
