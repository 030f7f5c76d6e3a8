"""Ablated variants that answer in shared batches: every row of a batch has the gates of its variant.

On a small model a decoding step of ten rows takes as long as one of a hundred. Greedy answers are those that each
variant gives alone, except for rounding. Which variants share a batch does not depend on what is already stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.benchmarks.generation import Completion, Sampling

if TYPE_CHECKING:
    import torch

    from harness.benchmarks.lm import SubjectLM


_BATCHES = 4
"""Most batches that are shared. Beyond that each variant writes alone, as an interruption would lose too much."""


class Together:
    """The answers of several variants of a subject. The first variant that is asked writes for all."""

    def __init__(self, gates: torch.Tensor) -> None:
        """`gates`: what each variant's rows have in place of the tap's gates, [variant, component]."""
        self._gates = gates
        self._written: dict[tuple[str, Sampling, int], list[Completion]] = {}

    def write(
        self, lm: SubjectLM, variant: int, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """A variant's continuations, in the order of the prompts."""
        asked = [(prompt, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        missing = [key for key in dict.fromkeys(asked) if key not in self._written]
        n = len(self._gates)
        if len(missing) * n > _BATCHES * lm.rows_at_once(prompts, sampling):
            return lm.write(prompts, sampling, seeds)
        if missing:
            rows = [(prompt, seed) for prompt, _, seed in missing for _ in range(n)]
            lm.expect(len(rows))
            written = lm.write_gated(
                [p for p, _ in rows], sampling, [s for _, s in rows], self._gates.repeat(len(missing), 1)
            )
            self._written.update({key: written[i * n : (i + 1) * n] for i, key in enumerate(missing)})
        else:
            lm.advance(len(asked))
        return [self._written[key][variant] for key in asked]


class Variant:
    """One of these variants, as a writer."""

    def __init__(self, together: Together, variant: int, lm: SubjectLM) -> None:
        self._together, self._variant, self._lm = together, variant, lm

    def write(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """One continuation per prompt, in order."""
        return self._together.write(self._lm, self._variant, prompts, sampling, seeds)
