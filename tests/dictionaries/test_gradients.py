"""A step by survivors, and a step on an accelerator, against the textbook in autograd: selection, losses, gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from harness_plugins.dictionaries.batch_topk.autoencoder import Autoencoder, Objective
from harness_plugins.dictionaries.batch_topk.dense import DenseGradients
from harness_plugins.dictionaries.batch_topk.descent import TrainStep, choose_path
from harness_plugins.dictionaries.batch_topk.survivors import SurvivorGradients

D, F, B = 24, 96, 64
NONE = torch.zeros(F, dtype=torch.bool)
SOME = torch.arange(F) % 3 == 0
STANDARD = Objective(k=4, k_aux=5, aux_coefficient=1 / 32)
COVERED = [
    STANDARD,
    replace(STANDARD, decoder="norm-aware"),
    replace(STANDARD, activation="abs"),
    replace(STANDARD, activation="abs", decoder="norm-aware"),
]
PATHS: dict[str, Callable[[Autoencoder, Objective], Any]] = {
    "dense": DenseGradients,
    "fp32": lambda sae, maths: SurvivorGradients(sae, maths, "fp32"),
    "bf16": lambda sae, maths: SurvivorGradients(sae, maths, "bf16"),
}


def oracle(sae: Autoencoder, x: torch.Tensor, maths: Objective, dead: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The definition, in autograd and with dense codes: mean squared error, and which [token, latent] survive.

    BatchTopK (arXiv:2412.06410), AuxK (arXiv:2406.04093). Leaves gradients in the parameters.
    """
    sae.zero_grad()
    pre = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    active = pre if maths.activation == "abs" else torch.relu(pre)
    rank = active.detach().abs()
    if maths.decoder == "norm-aware":
        rank = rank * sae.W_dec.detach().norm(dim=1)
    kept = torch.zeros(rank.numel(), dtype=torch.bool)
    kept[rank.flatten().topk(maths.k * len(x)).indices] = True
    kept = kept.view_as(rank) & (rank > 0)
    residual = x - (torch.where(kept, active, 0) @ sae.W_dec + sae.b_dec)
    loss = residual.square().sum(1).mean()
    total = loss
    if dead.any():
        left = residual.detach()
        rank = rank[:, dead]
        least = rank.topk(min(maths.k_aux, rank.shape[1]), dim=1).values[:, -1:]
        guess = torch.where(rank >= least, active[:, dead], 0) @ sae.W_dec[dead]
        variance = (left - left.mean(0)).square().sum(1).mean()
        total = loss + maths.aux_coefficient * x.shape[1] * (left - guess).square().sum(1).mean() / variance
    total.backward()
    if maths.decoder == "unit-norm":
        for row, gradient in zip(sae.W_dec.detach(), sae.W_dec.grad, strict=True):
            gradient -= (gradient @ row) * row
    return float(loss.detach()) / x.shape[1], kept


def autoencoder(seed: int = 0, *, d_in: int = D, n_latents: int = F) -> Autoencoder:
    generator = torch.Generator().manual_seed(seed)
    sae = Autoencoder(torch.randn(d_in, generator=generator), n_latents, generator)
    with torch.no_grad():
        sae.b_enc.normal_(0, 0.1, generator=generator)
        sae.W_enc.add_(torch.randn(sae.W_enc.shape, generator=generator), alpha=0.05)
    return sae


def batch(seed: int = 1, n: int = B, *, d_in: int = D) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d_in, generator=generator) * torch.linspace(0.2, 3, n)[:, None]


def gradients(sae: Autoencoder) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dead", [NONE, SOME, ~NONE], ids=["none dead", "a third dead", "all dead"])
@pytest.mark.parametrize("maths", COVERED, ids=lambda m: f"{m.activation} {m.decoder}")
@pytest.mark.parametrize("path", PATHS)
def test_a_step_is_the_textbooks(path: str, maths: Objective, dead: torch.Tensor) -> None:
    sae, x = autoencoder(), batch()
    with torch.no_grad():
        if maths.decoder == "norm-aware":
            sae.W_dec.mul_(torch.linspace(0.5, 2, F)[:, None])
    loss, kept = oracle(sae, x, maths, dead)
    expected = gradients(sae)
    report = PATHS[path](sae, maths)(x, dead)
    assert report.loss == pytest.approx(loss, rel=1e-6)
    assert report.n_active == int(kept.sum()) == maths.k * B
    assert torch.equal(report.fired, kept.any(0))
    for name, gradient in gradients(sae).items():
        # Sums of B x k products in float32, in another order.
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("decoder", ["unit-norm", "norm-aware"])
def test_losses_follow_the_textbooks_over_a_hundred_steps(path: str, decoder: Any) -> None:
    """Within 1e-3, and 1e-6 at the first: a selection that differs in one place shows from then on."""
    maths = replace(STANDARD, decoder=decoder)
    ours, textbook = autoencoder(), autoencoder()
    descent = TrainStep(ours, maths, compute=path)
    optimizer = torch.optim.Adam(textbook.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(F, D, generator=generator))
    for step in range(100):
        codes = (torch.rand(B, F, generator=generator) < 0.04) * torch.rand(B, F, generator=generator)
        x = codes @ directions
        dead = SOME if step % 2 else NONE
        loss, _ = oracle(textbook, x, maths, dead)
        torch.nn.utils.clip_grad_norm_(textbook.parameters(), 1.0)
        optimizer.step()
        if decoder == "unit-norm":
            textbook.normalise_decoder()
        report = descent.step(x, dead, 2e-3)
        assert report.loss == pytest.approx(loss, rel=1e-3 if step else 1e-6), step


def test_the_filter_and_float32_train_to_the_same_bits() -> None:
    """What the filter lets through is scored as float32 scores it: the filter is not an approximation."""
    trained = []
    for path in ("fp32", "bf16"):
        sae = autoencoder()
        descent = TrainStep(sae, STANDARD, compute=path)
        for step in range(30):
            descent.step(batch(step), SOME if step % 3 else NONE, 2e-3)
        trained.append(sae.state_dict())
    for name, tensor in trained[0].items():
        assert torch.equal(tensor, trained[1][name]), name


def test_a_large_batch_is_computed_in_blocks_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sae, x = autoencoder(), batch(n=300)
    whole = SurvivorGradients(sae, STANDARD, "fp32")(x, SOME)
    expected = gradients(sae)
    monkeypatch.setattr("harness_plugins.dictionaries.selection._CHUNK_ENTRIES", 50 * F)
    assert SurvivorGradients(sae, STANDARD, "fp32")(x, SOME).loss == whole.loss
    for name, gradient in gradients(sae).items():
        assert torch.equal(gradient, expected[name]), name


def test_the_input_is_not_changed() -> None:
    x = batch()
    before = x.clone()
    for path in PATHS.values():
        path(autoencoder(), STANDARD)(x, SOME)
        assert torch.equal(x, before)


def test_gradients_are_clipped_to_the_norm() -> None:
    """Fused Adam divides by the scale itself; against torch's clipping and plain Adam."""
    ours, theirs = autoencoder(), autoencoder()
    descent = TrainStep(ours, STANDARD, compute="fp32", clip_norm=0.01)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.1)
    for step in range(5):
        oracle(theirs, batch(step), STANDARD, NONE)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.01)
        optimizer.step()
        theirs.normalise_decoder()
        descent.step(batch(step), NONE, 0.1)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), parameter, rtol=1e-3, atol=1e-4)


def test_a_gradient_in_another_layout_is_refused() -> None:
    """Torch's fused Adam walks raw memory: with other strides it would update wrong entries without a word."""
    sae = autoencoder()
    descent = TrainStep(sae, STANDARD, compute="fp32")
    descent.gradients(batch(), NONE)
    sae.W_enc.grad = sae.W_enc.grad.T.contiguous().T  # type: ignore[union-attr]
    descent.gradients = lambda x, dead: None  # type: ignore[assignment]
    with pytest.raises(AssertionError, match="W_enc"):
        descent.step(batch(), NONE, 1e-3)


def test_the_papers_variant_is_what_its_code_does() -> None:
    """No ReLU, no centring, error encoded by dead latents and not detached: against the formulas written out."""
    maths = Objective(
        k=60, decoder="norm-aware", activation="none", centred=False, k_aux=3, aux_coefficient=1 / 32, aux_of="error"
    )
    sae, x = autoencoder(), batch()
    report = DenseGradients(sae, maths)(x, SOME)
    found = gradients(sae)
    sae.zero_grad()
    pre = x @ sae.W_enc.T + sae.b_enc
    score = (pre * sae.W_dec.norm(dim=1)).detach()
    least = score.flatten().sort(descending=True).values[60 * B - 1]
    assert least < 0  # k of 96: more than half survive, so that negative ones do
    error = x - (torch.where(score >= least, pre, 0) @ sae.W_dec + sae.b_dec)
    hidden = error @ sae.W_enc[SOME].T + sae.b_enc[SOME]
    rank = hidden * sae.W_dec[SOME].norm(dim=1)
    guess = torch.where(rank >= rank.topk(3, dim=1).values[:, -1:], hidden, 0) @ sae.W_dec[SOME]
    total = error.square().sum(1).mean() + (error - guess).square().sum(1).mean() / 32
    total.backward()
    assert report.loss == pytest.approx(float(error.detach().square().mean()), rel=1e-6)
    assert report.threshold == pytest.approx(float(least), rel=1e-5)
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_an_accelerator_takes_the_dense_path_and_a_cpu_the_survivors() -> None:
    small, large = torch.zeros(8, 4), torch.zeros(4000, 400)
    assert choose_path("auto", STANDARD, large.to("meta")) == "dense"  # any device that is not the CPU
    assert choose_path("auto", STANDARD, large) in ("fp32", "bf16")
    assert choose_path("auto", STANDARD, small) == "fp32"
    assert choose_path("auto", replace(STANDARD, activation="abs"), large) == "fp32"
    assert choose_path("bf16", replace(STANDARD, centred=False), large) == "dense"
    assert choose_path("dense", STANDARD, large) == "dense"
