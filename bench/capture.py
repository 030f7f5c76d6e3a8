"""Capture: reading all scalars through the tap, against the same backbone without hooks (1 is no overhead)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from bench.measure import MATRICES, Ratio, adapted, compare
from harness.model.batching import find_backbone
from harness.model.components import Component, find_components
from harness.model.in_place import InPlace
from harness.model.taps import component_sites, tap

TOKENS = 512


def random_qwen2(layers: int = 16, hidden: int = 256, vocabulary: int = 4096) -> Any:
    """A random Qwen2 with a rank-1 adapter on all seven matrices of every layer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "qwen2", vocab_size=vocabulary, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 128, max_position_embeddings=TOKENS,
    )  # fmt: skip
    torch.manual_seed(0)
    settings = LoraConfig(r=1, lora_alpha=16, target_modules=MATRICES, init_lora_weights=False)
    return get_peft_model(AutoModelForCausalLM.from_config(config), settings).eval()


def ours(model: Any, components: Sequence[Component], ids: torch.Tensor, *, rapid: bool = False) -> torch.Tensor:
    """The backbone under the tap: [batch, token, component]."""
    path = InPlace(model, components) if rapid else nullcontext()
    with torch.no_grad(), path, tap(model, component_sites(components)) as reading:
        find_backbone(model)(input_ids=ids, use_cache=False)
        return reading.values()


def bare(model: Any, ids: torch.Tensor) -> None:
    """The backbone alone."""
    with torch.no_grad():
        find_backbone(model)(input_ids=ids, use_cache=False)


def paper(model: Any, components: Sequence[Component], ids: torch.Tensor) -> None:
    """The paper's way: hooks on the inputs of the matrices, a float32 product with each A, and all logits."""
    read: list[torch.Tensor] = []

    def hook(a: torch.Tensor) -> Callable[..., None]:
        def before(_: Any, args: tuple[Any, ...]) -> None:
            read.append(args[0].float() @ a)

        return before

    handles = []
    for c in components:
        module = model.get_submodule(c.module)
        a = module.lora_A["default"].weight.detach().squeeze().float()
        handles.append(module.register_forward_pre_hook(hook(a)))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    torch.stack(read)


def _setting(n_rows: int = 1) -> tuple[Any, tuple[Component, ...], torch.Tensor]:
    model = random_qwen2()
    ids = torch.randint(0, 4096, (n_rows, TOKENS), generator=torch.Generator().manual_seed(0))
    return model, find_components(model), ids


def overhead() -> Ratio:
    """The tap's price."""
    model, found, ids = _setting()
    return compare(
        "16 layers, hidden 256, 112 components, 512 tokens", "bare backbone",
        lambda: ours(model, found, ids), lambda: bare(model, ids), rounds=15,
    )  # fmt: skip


def in_place_path() -> Ratio:
    """The in-place path: capture and adapter together."""
    model, found, ids = _setting()
    plain, rapid = ours(model, found, ids), ours(model, found, ids, rapid=True)
    error = float((plain - rapid).norm() / plain.norm())
    found_ratio = compare(
        "the same, numerics=in-place", "bare backbone",
        lambda: ours(model, found, ids, rapid=True), lambda: bare(model, ids), rounds=15,
    )  # fmt: skip
    return found_ratio.noting(f"scalars differ by {error:.1e} of their norm")


def paper_way() -> Ratio:
    """What the paper's code does."""
    model, found, ids = _setting()
    return compare(
        "the same", "input hooks, float products and logits (the paper's way)",
        lambda: ours(model, found, ids), lambda: paper(model, found, ids), rounds=15,
    )  # fmt: skip


def organism() -> Ratio:
    """The organism, where hooks weigh most: its matrices are tiny."""
    model = adapted()
    found = find_components(model)
    ids = torch.randint(0, 300, (16, 140), generator=torch.Generator().manual_seed(0))
    return compare(
        "the organism, hidden 64, 28 components, 16 x 140 tokens", "bare backbone",
        lambda: [ours(model, found, ids) for _ in range(10)], lambda: [bare(model, ids) for _ in range(10)],
    )  # fmt: skip


BENCHES = (overhead, in_place_path, paper_way, organism)
