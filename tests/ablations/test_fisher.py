"""Fisher probes against the KL's second derivative computed outright, and their interval's coverage."""

from __future__ import annotations

from dataclasses import dataclass
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
from harness_plugins.ablations.documents import read_texts, texts_of
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
    """sum_t J' F J / 2 per token of the response, with J by central differences and F written out, in float64."""
    ours = divergence(subject, batch_size=3, **settings)
    (batch,) = ours.texts.batches
    to = torch.tensor([ours.to.get(c.name, 0.0) for c in subject.components], dtype=torch.float64)

    def logits(gate: float) -> torch.Tensor:
        gates = torch.ones(len(subject.components), dtype=torch.float64)
        gates[off] = gate

        def edit(values: torch.Tensor, columns: slice) -> torch.Tensor:
            return gates[columns] * values + (1 - gates[columns]) * to[columns]

        with torch.no_grad(), tap(subject.model, component_sites(subject.components), edit, read=False):
            return subject.model(**batch.inputs, use_cache=False).logits[batch.headline].double()

    step = 1e-3
    jacobian = (logits(1 + step) - logits(1 - step)) / (2 * step)
    p = torch.softmax(logits(1.0), -1)
    variance = (p * jacobian**2).sum(-1) - (p * jacobian).sum(-1) ** 2
    return float(variance.sum() / 2) / int(ours.texts.n_tokens[:, 1:].sum())


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
    exact = {c.item: float(s.kl_nats[:, 1:].sum()) for c, s in divergence(subject).sweep(single)}
    found = [probes.estimate(c.off).value for c in single]
    assert spearmanr(found, [exact[c.item] for c in single]).statistic > 0.8


def test_the_seed_decides(subject: Subject) -> None:
    first = run(subject, 8)
    again = run(subject, 8)
    assert np.array_equal(first.gradients, again.gradients)
    assert not np.allclose(first.gradients, run(subject, 8, seed=1).gradients)


@dataclass(frozen=True)
class Named:
    name: str


@pytest.mark.parametrize("sigma", [0.0, 0.7156])
def test_the_interval_holds_the_kl_of_other_documents_too(sigma: float) -> None:
    """32 documents, whose KLs are alike or of skew 3, and 4 probes: 600 repetitions, standard error 0.9 % at 95 %.

    An interval of the probes alone (chi-squared) covers 92.4 % where they differ: 2,000 repetitions.
    """
    rng = np.random.default_rng(0)
    truth = float(np.exp(sigma**2 / 2))
    covered = 0
    for seed in range(600):
        tokens = rng.integers(100, 500, 32)
        nats = rng.lognormal(0, sigma, 32) * tokens  # G^2 has twice this expectation
        gradients = rng.normal(size=(32, 4, 1)) * np.sqrt(2 * nats)[:, None, None]
        found = Probes(gradients, ("c",), tokens.tolist()).estimate([Named("c")], seed=seed)  # type: ignore[list-item]
        covered += found.low <= truth <= found.high
    assert covered / 600 >= 0.932


def test_every_group_of_documents_has_signs_of_its_own(subject: Subject) -> None:
    """The same text in two batches: equal signs would add the same error twice."""
    config = KLConfig.model_validate({"max_tokens": 30, "floor_documents": 0, "batch_size": 1})
    text = subject.chat.document(subject.tokenizer, TRACES[0])
    texts = texts_of([text, text], config, subject.tokenizer.pad_token_id)
    ours = Divergence(subject, texts, config, seed=0)
    first, second = (probe(ours, subject.components, piece, 4, seed=0) for piece in pieces(texts))
    assert first.shape == second.shape
    assert not np.allclose(first, second)


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
