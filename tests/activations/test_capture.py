"""Capture: the tap's numbers, whatever the batches; interrupted or not, the same bytes."""

from __future__ import annotations

import tracemalloc
import unicodedata
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.activations.capture import as_decoded, capture, prepare
from harness.activations.parts import trace_id
from harness.activations.store import ActivationWriter, open_set
from harness.contract.context import RunContext
from harness.errors import DataError, HarnessError
from harness.model.batching import find_backbone, length_batches
from harness.model.chat import ChatFormat
from harness.model.in_place import InPlace
from harness.model.subject import Subject, load_subject
from harness.model.taps import ablate, component_sites, tap
from harness.records import ActivationSet, ModelRef, Trace
from harness.testing import tiny_adapter, tiny_traces


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


def test_a_document_beyond_the_context_is_split_counted_and_reported(
    tiny_subject: Subject, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_subject.model.config, "max_position_embeddings", 120)
    short = Trace(id="short", question="?", trace="1", answer="1")
    long = replace_trace(tiny_traces(1)[0], "long")
    stored = open_set(run_capture(tiny_subject, tmp_path, [short, long]))
    whole = tiny_subject.chat.document(tiny_subject.tokenizer, long)
    n = -(-len(whole.ids) // 120)
    assert stored.document_ids[:3] == ("short", "long", "long/part2")
    assert len(stored.document_ids) >= 1 + n
    assert stored.set.n_split == 1
    parts = [stored.document(d) for d in stored.document_ids[1:]]
    assert max(len(p.ids) for p in parts) <= 120
    assert [i for p in parts for i in p.ids.tolist()] == list(whole.ids)
    assert [s for p in parts for s in p.document().segments] == list(whole.segments)
    assert "".join(p.text for p in parts) == whole.text
    for part in parts:
        assert tiny_subject.tokenizer.decode(part.ids.tolist()) == part.text
        assert (part.offsets[0, 0], part.offsets[-1, 1]) == (0, len(part.text))
        assert "".join(stored.tokens(part.id)) == part.text
        assert not part.ranked[0]
        # Each part is a context of its own.
        with tap(tiny_subject.model, component_sites(tiny_subject.components)) as reading, torch.no_grad():
            tiny_subject.model(torch.tensor([part.ids.tolist()]), use_cache=False)
        np.testing.assert_allclose(part.values, reading.values()[0], rtol=1e-4, atol=1e-5)
    assert f"1 of 2 documents are longer than the model's context (120 tokens) and were read in {len(parts)} parts" in (
        caplog.text
    )


def test_a_capture_that_stops_within_a_split_document_ends_with_the_same_bytes(
    tiny_subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_subject.model.config, "max_position_embeddings", 50)
    traces = [replace_trace(t, t.id) for t in tiny_traces(4)]
    run_capture(tiny_subject, tmp_path / "whole", traces)
    for stop in range(1, 4):
        folder = tmp_path / str(stop)
        with pytest.raises(Interrupted):
            run_capture(tiny_subject, folder, traces, progress=Progress(stop_after=stop))
        progress = Progress()
        run_capture(tiny_subject, folder, traces, progress=progress)
        assert progress.done == 4
        for file in (tmp_path / "whole").iterdir():
            assert file.read_bytes() == (folder / file.name).read_bytes(), file.name


def test_parts_of_a_trace_are_held_out_together(
    tiny_subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_subject.model.config, "max_position_embeddings", 60)
    split = open_set(run_capture(tiny_subject, tmp_path, tiny_traces(12))).split(0.3)
    assert any("/part" in d for d in split.held_out)
    assert not {trace_id(d) for d in split.held_out} & {trace_id(d) for d in split.train}


def test_peak_memory_does_not_grow_with_the_documents(tiny_subject: Subject, tmp_path: Path) -> None:
    def peak(n: int) -> int:
        traces = [t.model_copy(update={"id": f"d{i}"}) for i, t in enumerate(tiny_traces(8) * n)]
        tracemalloc.start()
        run_capture(tiny_subject, tmp_path / str(n), traces, batch_tokens=300)
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    peak(1)  # what is imported on first use
    small, large = peak(2), peak(12)
    # 6 times the documents: what may grow is the manifest, about 2 kB per shard.
    assert large < small + 0.25 * small
    assert open_set(tmp_path / "12").set.n_tokens == 6 * open_set(tmp_path / "2").set.n_tokens


def test_activations_that_are_not_finite_name_document_and_component(tiny_subject: Subject, tmp_path: Path) -> None:
    traces = tiny_traces(3)
    component = tiny_subject.components[-1]
    lora = tiny_subject.model.get_submodule(f"{component.module}.lora_A.default")
    kept = lora.weight.data.clone()
    try:
        lora.weight.data[0, 0] = float("nan")
        with pytest.raises(HarnessError, match=rf"'t0', token 0, column '{component.name}'.*nan"):
            run_capture(tiny_subject, tmp_path, traces)
    finally:
        lora.weight.data = kept


@pytest.mark.parametrize("rank", [1, 3])
def test_the_in_place_path_reads_the_same_numbers_and_leaves_the_model_as_it_was(
    tiny_base: ModelRef, tmp_path: Path, rank: int
) -> None:
    subject = load_subject(tiny_base, ChatFormat(), tiny_adapter(tiny_base, tmp_path / "a", rank=rank))
    sites = component_sites(subject.components)
    document = subject.chat.document(subject.tokenizer, tiny_traces(1)[0])
    found = []
    for path in (nullcontext(), InPlace(subject.model, subject.components), nullcontext()):
        with path, tap(subject.model, sites) as reading, torch.no_grad():
            logits = subject.model(torch.tensor([document.ids]), use_cache=False).logits
        found.append((reading.values(), logits))
    for a, b in zip(found[0], found[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)  # another order of float32 sums
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[2], strict=True))
    off = ablate(subject.components, subject.components)
    with InPlace(subject.model, subject.components), tap(subject.model, sites, off), torch.no_grad():
        ablated = subject.model(torch.tensor([document.ids]), use_cache=False).logits
    with subject.model.disable_adapter(), torch.no_grad():
        base = subject.model(torch.tensor([document.ids]), use_cache=False).logits
    assert torch.equal(ablated, base)


def replace_trace(trace: Trace, name: str) -> Trace:
    return trace.model_copy(update={"id": name, "trace": trace.trace + " 你好→" * 30})


def test_decomposed_characters_are_stored_as_the_tokenizer_decodes_them(tiny_subject: Subject) -> None:
    trace = Trace(id="t", question="cafe\u0301?", trace="e\u0301 × 2", answer="é")
    plain = tiny_subject.chat.document(tiny_subject.tokenizer, trace)
    (part,) = prepare(tiny_subject, trace)
    document = part.document
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
