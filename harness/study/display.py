"""Where a person watches a run, and the run's summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from harness.contract.progress import Progress, SilentProgress


class Display(Protocol):
    """Where a person watches a run."""

    def begin(self, step: str, position: int, total: int) -> Progress:
        """A step begins; returns where it reports its progress."""
        ...

    def end(self, step: str, status: str, wall_s: float) -> None:
        """A step ended as `done`, `reused`, `failed`, `interrupted`, `incomplete` or `waiting`, or was `held` up."""
        ...

    def note(self, text: str) -> None:
        """Say a sentence."""
        ...


class Quiet:
    """A display that shows nothing."""

    def begin(self, step: str, position: int, total: int) -> Progress:
        """Show nothing."""
        return SilentProgress()

    def end(self, step: str, status: str, wall_s: float) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


@dataclass(frozen=True)
class RunSummary:
    """How a run went.

    Attributes:
        run_id: its row.
        n_steps: steps of the plan.
        n_reused: of them, done before.
        wall_s: wall time in seconds.
        unfinished: step -> why it is not done: LLM calls failed or are in a batch, or it needs such a step.
        waiting: whether one of them waits for a batch.
        failed: step -> why it failed, of those that the others did not need.
    """

    run_id: int
    n_steps: int
    n_reused: int
    wall_s: float
    unfinished: Mapping[str, str] = field(default_factory=dict)
    waiting: bool = False
    failed: Mapping[str, str] = field(default_factory=dict)
