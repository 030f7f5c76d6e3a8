"""The training examples of a study: cut once for all of its trainers, and looked at before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.model.traces import load_traces, resolve
from harness.records import Trace
from harness.study.sizes import model_size
from harness.study.step import Plan

if TYPE_CHECKING:
    from harness.study.study_config import StudyConfig

_log = logging.getLogger(__name__)


def with_cut_length(study: StudyConfig, max_lengths: Sequence[int]) -> StudyConfig:
    """The study with `data.cut=paragraphs` written out: to the smallest max_length of its trainers and the context."""
    size = model_size(study.model.path, resolve(study.model.path))
    limits = [*max_lengths, *([size.context] if size and size.context else [])]
    return study.model_copy(update={"data": study.data.model_copy(update={"cut": f"paragraphs:{min(limits)}"})})


def study_traces(plan: Plan) -> list[Trace]:
    """The study's traces, cut where `data.cut` says so; the share of tokens that stayed is logged.

    Raises:
        DataError: see `load_traces` and `cut_traces`.
    """
    study = plan.study
    traces = load_traces(study.data)
    if study.data.cut_tokens is None:
        return traces
    from harness.model.cut import cut_traces
    from harness.model.subject import load_tokenizer

    cut = cut_traces(traces, study.chat, load_tokenizer(study.model), study.data.cut_tokens)
    _log.warning(
        "data.cut=%s: %d of %d traces were cut at paragraphs, %d are too long however they are cut and left out; "
        "%.1f %% of the tokens stay (%d of %d)",
        study.data.cut, cut.n_cut, len(traces), cut.n_too_long, 100 * cut.kept_share, cut.n_tokens, cut.n_tokens_before,
    )  # fmt: skip
    return list(cut.traces)


def check_examples(plan: Plan, pending: Sequence[str], traces: Sequence[Trace]) -> None:
    """Before training: marks that are no single tokens are named, and no trainer leaves out most of the examples.

    Raises:
        DataError: more than half of the examples are longer than a trainer's max_length.
        ModelError: the tokenizer cannot write the study's format.
    """
    limits = [
        config["max_length"] for step in plan.steps
        if step.kind == "train" and step.name in pending and "max_length" in (config := step.config.model_dump())
    ]  # fmt: skip
    if not limits:
        return
    from harness.model.cut import refuse_most_left_out
    from harness.model.marks import no_single_tokens
    from harness.model.subject import load_tokenizer

    tokenizer = load_tokenizer(plan.study.model)
    chat = plan.study.chat.resolved(tokenizer)
    if sentence := no_single_tokens(tokenizer, chat.marks(tokenizer)):
        _log.warning(sentence)
    lengths = [len(chat.document(tokenizer, trace).ids) for trace in traces]
    for limit in limits:
        refuse_most_left_out(sum(n > limit for n in lengths), len(lengths), limit)
