"""What a run hands to a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from harness.contract.executors import Executor, LocalExecutor
from harness.contract.progress import Progress, SilentProgress
from harness.contract.provider import CallStore, Provider
from harness.contract.session import Session
from harness.contract.settings import EvaluateConfig
from harness.errors import UsageError
from harness.records.base import Record

if TYPE_CHECKING:
    import torch

    from harness.contract.codec import Codec
    from harness.records import Dictionary, Trace

R = TypeVar("R", bound=Record)


class RecordsOf(Protocol):
    """Reads what earlier steps stored."""

    def __call__(self, record_class: type[R]) -> list[R]:
        """All records of a class, in the plan's order; none where no step made one."""
        ...


def _no_records(record_class: type[R]) -> list[R]:
    return []


def _no_codec(dictionary: Dictionary) -> Codec:
    raise UsageError(f"no step handed over the dictionary {dictionary.name!r}: add 'learn' to the plugin's `reads`")


@dataclass(frozen=True)
class Made:
    """What earlier steps of the study made, for a plugin that asks for it (`Registration.reads`).

    Attributes:
        records: `made.records(LatentEffect)` is every record of that class.
        codec: opens one of `made.records(Dictionary)`. It encodes and decodes the adapter's own scalars, also where the
            dictionary was fitted on columns of another unit.
    """

    records: RecordsOf = _no_records
    codec: Callable[[Dictionary], Codec] = _no_codec


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
        made: what earlier steps made, of the kinds that an ablation asks for (`Registration.reads`).
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
    made: Made = field(default_factory=Made)

    def generator(self) -> torch.Generator:
        """A CPU generator seeded with this step's seed."""
        import torch

        return torch.Generator().manual_seed(self.seed)
