"""The logit lens of a direction, against the model's own norm and output matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import beta

from harness.errors import ModelError
from harness.model.lens import TOP, Lens, cosine_p_value, final_norm, skeleton, unread_reason
from harness.model.subject import load_base
from harness.testing import tiny_adapter, tiny_model


def base(folder: Path, architecture: Any) -> Any:
    """A tiny model whose norm's gain and bias are not 1 and 0, saved again."""
    ref = tiny_model(folder, architecture)
    model = load_base(ref)
    torch.manual_seed(1)
    for parameter in final_norm(model)[1].parameters():
        parameter.data += torch.randn_like(parameter) * 0.3
    model.save_pretrained(folder)
    return load_base(ref)


@pytest.mark.parametrize("architecture", ["qwen2", "gemma", "gpt2", "phi3"])
def test_the_lens_is_the_derivative_of_the_models_own_head(tmp_path: Path, architecture: Any) -> None:
    """Along a direction at right angles to the stream, whose size it then leaves as it is."""
    model = base(tmp_path, architecture).double()
    norm = final_norm(model)[1]
    lens = Lens.of_model(model)
    generator = torch.Generator().manual_seed(0)
    x, d = torch.randn(2, 32, generator=generator, dtype=torch.float64)
    if architecture == "gpt2":
        assert lens.centred
        x = x - x.mean()
    x = x / x.pow(2).mean().sqrt()
    d = d - x * (d @ x) / (x @ x)

    def head(stream: torch.Tensor) -> torch.Tensor:
        return model.get_output_embeddings()(norm(stream[None, None]))[0, 0]

    expected = torch.autograd.functional.jvp(head, x, d)[1]
    expected = expected - expected.mean()
    # The lens is in float32 (1e-6 of the largest logit), and the norm's epsilon of 1e-5 or less shrinks its output.
    torch.testing.assert_close(
        lens.logits(d[None])[0].double(), expected, rtol=2e-5, atol=2e-5 * float(expected.abs().max())
    )


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_a_folder_gives_the_lens_of_the_loaded_model(tmp_path: Path, architecture: Any) -> None:
    """Tied embeddings too: the matrix is stored under the name of the embedding."""
    loaded = Lens.of_model(base(tmp_path, architecture))
    stored = Lens.of_folder(skeleton(str(tmp_path)), tmp_path)
    d = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    assert (stored.centred, stored.shape) == (loaded.centred, loaded.shape)
    torch.testing.assert_close(stored.logits(d), loaded.logits(d), rtol=0, atol=0)


def test_promoted_tokens_are_those_whose_row_the_direction_is(tmp_path: Path) -> None:
    """A direction along a token's own row promotes it, is beyond all random ones, and its negative suppresses it."""
    lens = Lens.of_model(base(tmp_path, "qwen2"))
    direction = (lens.weight[7] - lens.weight.mean(0)) * 3
    up, down = lens.tokens(torch.stack([direction, -direction]), n_null=99, seed=0, top=3)
    assert up.promoted[0] == down.suppressed[0] == 7
    assert up.raised == tuple(-x for x in down.lowered)
    assert len(up.promoted) == 3


def test_p_values_count_random_directions_of_the_same_norm(tmp_path: Path) -> None:
    """The shared unit directions give what drawing directions of that norm anew gives, by brute force."""
    lens = Lens.of_model(base(tmp_path, "qwen2"))
    direction = torch.randn(1, 32, generator=torch.Generator().manual_seed(5)) * 4
    (tokens,) = lens.tokens(direction, n_null=99, seed=3)
    drawn = torch.randn(99, 32, generator=torch.Generator().manual_seed(3))
    drawn = drawn * (direction.norm() / drawn.norm(dim=-1, keepdim=True))
    peaks = lens.logits(drawn).topk(TOP).values.mean(-1)
    k = int((peaks >= lens.logits(direction).topk(TOP).values.mean()).sum())
    assert tokens.p_promoted == pytest.approx((k + 1) / 100)
    assert (tokens.n_null, len(tokens.promoted)) == (99, TOP)


def test_p_values_are_uniform_where_directions_are_random(tmp_path: Path) -> None:
    """Of 400 random directions a tenth has p <= 0.1, within four standard errors."""
    lens = Lens.of_model(base(tmp_path, "qwen2"))
    directions = torch.randn(400, 32, generator=torch.Generator().manual_seed(11))
    found = lens.tokens(directions, n_null=999, seed=0)
    for share in (sum(t.p_promoted <= 0.1 for t in found) / 400, sum(t.p_suppressed <= 0.1 for t in found) / 400):
        assert share == pytest.approx(0.1, abs=4 * (0.09 / 400) ** 0.5 + 4 * (0.09 / 999) ** 0.5)


@pytest.mark.parametrize(("cosine", "dimension"), [(0.1, 32), (-0.4, 64), (0.02, 5120), (0.9, 3)])
def test_the_p_value_of_a_cosine_is_that_of_a_beta_variable(cosine: float, dimension: int) -> None:
    """The square of the cosine with a uniform direction is Beta(1/2, (d - 1) / 2)."""
    expected = beta.sf(cosine**2, 0.5, (dimension - 1) / 2)
    assert cosine_p_value(cosine, dimension) == pytest.approx(expected, rel=1e-6)


def test_what_does_not_write_into_the_stream_says_so(tmp_path: Path) -> None:
    """q_proj has as many outputs as the stream has coordinates: its width does not tell."""
    from harness.model.attach import attach_adapter
    from harness.model.components import find_components

    ref = tiny_model(tmp_path / "base")
    model = attach_adapter(load_base(ref), str(tiny_adapter(ref, tmp_path / "adapter").path))
    reasons = {c.projection: unread_reason(c, model) for c in find_components(model)}
    assert {p for p, reason in reasons.items() if reason is None} == {"o_proj", "down_proj"}
    assert "q_proj does not write into the residual stream" in str(reasons["q_proj"])


def test_a_folder_without_the_output_matrix_is_named(tmp_path: Path) -> None:
    """The error names the tensor and the folder."""
    from safetensors.torch import load_file, save_file

    tiny_model(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "embed" not in k}, file)
    with pytest.raises(ModelError, match=r"has no model.embed_tokens.weight"):
        Lens.of_folder(skeleton(str(tmp_path)), tmp_path)
