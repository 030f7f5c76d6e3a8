"""Records of benchmarks: answers, scores, and an LLM's verdicts on answers."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt

from harness.records.base import Part, Record

Unit = Literal["share", "nats"]
"""Of a benchmark's scores."""


class Sample(Part):
    """One benchmark item as answered by one model."""

    UNIQUE = ("doc_id", "repeat")

    doc_id: NonNegativeInt
    """Row of the benchmark. It is the same for every model, so paired tests pair by it."""
    repeat: NonNegativeInt = 0
    """Index among repeated generations."""
    prompt: str
    """What the model was given."""
    prompt_hash: str
    """sha256 of the prompt."""
    response: str
    """What it generated."""
    extracted: str | None
    """The answer found in the response; None if there is none (counted as wrong)."""
    target: str
    """The gold answer."""
    score: float
    """1 correct, 0 wrong; of a loss, nats per token of this document."""
    score_flexible: float | None = None
    """The same answer graded by lm-eval's `flexible-extract` (the last number); None where the task has no such
    filter."""
    finish: Literal["stop", "length"] | None = None
    """`length`: the token limit cut the answer; None where nothing was generated (multiple choice by likelihood)."""
    n_tokens: NonNegativeInt | None = None
    """Tokens written, or read for a loss; None for multiple choice by likelihood."""
    loops: bool = False
    """Whether the answer ends in a loop: the same text again and again."""


class EvaluationResult(Record):
    """One model variant on one benchmark."""

    TABLE = "evaluation"
    IDENTITY = ("variant", "benchmark")
    INDEXES = (("benchmark", "variant"),)

    item: str
    """Name within the step: `variant/benchmark`."""
    variant: str
    """`base`, `adapter`, `full`, or an ablated adapter such as `without-attention`."""
    benchmark: str
    """Task name."""
    metric: str | None = None
    """The task's metric that scores an item; None where whoever evaluated did not say."""
    n_items: NonNegativeInt
    """Items of the benchmark that were run, failures included."""
    unit: Unit = "share"
    """What a score is: a `share` (0 to 1, higher is better), or `nats` per token (lower is better)."""
    score: float
    """Mean score over items."""
    samples: tuple[Sample, ...]
    """Every item."""
    chat_hash: str
    """Hash of the ChatFormat that rendered the prompts."""
    engine: str
    """What generated: backend, version and dtype. Scores of different engines are not compared silently."""
    n_bound: NonNegativeInt | None = None
    """Adapter modules that were bound (None without an adapter)."""


GRADER = "grader"
"""The role of the LLM that compares benchmark answers with the gold ones."""


VerdictStatus = Literal["answered", "unparsed", "failed", "orders-disagree"]
"""`unparsed`: a reply could not be read; `failed`: there was no reply; `orders-disagree`: the verdict depended on which
answer was shown first."""


class AnswerVerdict(Record):
    """An LLM's verdict on whether a benchmark answer equals the gold one."""

    item: str
    """`benchmark/document/repeat`."""
    variant: str
    """The model that answered."""
    benchmark: str
    """Task name."""
    doc_id: NonNegativeInt
    """Row of the benchmark."""
    repeat: NonNegativeInt
    """Index among repeated answers."""
    grader: str
    """`provider:model` that was asked."""
    compared: str
    """The answer that it compared with the gold one."""
    score_rules: float
    """The rules' score: 1 correct, 0 wrong."""
    equal_gold_first: bool | None
    """Its verdict with the gold answer shown first; None where that order was not asked, or with a reason."""
    equal_gold_last: bool | None
    """Its verdict with the gold answer shown last; None where that order was not asked, or with a reason."""
    equal: bool | None
    """Its verdict in all; None with a reason, and then the rules' score counts."""
    status: VerdictStatus
    """How the comparison ended."""
    reason: str
    """Its justification, or why there is no verdict."""
