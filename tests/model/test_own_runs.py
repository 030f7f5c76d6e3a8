"""The adapter's own runs: made once for all dictionaries, with the KLs of whole logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.contract.context import RunContext
from harness.dictionaries.effects import latent_effects
from harness.model import own_runs
from harness.model.own_runs import OwnRuns
from harness.model.splice import splice_kl
from harness.model.subject import Subject
from harness.testing import tiny_traces
from tests.model.test_splice import Scale

RUN = RunContext(out_dir=Path("unused"), seed=0)


@pytest.fixture
def passes(tiny_subject: Subject) -> list[int]:
    """Rows of every forward pass of more than the few tokens that check the output matrix."""
    rows: list[int] = []
    embedding = tiny_subject.model.get_input_embeddings()
    embedding.register_forward_hook(lambda _, args, __: rows.append(len(args[0])) if args[0].shape[1] > 8 else None)
    return rows


def _judge(subject: Subject | OwnRuns, factor: float, documents: Any) -> tuple[np.ndarray, ...]:
    sums = splice_kl(subject, documents, Scale(factor), RUN)
    n = len((subject.subject if isinstance(subject, OwnRuns) else subject).components)
    effects = latent_effects(subject, documents, Scale(factor), [0, 3], np.eye(n, dtype=np.float32), RUN)
    return sums.splice_nats, sums.base_nats, effects.nats


def test_the_second_dictionary_runs_its_own_passes_alone(tiny_subject: Subject, passes: list[int]) -> None:
    documents = [tiny_subject.chat.document(tiny_subject.tokenizer, t) for t in tiny_traces(3)]
    alone = _judge(tiny_subject, 0.5, documents)
    runs = OwnRuns(tiny_subject)
    passes.clear()
    _judge(runs, 0.9, documents)
    first = len(passes)
    passes.clear()
    again = _judge(runs, 0.5, documents)
    assert first - len(passes) == 2, "the adapter and the base, on one batch"
    for mine, shared in zip(alone, again, strict=True):
        np.testing.assert_array_equal(mine, shared)


def test_no_more_runs_are_kept_than_memory_is_granted(
    tiny_subject: Subject, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [tiny_subject.chat.document(tiny_subject.tokenizer, t) for t in tiny_traces(3)]
    monkeypatch.setattr(own_runs, "MOST_BYTES", 0)
    runs = OwnRuns(tiny_subject)
    for _ in range(2):
        passes.clear()
        splice_kl(runs, documents, Scale(0.5), RUN)
        assert len(passes) == 3


def test_hidden_states_give_the_kl_of_the_logits(tiny_subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose logits are not linear in its hidden states is read by its logits: here both ways of one model.

    Differences of float32 logits round at 1e-6 of a logit, which is 1e-4 of these KLs.
    """
    documents = [tiny_subject.chat.document(tiny_subject.tokenizer, t) for t in tiny_traces(3)]
    hidden = _judge(tiny_subject, 0.5, documents)

    def refuse(*_: object) -> Any:
        raise own_runs.ModelError("caps its logits")

    monkeypatch.setattr(own_runs, "Readout", refuse)
    whole = OwnRuns(tiny_subject)
    assert whole.of(documents).full.shape[-1] == tiny_subject.model.get_output_embeddings().weight.shape[0]
    for mine, other in zip(hidden, _judge(whole, 0.5, documents), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-9)
    assert torch.is_grad_enabled()
