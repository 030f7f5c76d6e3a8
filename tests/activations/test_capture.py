"""Capture: the tap's numbers, whatever the batches; interrupted or not, the same bytes."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.activations.capture import as_decoded, capture, prepare
from harness.activations.store import ActivationWriter, open_set
from harness.errors import DataError
from harness.model.batching import find_backbone, length_batches
from harness.model.subject import Subject
from harness.model.taps import component_sites, tap
from harness.records import ActivationSet, Trace
from harness.stages import RunContext
from harness.testing import tiny_traces


class Interrupted(Exception):
    """Stands for a kill."""


class Progress:
    """Counts what is reported; may interrupt."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.total: int | None = None
        self.done = 0
        self.stop_after = stop_after

    def start(self, total: int | None, unit: str) -> None:
        assert unit == "documents"
        self.total = total

    def advance(self, n: int = 1) -> None:
        self.done += n
        if self.stop_after is not None and self.done >= self.stop_after:
            raise Interrupted


def writer(subject: Subject, folder: Path, **settings: object) -> ActivationWriter:
    found = subject.components
    values = {
        "layers": tuple(c.layer for c in found), "projections": tuple(c.projection for c in found), "signed": True,
        "site": "s", "chat_hash": subject.chat_hash, "dtype": "float32", **settings,
    }  # fmt: skip
    return ActivationWriter(folder, "adapter-activations", tuple(c.name for c in found), **values)  # type: ignore[arg-type]


def run_capture(
    subject: Subject, folder: Path, traces: list[Trace], *, progress: Progress | None = None, batch_tokens: int = 400
) -> ActivationSet:
    run = RunContext(out_dir=folder, seed=0, progress=progress or Progress())
    store = writer(subject, folder, shard_tokens=300)
    sites = component_sites(subject.components)
    return capture(subject, traces, sites, store, run, adapter_on=True, batch_tokens=batch_tokens)


def test_a_document_reads_the_same_alone_as_in_a_padded_batch(tiny_subject: Subject, tmp_path: Path) -> None:
    stored = open_set(run_capture(tiny_subject, tmp_path, tiny_traces(6)))
    for trace in tiny_traces(6):
        document = tiny_subject.chat.document(tiny_subject.tokenizer, trace)
        with tap(tiny_subject.model, component_sites(tiny_subject.components)) as reading, torch.no_grad():
            tiny_subject.model(torch.tensor([document.ids]), use_cache=False)
        # Batches change the order of float32 sums in a matrix product: a few units in the last place.
        np.testing.assert_allclose(stored.document(trace.id).values, reading.values()[0], rtol=1e-4, atol=1e-5)


def test_the_order_of_documents_is_kept(tiny_subject: Subject, tmp_path: Path) -> None:
    traces = tiny_traces(8)
    assert open_set(run_capture(tiny_subject, tmp_path, traces)).document_ids == tuple(t.id for t in traces)


def test_an_interrupted_capture_ends_with_the_same_bytes(tiny_subject: Subject, tmp_path: Path) -> None:
    traces = tiny_traces(10)
    run_capture(tiny_subject, tmp_path / "whole", traces)
    with pytest.raises(Interrupted):
        run_capture(tiny_subject, tmp_path / "twice", traces, progress=Progress(stop_after=6))
    assert list((tmp_path / "twice").glob("shard-*.json"))
    progress = Progress()
    run_capture(tiny_subject, tmp_path / "twice", traces, progress=progress)
    assert (progress.total, progress.done) == (10, 10)
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "twice" / file.name).read_bytes(), file.name


def test_other_documents_do_not_continue_a_capture(tiny_subject: Subject, tmp_path: Path) -> None:
    run_capture(tiny_subject, tmp_path, tiny_traces(6))
    with pytest.raises(DataError, match="other documents"):
        run_capture(tiny_subject, tmp_path, tiny_traces(6)[::-1])


def test_no_traces_are_refused(tiny_subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no trace"):
        run_capture(tiny_subject, tmp_path, [])


def test_a_document_beyond_the_context_is_cut_and_counted(
    tiny_subject: Subject, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = tiny_traces(3)
    monkeypatch.setattr(tiny_subject.model.config, "max_position_embeddings", 90)
    record = run_capture(tiny_subject, tmp_path, [*traces, replace_trace(traces[0], "long")])
    stored = open_set(record)
    assert (
        stored.manifest.n_split
        == sum(len(tiny_subject.chat.document(tiny_subject.tokenizer, t).ids) > 90 for t in traces) + 1
    )
    long = stored.document("long")
    assert len(long.ids) <= 90
    assert tiny_subject.tokenizer.decode(long.ids.tolist()) == long.text
    assert "longer than the model's context" in caplog.text


def replace_trace(trace: Trace, name: str) -> Trace:
    return trace.model_copy(update={"id": name, "trace": trace.trace + " 你好→" * 30})


def test_decomposed_characters_are_stored_as_the_tokenizer_decodes_them(tiny_subject: Subject) -> None:
    trace = Trace(id="t", question="cafe\u0301?", trace="e\u0301 × 2", answer="é")
    plain = tiny_subject.chat.document(tiny_subject.tokenizer, trace)
    document = prepare(tiny_subject, trace).document
    assert document.ids == plain.ids
    assert document.segments == plain.segments
    assert document.text == unicodedata.normalize("NFC", plain.text) == tiny_subject.tokenizer.decode(document.ids)
    assert as_decoded(document, tiny_subject.tokenizer) is document
    other = replace(plain, ids=(*plain.ids, 1))
    assert as_decoded(other, tiny_subject.tokenizer) is other


def test_the_head_is_not_run(tiny_subject: Subject, tmp_path: Path) -> None:
    head = tiny_subject.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *_: pytest.fail("the head was run"))
    try:
        run_capture(tiny_subject, tmp_path, tiny_traces(2))
    finally:
        handle.remove()
    assert find_backbone(torch.nn.Linear(1, 1)).__class__ is torch.nn.Linear


def test_batches_hold_their_padding_and_every_document_once() -> None:
    lengths = [5, 90, 7, 30, 31, 200]
    batches = list(length_batches(lengths, 100))
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert all(len(b) == 1 or max(lengths[i] for i in b) * len(b) <= 100 for b in batches)
