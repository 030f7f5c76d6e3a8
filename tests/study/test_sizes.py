"""Sizes by arithmetic, held against real models and against the budgets worked out for the paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.organism import MODEL
from harness.study.sizes import (
    ModelSize,
    activation_bytes,
    data_tokens,
    forward_flops,
    gpu_hours,
    memory_bytes,
    model_size,
    training_flops,
)
from harness.testing import tiny_adapter, tiny_model

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QWEN_32B = "Qwen/Qwen2.5-32B-Instruct"


def known(name: str) -> ModelSize:
    size = model_size(name, Path("/nowhere"))
    assert size is not None
    return size


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.494),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1.544),
        ("Qwen/Qwen2.5-7B-Instruct", 7.616),
        (QWEN_32B, 32.764),
    ],
)
def test_published_parameter_counts(name: str, billions: float) -> None:
    assert known(name).n_parameters / 1e9 == pytest.approx(billions, abs=6e-4)


def test_a_context_is_the_configs(tmp_path: Path) -> None:
    assert known(QWEN_32B).context == 32768
    for architecture in ("qwen2", "gpt2"):
        base = tiny_model(tmp_path / architecture, architecture)  # type: ignore[arg-type]
        size = model_size(base.path, Path(base.path))
        assert size is not None
        assert size.context == 512


def test_the_papers_adapter_has_its_parameters() -> None:
    assert known(QWEN_32B).adapter_parameters(1, ALL) == 8_388_608


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt2"])
def test_counts_are_those_of_real_models(architecture: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = tiny_model(tmp_path / "base", architecture)  # type: ignore[arg-type]
    size = model_size(base.path, Path(base.path))
    assert size is not None
    model = AutoModelForCausalLM.from_pretrained(base.path)
    real = sum(p.numel() for p in model.parameters())
    if architecture == "gpt2":  # its positions, biases and second norms are left out
        matrices = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and "wpe" not in n)
        assert size.n_parameters == pytest.approx(matrices, rel=0.03)
    else:
        assert size.n_parameters == real
        assert size.adapter_parameters(3, ALL) == tiny_adapter(base, tmp_path / "adapter", rank=3).n_parameters


def test_the_organism() -> None:
    size = model_size(MODEL, Path(MODEL))
    assert size is not None
    assert size.adapter_parameters(1, ALL) == 4864


def test_budgets_of_the_papers_run() -> None:
    """Orders of magnitude worked out by hand for 32 B parameters and 10 million tokens (paper-spec 1.20)."""
    n = known(QWEN_32B).n_parameters
    assert data_tokens("simplescaling/s1K-1.1") == (1000, 10_000_000)
    assert forward_flops(n, 1e7) == pytest.approx(6.5e17, rel=0.02)
    assert forward_flops(n, (64 + 8 + 448) * 16 * 2048) == pytest.approx(1.1e18, rel=0.02)
    assert training_flops(n, 5e7, adapter=True, recompute=True) == pytest.approx(1e19, rel=0.03)
    assert activation_bytes(448, 1e7) == pytest.approx(9e9, rel=0.01)
    assert gpu_hours(6.5e17) == pytest.approx(27 / 60, rel=0.01)
    assert memory_bytes(n, "bfloat16") == pytest.approx(65.5e9, rel=0.01)
    assert memory_bytes(n, "bfloat16", trained=n) == pytest.approx(590e9, rel=0.01)


def test_an_unknown_model_has_no_size() -> None:
    assert model_size("someone/unheard-of", Path("/nowhere")) is None
