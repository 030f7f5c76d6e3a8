"""Decoding: the greedy answers of a benchmark, against transformers' own generate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

from bench.measure import Ratio, compare
from harness.benchmarks.answerer import InMemory
from harness.benchmarks.evaluate import evaluate
from harness.model.chat import ChatFormat
from harness.model.subject import Subject, load_subject
from harness.organism import MODEL
from harness.records import Checkpoint, EvaluationResult, ModelRef

BENCHMARKS = ("organism_chain", "organism_long", "organism_choice")
"""Those of the demo."""


def answers() -> Ratio:
    """The base model's answers to one benchmark of the demo."""
    return evaluation(None, ("organism_chain",))


def evaluation(adapter: Path | None, benchmarks: Sequence[str] = BENCHMARKS, rounds: int = 5) -> Ratio:
    """An evaluation as a study runs it, with our decoding and with `generate` (which gets end tokens by id).

    Args:
        adapter: folder of an adapter of the organism; None is its base model.
        benchmarks: to be answered in each round.
        rounds: interleaved.
    """
    base, chat = ModelRef(path=str(MODEL)), ChatFormat()
    bare = load_subject(base, chat)
    checkpoint = None
    if adapter is not None:
        checkpoint = Checkpoint(
            kind="adapter", path=adapter, base=base, chat_hash=bare.chat_hash, n_parameters=0, n_examples=0
        )
    subject = bare if checkpoint is None else load_subject(base, chat, checkpoint)

    def by_generate() -> list[EvaluationResult]:
        with patch("harness.benchmarks.lm.supports_greedy", return_value=False):
            return _answers(subject, benchmarks)

    def by_ours() -> list[EvaluationResult]:
        return _answers(subject, benchmarks)

    n, differ = _differences(by_ours, by_generate)
    name = f"evaluation of {'the base' if adapter is None else 'an adapter'}, {len(benchmarks)} benchmarks, {n} items"
    ratio = compare(name, "transformers generate", by_ours, by_generate, rounds=rounds, warm=False)
    return ratio.noting(f"{differ} of {n} answers differ")


def _answers(subject: Subject, benchmarks: Sequence[str]) -> list[EvaluationResult]:
    return [evaluate(InMemory(subject), name, variant="timed") for name in benchmarks]


def _differences(
    ours: Callable[[], list[EvaluationResult]], theirs: Callable[[], list[EvaluationResult]]
) -> tuple[int, int]:
    """Items, and how many answers are not the same text; both ways are warm afterwards."""
    pairs = [
        (mine.response, yours.response)
        for one, other in zip(ours(), theirs(), strict=True)
        for mine, yours in zip(one.samples, other.samples, strict=True)
    ]
    return len(pairs), sum(mine != yours for mine, yours in pairs)


BENCHES = (answers,)
