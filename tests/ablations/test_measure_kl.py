"""`measure_kl`, the door for plugin authors, against a brute force that shares nothing with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness import measure_kl
from harness.errors import DataError, ModelError
from harness.model.chat import ChatFormat
from harness.model.subject import Subject, load_subject
from harness.records import ModelRef
from harness.testing import tiny_traces
from harness_plugins.ablations.cells import group_cells


def documents(subject: Subject, n: int = 6) -> list[Any]:
    return [subject.chat.document(subject.tokenizer, trace) for trace in tiny_traces(n)]


def test_it_equals_the_brute_force(wide: Subject, brute_force: Any) -> None:
    oracle, texts = brute_force(wide), documents(wide)
    for cell in group_cells(wide.components)[:2]:
        kl = measure_kl(wide, texts, cell.off)
        sums, n_tokens = oracle.response_kl(cell.off)
        # Norms compute in float32 also in a float64 model; everything else is float64.
        assert kl.value == pytest.approx(sums.sum() / n_tokens.sum(), rel=1e-5)
        of_all = measure_kl(wide, texts, cell.off, tokens_of="all").value
        assert of_all == pytest.approx(oracle.kl(cell.off).sum() / sum(len(d.ids) for d in texts), rel=1e-5)
        assert 0 < kl.low < kl.value < kl.high
        assert kl.n == 6


def test_nothing_switched_off_is_0_and_the_seed_decides_the_interval(subject: Subject) -> None:
    texts, layer = documents(subject, 9), [c for c in subject.components if c.layer == 1]
    assert measure_kl(subject, texts, []).value == 0.0
    assert measure_kl(subject, texts, layer, seed=1) == measure_kl(subject, texts, layer, seed=1)
    assert measure_kl(subject, texts, layer, seed=1) != measure_kl(subject, texts, layer, seed=2)


def test_it_refuses_a_model_without_an_adapter_and_an_empty_list(subject: Subject, tiny_base: ModelRef) -> None:
    bare = load_subject(tiny_base, ChatFormat())
    with pytest.raises(ModelError, match="no adapter to switch off"):
        measure_kl(bare, documents(bare), [])
    with pytest.raises(DataError, match="no documents"):
        measure_kl(subject, [], [])
    bare_text = documents(subject)[0]
    prompt_only = replace(bare_text, ids=bare_text.ids[:34], segments=bare_text.segments[:34])
    with pytest.raises(DataError, match="none of the response's tokens"):
        measure_kl(subject, [prompt_only], [])
