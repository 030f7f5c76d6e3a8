"""What `write-directions` says, against finite differences, weights multiplied out and planted directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.contract.context import Made, RunContext
from harness.contract.progress import SilentProgress
from harness.model.components import directions
from harness.model.lens import Lens
from harness.model.subject import Subject
from harness.model.taps import Site, tap
from harness.records import Dictionary, WriteDirection
from harness.testing import Architecture, tiny_traces
from harness_plugins.ablations.config import KLConfig
from harness_plugins.ablations.documents import read_texts
from harness_plugins.ablations.write_directions import WriteDirectionsConfig
from harness_plugins.ablations.write_directions.ablation import WriteDirections, Writes, decoder_rows
from harness_plugins.ablations.write_directions.effect import (
    AddBias,
    effects,
    frequent_tokens,
    half_widths,
    mean_gradients,
)
from tests.ablations.conftest import make_subject

TRACES = tiny_traces(6)


class Linear:
    """Two latents over all components: the first is component 3 doubled, the second 3 and 6."""

    def __init__(self, n: int) -> None:
        self.rows = torch.zeros(2, n)
        self.rows[0, 3], self.rows[1, 3], self.rows[1, 6] = 2, 1, -1

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.rows + 0.5


def measure(subject: Subject, folder: Path, *, done: frozenset[str] = frozenset(), latents: bool = False) -> list[Any]:
    made = Made()
    if latents:
        columns = tuple(c.name for c in subject.components)
        dictionary = Dictionary(name="d", path=folder, columns=columns, n_latents=2, k=1, signed=False)
        other = Dictionary(name="other", path=folder, columns=("random0",), n_latents=2, k=1)
        made = Made(
            records=lambda kind: [dictionary, other] if kind is Dictionary else [],  # type: ignore[arg-type,return-value]
            codec=lambda _: Linear(len(columns)),  # type: ignore[arg-type,return-value]
        )
    plugin = WriteDirections(WriteDirectionsConfig(n_documents=3, effect_tokens=4, n_null=39))
    return list(plugin.measure(subject, TRACES, RunContext(folder, seed=1, done=done, made=made)))


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_the_mean_effect_is_the_finite_difference_of_steering(tmp_path: Path, architecture: Architecture) -> None:
    """In float64 but for Qwen's norms, which round to float32: 1e-7 over the step is the error that is allowed."""
    subject = make_subject(tmp_path, architecture)
    subject.model.double()
    texts = read_texts(subject, TRACES, KLConfig(n_documents=3), torch.Generator().manual_seed(0))
    tokens = frequent_tokens(texts, 3)
    writes = Writes(subject)
    modules = [c.module for c in writes.components]
    found = mean_gradients(subject, modules, writes.written, texts, tokens, SilentProgress())
    measured = effects(found, modules, writes.written)

    def mean_log_probability(i: int, dose: float) -> torch.Tensor:
        site = Site(modules[i], "output", len(writes.written[i]))
        sums, n = torch.zeros(len(tokens), dtype=torch.float64), 0
        for batch in texts.batches:
            with torch.no_grad(), tap(subject.model, [site], AddBias(dose * writes.written[i].double()), read=False):
                logits = subject.model(**batch.inputs).logits
            log_p = logits.log_softmax(-1)[batch.headline]
            sums += log_p[:, list(tokens)].sum(0)
            n += len(log_p)
        assert n == found.n_tokens
        return sums / n

    step = 1e-3
    for i in (0, 3, len(modules) - 1):
        expected = (mean_log_probability(i, step) - mean_log_probability(i, -step)) / (2 * step)
        torch.testing.assert_close(measured[i].double(), expected, rtol=1e-3, atol=1e-4)
    of_all = found.by_document.sum(0) / found.document_tokens.sum()
    torch.testing.assert_close(of_all, measured, rtol=1e-4, atol=1e-6)  # float32 sums of the same gradients


def test_the_interval_of_documents_of_one_length_is_students_of_their_means() -> None:
    means = torch.tensor([0.1, 0.4, -0.2, 0.3])
    half = half_widths(50 * means, torch.full((4,), 50.0))
    # 3.1824 is t(0.975) at 3 degrees of freedom; a document without tokens says nothing
    torch.testing.assert_close(half, 3.18245 * means.std() / 2, rtol=1e-5, atol=0)
    again = half_widths(torch.cat([50 * means, torch.zeros(1)]), torch.tensor([50.0, 50, 50, 50, 0]))
    torch.testing.assert_close(again, half)
    assert half_widths(means[:1], torch.ones(1)) is None


def test_every_polarity_of_every_component_comes_once_and_a_second_attempt_goes_on(
    subject: Subject, tmp_path: Path
) -> None:
    """The two signs mirror each other."""
    records = measure(subject, tmp_path)
    by_feature: dict[str, WriteDirection] = {r.feature: r for r in records}
    assert set(by_feature) == {f"{c.name}{sign}" for c in subject.components for sign in "+-"}
    plus, minus = by_feature["L0.down_proj+"], by_feature["L0.down_proj-"]
    assert plus.promoted == minus.suppressed
    assert plus.promoted_logits == tuple(-x for x in minus.suppressed_logits)
    assert (plus.p_promoted, plus.effect_tokens) == (minus.p_suppressed, minus.effect_tokens[::-1])
    assert plus.effects_nats == tuple(-x for x in minus.effects_nats[::-1])
    assert plus.null_tokens == minus.null_tokens[::-1]
    assert all(sorted(r.null_tokens) == sorted(r.effect_tokens) for r in records)
    assert len({r.null_tokens for r in records}) > len(subject.components), "each component has a draw of its own"
    assert all(0 < r.effect_p <= 1 and r.n_null == 39 and r.n_documents == 3 for r in records)
    done = frozenset(r.item for r in records[:-3])
    assert measure(subject, tmp_path, done=done) == records[-3:]


def test_components_inside_a_block_have_a_reason_and_an_effect(subject: Subject, tmp_path: Path) -> None:
    """And v_proj goes through o_proj, which says so."""
    for record in measure(subject, tmp_path):
        if record.projection in ("q_proj", "k_proj", "gate_proj", "up_proj"):
            assert "does not write into the residual stream" in str(record.reason)
            assert not record.promoted
        else:
            assert record.promoted
            assert record.reason is None
            assert record.through == ("o_proj" if record.projection == "v_proj" else None)
        assert len(record.effect_tokens) == 4


def test_v_through_o_is_what_attention_does_with_a_value_that_all_tokens_share(subject: Subject) -> None:
    """Attention's own output changes by it, on every token."""
    writes = Writes(subject)
    i, c = next((i, c) for i, c in enumerate(writes.components) if c.projection == "v_proj")
    attention = c.module.rpartition(".")[0]
    out: list[torch.Tensor] = []
    handle = subject.model.get_submodule(attention + ".o_proj.base_layer").register_forward_hook(
        lambda _, __, output: out.append(output)
    )
    ids = torch.arange(9)[None]
    try:
        for dose in (0.0, 1.0):
            site = Site(c.module, "output", len(writes.written[i]))
            with torch.no_grad(), tap(subject.model, [site], AddBias(dose * writes.written[i]), read=False):
                subject.model(input_ids=ids)
    finally:
        handle.remove()
    change = (out[1] - out[0])[0]
    torch.testing.assert_close(change, writes.stream[i].expand_as(change), rtol=1e-4, atol=1e-5)


def test_latents_write_through_the_components_that_they_decode_into(subject: Subject, tmp_path: Path) -> None:
    """Sums over components; a dictionary over other columns is left out."""
    records = {(r.source, r.feature): r for r in measure(subject, tmp_path, latents=True)}
    assert {source for source, _ in records} == {"adapter-activations", "d"}
    writes = Writes(subject)
    name = writes.components[3].name  # o_proj
    component, latent, both = (
        records["adapter-activations", f"{name}+"],
        records["d", "latent0"],
        records["d", "latent1"],
    )
    assert latent.promoted == component.promoted
    assert latent.promoted_logits == pytest.approx([2 * x for x in component.promoted_logits], rel=1e-4)
    assert latent.effects_nats == pytest.approx([2 * x for x in component.effects_nats], rel=1e-4)
    direction = writes.stream[3] - writes.stream[6]
    (tokens,) = Lens.of_model(subject.model).tokens(direction[None], n_null=39, seed=1)
    assert both.promoted_logits == pytest.approx(tokens.raised, rel=1e-4)
    norms = writes.norms
    assert both.write_norm == pytest.approx(float((norms[3] ** 2 + norms[6] ** 2) ** 0.5), rel=1e-5)
    assert both.lens_share == pytest.approx(1)
    assert torch.equal(decoder_rows(Linear(14), 2), Linear(14).rows)  # type: ignore[arg-type]


def test_the_component_that_reads_a_direction_is_named(tmp_path: Path) -> None:
    """Planted: the b of L0.o_proj, divided by the gain, is the a of L1.up_proj."""
    from harness.model.lens import input_gain

    subject = make_subject(tmp_path)
    writer = next(c for c in subject.components if c.name == "L0.o_proj")
    reader = next(c for c in subject.components if c.name == "L1.up_proj")
    gain = input_gain(reader, subject.model)
    assert gain is not None
    module = subject.model.get_submodule(reader.module)
    module.lora_A["default"].weight.data[0] = directions(subject.model, writer).b / gain
    record = next(r for r in measure(subject, tmp_path) if r.feature == "L0.o_proj+")
    assert record.read_by[0] == "L1.up_proj"
    assert record.read_cosines[0] == pytest.approx(1, abs=1e-5)
    assert record.read_p < 1e-6
