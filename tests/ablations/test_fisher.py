"""Fisher probes against the KL's second derivative computed outright, and their interval's coverage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.model.readout import Readout
from harness.model.subject import Subject
from harness.model.taps import component_sites, tap
from harness.testing import tiny_traces
from harness_plugins.ablations.cells import cells
from harness_plugins.ablations.config import KLConfig
from harness_plugins.ablations.divergence import Divergence
from harness_plugins.ablations.documents import read_texts
from harness_plugins.ablations.fisher import Probes, _pulled, gathered, pieces, probe

TRACES = tiny_traces(6)


def divergence(subject: Subject, **settings: object) -> Divergence:
    config = KLConfig.model_validate({"n_documents": 3, "max_tokens": 30, "floor_documents": 0, **settings})
    return Divergence(subject, read_texts(subject, TRACES, config, torch.Generator().manual_seed(0)), config, seed=0)


def run(subject: Subject, n_probes: int, seed: int = 0, **settings: object) -> Probes:
    ours = divergence(subject, **settings)
    found = ((piece, probe(ours, subject.components, piece, n_probes, seed)) for piece in pieces(ours.texts))
    return gathered(found, subject.components, ours.texts, n_probes)


def second_order(subject: Subject, off: list[int], **settings: object) -> float:
    """sum_t J' F J / 2 per token, with J by central differences and F written out, in float64."""
    ours = divergence(subject, batch_size=3, **settings)
    (batch,) = ours.texts.batches
    to = torch.tensor([ours.to.get(c.name, 0.0) for c in subject.components], dtype=torch.float64)

    def logits(gate: float) -> torch.Tensor:
        gates = torch.ones(len(subject.components), dtype=torch.float64)
        gates[off] = gate

        def edit(values: torch.Tensor, columns: slice) -> torch.Tensor:
            return gates[columns] * values + (1 - gates[columns]) * to[columns]

        with torch.no_grad(), tap(subject.model, component_sites(subject.components), edit, read=False):
            return subject.model(**batch.inputs, use_cache=False).logits[batch.mask].double()

    step = 1e-3
    jacobian = (logits(1 + step) - logits(1 - step)) / (2 * step)
    p = torch.softmax(logits(1.0), -1)
    variance = (p * jacobian**2).sum(-1) - (p * jacobian).sum(-1) ** 2
    return float(variance.sum() / 2) / sum(ours.n_tokens)


@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_they_estimate_the_second_order_of_the_kl(wide: Subject, mode: str) -> None:
    """Also of groups. With 128 probes of 3 documents the standard deviation is at most sqrt(2 / 128) = 13 %."""
    probes = run(wide, 128, mode=mode)
    for off in ([0], [5], list(range(7)), list(range(len(wide.components)))):
        found = probes.estimate([wide.components[i] for i in off])
        assert found.value == pytest.approx(second_order(wide, off, mode=mode), rel=0.4), off
        assert found.low < found.value < found.high


def test_they_rank_like_the_exact_sweep(subject: Subject) -> None:
    from scipy.stats import spearmanr

    single = cells(subject.components, ["component"])
    probes = run(subject, 64)
    exact = {c.item: float(s.kl_nats.sum()) for c, s in divergence(subject).sweep(single)}
    found = [probes.estimate(c.off).value for c in single]
    assert spearmanr(found, [exact[c.item] for c in single]).statistic > 0.8


def test_the_seed_decides(subject: Subject) -> None:
    first = run(subject, 8)
    again = run(subject, 8)
    assert np.array_equal(first.gradients, again.gradients)
    assert not np.allclose(first.gradients, run(subject, 8, seed=1).gradients)


def test_the_interval_covers_what_it_should() -> None:
    """Documents with variances a decade apart, 4 probes: nominal 95 %, 1000 repetitions, standard error 0.6 %."""
    rng = np.random.default_rng(0)
    scale = np.array([0.3, 1.0, 1.0, 2.0, 3.0, 0.5, 1.5, 0.8])
    truth = float((scale**2).sum() / 2 / 100)

    class C:
        name = "c"

    covered = 0
    for _ in range(1000):
        gradients = rng.normal(size=(8, 4, 1)) * scale[:, None, None]
        found = Probes(gradients, ("c",), 100).estimate([C()])  # type: ignore[list-item]
        covered += found.low <= truth <= found.high
    assert 0.93 < covered / 1000 < 0.985


def test_nothing_is_left_behind(subject: Subject, tmp_path: Path) -> None:
    run(subject, 1)
    assert not [m for m in subject.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert all(p.grad is None for p in subject.model.parameters())


def test_the_signs_have_the_covariance_of_the_fisher_matrix(subject: Subject) -> None:
    """E[pulled pulled'] = W' (diag p - p p') W: without the centring it would be W' diag(p) W, for peaked p far off."""
    readout = Readout(subject.model)
    # Hidden states that make the distribution peaked, where the two differ most.
    hidden = 7.0 * readout.weight[[5]].detach() / readout.weight[5].norm() ** 2
    n = 40_000
    pulled = _pulled(readout, hidden.repeat(200, 1), n // 200, torch.Generator().manual_seed(0)).double().reshape(n, -1)
    p = torch.softmax(readout.logits(hidden)[0].double(), -1)
    weight = readout.weight.detach().double()
    fisher = weight.T @ (torch.diag(p) - torch.outer(p, p)) @ weight
    uncentred = weight.T @ torch.diag(p) @ weight
    found = pulled.T @ pulled / n
    # The sampling error of a second moment over n draws is some sqrt(2 / n) of its size.
    tolerance = 4 * (2 / n) ** 0.5
    assert float((found - fisher).norm() / fisher.norm()) < tolerance * fisher.shape[0] ** 0.5
    assert float((uncentred - fisher).norm() / fisher.norm()) > 2 * tolerance * fisher.shape[0] ** 0.5
