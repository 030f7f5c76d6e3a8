"""Cross-entropy of responses: that of the model's own full logits in float64, also with components switched off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from harness.errors import DataError
from harness.model import readout
from harness.model.chat import ChatFormat
from harness.model.loss import response_losses
from harness.model.subject import Subject, load_subject
from harness.model.taps import ablate, component_sites, tap
from harness.testing import tiny_adapter, tiny_model, tiny_traces

TRACES = tiny_traces(4)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    base = tiny_model(tmp_path_factory.mktemp("base"))
    return load_subject(base, ChatFormat(), tiny_adapter(base, tmp_path_factory.mktemp("adapter")))


def brute_force(subject: Subject) -> list[float]:
    """Logits of the whole document at once, softmax in float64, tokens of think and answer alone."""
    found = []
    for trace in TRACES:
        document = subject.chat.document(subject.tokenizer, trace)
        with torch.no_grad():
            logits = subject.model(input_ids=torch.tensor([document.ids])).logits[0].double().numpy()
        logs = log_softmax(logits, -1)
        counted = [i for i, segment in enumerate(document.segments) if segment != "prompt"]
        found.append(float(np.mean([-logs[i - 1, document.ids[i]] for i in counted])))
    return found


def test_it_is_the_cross_entropy_of_the_response(adapted: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [loss.nats for loss in response_losses(adapted, TRACES)]
    np.testing.assert_allclose(whole, brute_force(adapted), atol=1e-5)  # float32 logits have 7 digits
    monkeypatch.setattr(readout, "CHUNK_BYTES", 1)  # one position at a time
    np.testing.assert_allclose([loss.nats for loss in response_losses(adapted, TRACES)], whole, atol=1e-5)


def test_switched_off_components_are_off(adapted: Subject) -> None:
    off = adapted.components[::2]
    found = [loss.nats for loss in response_losses(adapted, TRACES, off)]
    with tap(adapted.model, component_sites(adapted.components), ablate(adapted.components, off)):
        expected = brute_force(adapted)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found != [loss.nats for loss in response_losses(adapted, TRACES)]


def test_with_all_components_off_it_is_the_base(adapted: Subject) -> None:
    off = [loss.nats for loss in response_losses(adapted, TRACES, adapted.components)]
    with adapted.model.disable_adapter():
        np.testing.assert_allclose(off, brute_force(adapted), atol=1e-5)


def test_traces_beyond_the_context_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    subject = load_subject(tiny_model(tmp_path), ChatFormat())
    subject.model.config.max_position_embeddings = 200
    long = TRACES[1].model_copy(update={"id": "long", "trace": "word " * 400})
    losses = response_losses(subject, [TRACES[0], long, TRACES[2]])
    assert [loss.index for loss in losses] == [0, 2]
    assert "long" in caplog.text
    with pytest.raises(DataError, match="none of 1 held-out traces fits"):
        response_losses(subject, [long])
