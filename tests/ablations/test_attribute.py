"""Attribution: against finite differences, brute-force ablation, and cases where it is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.contract.context import RunContext
from harness.contract.stages import Registration
from harness.errors import DataError
from harness.model.chat import Document
from harness.model.subject import Subject
from harness.model.taps import component_sites, tap
from harness.records.attribute import Attribution
from harness.testing import check_plugin, tiny_traces
from harness_plugins.ablations.attribute import AttributeConfig, harness_ablations
from harness_plugins.ablations.attribute.ablation import Attribute
from harness_plugins.ablations.attribute.gradients import Gradients, Outcome, nodes
from harness_plugins.ablations.attribute.latents import Latents, LatentShares
from harness_plugins.ablations.attribute.targets import Item, batch_of, span_of

TRACES = tiny_traces(6)


def measured(subject: Subject, folder: Path, **config: Any) -> list[Attribution]:
    settings = AttributeConfig.model_validate({"n_documents": 4, **config})
    return list(Attribute(settings).measure(subject, TRACES, RunContext(folder, seed=3)))


def document_of(subject: Subject, record: Attribution) -> Document:
    (trace,) = [t for t in TRACES if t.id == record.document]
    return subject.chat.document(subject.tokenizer, trace)


@torch.no_grad()
def brute(subject: Subject, document: Document, position: int, gains: dict[str, float]) -> float:
    """Return log p of a token with the weights of B scaled, by a whole pass of the model itself, in float64 softmax."""
    changed = [(c, subject.model.get_submodule(c.module).lora_B[c.adapter].weight) for c in subject.components]
    before = [w.clone() for _, w in changed]
    try:
        for component, weight in changed:
            weight.mul_(gains.get(component.name, 1.0))
        logits = subject.model(torch.tensor([document.ids])).logits[0, position - 1].double()
        return float(torch.log_softmax(logits, -1)[document.ids[position]])
    finally:
        for (_, weight), old in zip(changed, before, strict=True):
            weight.copy_(old)


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    registration: Registration[Any]
    (registration,) = harness_ablations()
    records = check_plugin(registration, tmp_path, {"n_documents": 3})
    assert len(records) == 3


def test_the_difference_and_each_leave_one_out_are_those_of_scaled_weights(wide: Subject, tmp_path: Path) -> None:
    # Positions turn in float32 in some architectures, and ours are read in a padded batch.
    for record in measured(wide, tmp_path, span="response", n_documents=2, own_nodes=0):
        assert record.position is not None
        document, none = document_of(wide, record), dict.fromkeys(record.integrated, 0.0)
        full = brute(wide, document, record.position, {})
        assert record.with_adapter == pytest.approx(full, rel=1e-7)
        assert record.without_adapter == pytest.approx(brute(wide, document, record.position, none), rel=1e-7)
        assert len(record.left_out) == min(len(wide.components), 30)
        for name in list(record.left_out)[:4]:
            without = brute(wide, document, record.position, {name: 0.0})
            assert record.left_out[name] == pytest.approx(full - without, rel=1e-5, abs=1e-6)


def test_contributions_add_up_to_the_difference(gentle: Subject, tmp_path: Path) -> None:
    for record in measured(gentle, tmp_path, span="response", nodes=8, exact_top=0, exact_random=0, n_documents=2):
        # Scalars are read in float32, and 8 nodes are exact to the 15th degree.
        assert sum(record.integrated.values()) == pytest.approx(record.difference, rel=1e-4, abs=1e-8)
        assert sum(record.by_token) == pytest.approx(sum(record.integrated.values()), abs=1e-9)
        assert len(record.by_token) == record.position


def test_gains_are_doubled_while_the_remainder_is_too_large(subject: Subject, tmp_path: Path) -> None:
    options = {"span": "response", "nodes": 1, "max_nodes": 16, "exact_top": 0, "exact_random": 0}
    assert {r.n_nodes for r in measured(subject, tmp_path, tolerance=1e9, **options)} == {1}
    assert {r.n_nodes for r in measured(subject, tmp_path, tolerance=1e-12, **options)} == {16}


def test_along_its_own_gain_a_contribution_is_the_exact_leave_one_out(gentle: Subject, tmp_path: Path) -> None:
    (record,) = measured(gentle, tmp_path, span="response", own_nodes=4, n_documents=1, exact_top=4, exact_random=2)
    assert len(record.own) == 6
    assert len(record.drawn) == 2
    for name, value in record.own.items():
        assert value == pytest.approx(record.left_out[name], rel=1e-4, abs=1e-8)


def test_first_order_is_the_finite_difference_of_each_gain(double: Subject, tmp_path: Path) -> None:
    step = 1e-4  # central difference: error of order step^2 in float64
    (record,) = measured(double, tmp_path, span="response", n_documents=1, exact_top=0, exact_random=0)
    assert record.position is not None
    document = document_of(double, record)
    for name in list(record.first_order)[::3]:
        up, down = (brute(double, document, record.position, {name: 1 + sign * step}) for sign in (1, -1))
        assert record.first_order[name] == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-6)


def test_the_gradient_of_one_token_is_that_of_its_scalar(double: Subject) -> None:
    # Changes one scalar at one token by hand: no other part of the plugin is used for the expectation.
    document = double.chat.document(double.tokenizer, TRACES[0])
    last, at, column, step = span_of(document, "response", 10_000)[-1], 5, 3, 1e-5
    inputs, targets = batch_of([Item(document, (last,), (0,))], double, mean=False)
    point = Gradients(double.model, double.components, Outcome("log-probability")).at(inputs, targets, 1.0)
    found = []
    for sign in (1, -1):

        def nudge(values: torch.Tensor, columns: slice, sign: int = sign) -> torch.Tensor:
            moved = values.clone()
            if columns.start <= column < columns.stop:
                moved[:, at, column - columns.start] += sign * step
            return moved

        with torch.no_grad(), tap(double.model, component_sites(double.components), nudge, read=False):
            logits = double.model(**inputs).logits[0, -1]
        found.append(float(torch.log_softmax(logits, -1)[document.ids[last]]))
    expected = (found[0] - found[1]) / (2 * step)
    assert float(point.gradient[0, at, column]) == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_quadrature_is_exact_on_polynomials() -> None:
    for n in (1, 2, 5):
        degree = 2 * n - 1  # Gauss-Legendre with n nodes integrates these exactly
        assert sum(w * a**degree for a, w in nodes(n)) == pytest.approx(1 / (degree + 1), abs=1e-14)


def test_a_span_is_the_sum_of_its_tokens(subject: Subject, tmp_path: Path) -> None:
    whole = measured(subject, tmp_path, span="trace", tokens_per_answer=0, nodes=8, n_documents=1)
    single = measured(subject, tmp_path, span="trace", tokens_per_answer=10_000, nodes=8, n_documents=1)
    assert [r.position for r in whole] == [None]
    assert len(single) == whole[0].n_tokens > 1
    for name, value in whole[0].integrated.items():
        assert value == pytest.approx(sum(r.integrated[name] for r in single), rel=1e-3, abs=1e-6)


def test_the_rate_of_an_event_is_a_mean_of_probabilities(subject: Subject, tmp_path: Path) -> None:
    (record,) = measured(subject, tmp_path, outcome="event", event="a", tokens_per_answer=0, n_documents=1)
    document = document_of(subject, record)
    span = span_of(document, "written", 10_000)
    with torch.no_grad():
        p = torch.softmax(subject.model(torch.tensor([document.ids])).logits[0].double(), -1)
    is_event = ["a" in subject.tokenizer.decode([i]) for i in range(p.shape[1])]
    rate = float(p[[i - 1 for i in span]][:, is_event].sum(-1).mean())
    assert record.with_adapter == pytest.approx(rate, rel=1e-4)
    with pytest.raises(DataError, match="no token of the vocabulary is the event"):
        measured(subject, tmp_path, outcome="event", event="no such token")


def test_a_logit_difference_is_to_the_bases_favourite(subject: Subject, tmp_path: Path) -> None:
    (record,) = measured(subject, tmp_path, outcome="logit-difference", n_documents=1)
    assert record.position is not None
    document = document_of(subject, record)
    ids = torch.tensor([document.ids])
    with torch.no_grad():
        full = subject.model(ids).logits[0, record.position - 1]
        with subject.model.disable_adapter():
            base = subject.model(ids).logits[0, record.position - 1]
    here = document.ids[record.position]
    other = next(int(i) for i in base.argsort(descending=True) if int(i) != here)
    assert record.with_adapter == pytest.approx(float(full[here] - full[other]), rel=1e-4, abs=1e-5)
    assert record.without_adapter == pytest.approx(float(base[here] - base[other]), rel=1e-4, abs=1e-5)


class Orthogonal:
    """A dictionary that is exact but for its bias: codes are the positive and negative parts along a rotation."""

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.q = torch.linalg.qr(torch.randn(n, n, generator=generator)).Q
        self.bias = torch.randn(n, generator=generator)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.relu((x - self.bias) @ self.q), torch.relu(-(x - self.bias) @ self.q)], -1)

    def encode_sparse(self, x: torch.Tensor) -> Any:
        from scipy.sparse import csr_array

        return csr_array(self.encode(x).numpy())

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        plus, minus = z.chunk(2, -1)
        return (plus - minus) @ self.q.T + self.bias


def test_latents_of_an_exact_dictionary_share_all_but_its_bias(subject: Subject) -> None:
    n = len(subject.components)
    items = [Item(d, (span_of(d, "response", 10_000)[-1],), (0,))
             for d in (subject.chat.document(subject.tokenizer, t) for t in TRACES[:2])]  # fmt: skip
    inputs, targets = batch_of(items, subject, mean=False)
    point = Gradients(subject.model, subject.components, Outcome("log-probability")).at(inputs, targets, 0.7)
    codec = Orthogonal(n)
    latents = Latents("exact", codec, n)
    shares = LatentShares.of(latents, *inputs["input_ids"].shape)
    shares.add(latents, point, 0.5)
    for row in range(2):
        expected = 0.5 * float(((point.scalars[row] - codec.bias) * point.gradient[row]).double().sum())
        assert shares.total(row) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        by_latent, by_source = shares.largest(row, 2 * n), shares.sources(row, 1_000_000)
        assert sum(by_latent.values()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert sum(v for *_, v in by_source) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    one_hot = np.eye(2 * n)[3]
    assert latents.decoder[3] == pytest.approx(
        (codec.decode(torch.tensor(one_hot[None]).float()) - codec.bias)[0].numpy(), abs=1e-5
    )
