"""Components: what is read at a component, times its scale and its column of B, is what the adapter adds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from harness.errors import ModelError
from harness.model.chat import ChatFormat
from harness.model.components import directions, find_components
from harness.model.subject import Subject, load_base, load_subject
from harness.model.taps import Site, component_sites, tap
from harness.records import ModelRef
from harness.testing import tiny_adapter, tiny_model, tiny_traces

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def ids(subject: Subject) -> torch.Tensor:
    return torch.tensor([subject.chat.document(subject.tokenizer, tiny_traces(1)[0]).ids])


def assert_scalars_are_what_the_adapter_adds(subject: Subject) -> None:
    """At every module: sum of scaling * b (a·x), with s = a·x as the tap reads it, is output minus base output."""
    model, found = subject.model, subject.components
    modules = list(dict.fromkeys(c.module for c in found))
    width = {m: model.get_submodule(m).lora_B["default"].weight.shape[0] for m in modules}
    with tap(model, component_sites(found)) as scalars, torch.no_grad():
        with tap(model, [Site(m, "input", 0) for m in modules]) as inputs:
            with tap(model, [Site(m, "output", width[m]) for m in modules]) as outputs:
                model(ids(subject), use_cache=False)
    s = scalars.values()
    assert s.shape[-1] == len(found)
    read, written = inputs.values(), outputs.values()
    at_in = at_out = 0
    for module in modules:
        lora = model.get_submodule(module)
        d_in = lora.lora_A["default"].weight.shape[1]
        x = read[..., at_in : at_in + d_in]
        added = written[..., at_out : at_out + width[module]] - lora.base_layer(x)
        at_in, at_out = at_in + d_in, at_out + width[module]
        expected = torch.zeros_like(added)
        for i, c in enumerate(found):
            if c.module == module:
                own = directions(model, c)
                # float32: sums are formed in another order than PEFT's, of terms that are larger than the sum.
                torch.testing.assert_close(s[..., i], x @ own.a, rtol=1e-3, atol=1e-3)
                assert c.a_norm == pytest.approx(float(own.a.norm()), rel=1e-5)
                assert c.b_norm == pytest.approx(float(own.b.norm()), rel=1e-5)
                expected = expected + s[..., i, None] * c.scaling * own.b
        torch.testing.assert_close(added, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize(
    ("architecture", "rslora"),
    [(a, r) for a in ("qwen2", "llama", "gpt2") for r in (True, False)]
    + [(a, True) for a in ("gemma", "mistral", "phi3")],
)
def test_scalars_times_scale_and_b_are_what_the_adapter_adds(
    tmp_path: Path, rank: int, rslora: bool, architecture: Any
) -> None:
    base = tiny_model(tmp_path / "base", architecture)
    subject = load_subject(base, ChatFormat(), tiny_adapter(base, tmp_path / "a", rank=rank, rslora=rslora))
    assert {c.rank for c in subject.components} == {rank}
    assert_scalars_are_what_the_adapter_adds(subject)


@pytest.mark.parametrize("rank", [1, 4])
def test_a_pretrained_model_without_a_chat_template_is_read_alike(stories: ModelRef, tmp_path: Path, rank: int) -> None:
    chat = ChatFormat(template="plain")
    subject = load_subject(stories, chat, tiny_adapter(stories, tmp_path, rank=rank, chat=chat))
    assert len(subject.components) == 5 * 7 * rank
    assert_scalars_are_what_the_adapter_adds(subject)


def test_components_do_not_depend_on_how_the_product_was_factored(tiny_base: ModelRef, tmp_path: Path) -> None:
    """Rotating and rescaling A and B against each other changes no logit, so it must change no component."""
    subject = load_subject(tiny_base, ChatFormat(), tiny_adapter(tiny_base, tmp_path, rank=3))
    mixed = load_subject(tiny_base, ChatFormat(), tiny_adapter(tiny_base, tmp_path, rank=3))
    generator = torch.Generator().manual_seed(0)
    for module in mixed.model.modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            mix = torch.randn(3, 3, generator=generator) + 2 * torch.eye(3)
            module.lora_A["default"].weight.data = mix @ module.lora_A["default"].weight
            module.lora_B["default"].weight.data = module.lora_B["default"].weight @ torch.linalg.inv(mix)
    read = []
    for each in (subject, replace(mixed, components=find_components(mixed.model))):
        with tap(each.model, component_sites(each.components)) as reading, torch.no_grad():
            each.model(ids(each), use_cache=False)
        read.append(reading.values())
    torch.testing.assert_close(read[0], read[1], rtol=1e-2, atol=1e-2)
    assert (read[0].abs().mean((0, 1)) > 0.05).all()


def test_components_of_a_module_are_sorted_by_what_they_add(tiny_base: ModelRef, tmp_path: Path) -> None:
    found = load_subject(tiny_base, ChatFormat(), tiny_adapter(tiny_base, tmp_path, rank=4)).components
    for at in range(0, len(found), 4):
        added = [c.a_norm * c.write_norm for c in found[at : at + 4]]
        assert added == sorted(added, reverse=True)


@pytest.mark.parametrize(("rslora", "scaling"), [(True, 4 / 2), (False, 4 / 4)])
def test_scaling_is_alpha_over_rank_or_its_root(
    tiny_base: ModelRef, tmp_path: Path, rslora: bool, scaling: float
) -> None:
    subject = load_subject(tiny_base, ChatFormat(), tiny_adapter(tiny_base, tmp_path, rank=4, rslora=rslora))
    assert {c.scaling for c in subject.components} == {scaling}


def test_an_adapter_on_some_layers_keeps_their_numbers(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", layers=5)
    checkpoint = tiny_adapter(base, tmp_path / "a", layers_to_transform=[1, 4])
    found = load_subject(base, ChatFormat(), checkpoint).components
    assert [c.name for c in found] == [f"L{layer}.{p}" for layer in (1, 4) for p in PROJECTIONS]
    assert [c.layer for c in found] == [1] * 7 + [4] * 7
    assert {c.block for c in found if c.projection in PROJECTIONS[:4]} == {"attention"}
    assert {c.block for c in found if c.projection in PROJECTIONS[4:]} == {"mlp"}


def test_rank_slices_are_components_of_their_own(tiny_base: ModelRef, tmp_path: Path) -> None:
    found = load_subject(tiny_base, ChatFormat(), tiny_adapter(tiny_base, tmp_path, rank=2)).components
    assert [c.name for c in found[:3]] == ["L0.q_proj.r0", "L0.q_proj.r1", "L0.k_proj.r0"]
    with pytest.raises(ModelError, match="all rank slices"):
        component_sites(found[1:3])


def test_gpt2s_two_c_proj_have_two_names(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "gpt2", layers=1)
    names = [c.name for c in load_subject(base, ChatFormat(), tiny_adapter(base, tmp_path / "a")).components]
    assert names == ["L0.c_attn", "L0.attn.c_proj", "L0.c_fc", "L0.mlp.c_proj"]


def test_an_adapter_may_have_any_name(tiny_base: ModelRef, tmp_path: Path) -> None:
    from peft import PeftModel

    checkpoint = tiny_adapter(tiny_base, tmp_path, name="reasoning")
    model = PeftModel.from_pretrained(load_base(tiny_base), str(checkpoint.path), adapter_name="reasoning")
    assert {c.adapter for c in find_components(model)} == {"reasoning"}
    with pytest.raises(ModelError, match="binds no module"):
        find_components(model, "default")


def test_fused_matrices_are_components_of_the_block_they_are_in(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "phi3", layers=1)
    found = load_subject(base, ChatFormat(), tiny_adapter(base, tmp_path / "a")).components
    assert {(c.name, c.block) for c in found} == {
        ("L0.o_proj", "attention"), ("L0.qkv_proj", "attention"), ("L0.gate_up_proj", "mlp"), ("L0.down_proj", "mlp")
    }  # fmt: skip


def test_rank_and_scale_may_differ_between_modules(tiny_base: ModelRef, tmp_path: Path) -> None:
    checkpoint = tiny_adapter(
        tiny_base, tmp_path, rank=1, rslora=False, rank_pattern={"q_proj": 3}, alpha_pattern={"v_proj": 8}
    )
    subject = load_subject(tiny_base, ChatFormat(), checkpoint)
    found = {c.name: c for c in subject.components}
    assert {"L0.q_proj.r2", "L0.k_proj", "L1.q_proj.r0"} <= set(found)
    assert (found["L0.v_proj"].scaling, found["L0.k_proj"].scaling) == (8, 4)
    assert_scalars_are_what_the_adapter_adds(subject)


def test_adapters_on_every_other_layer_keep_their_numbers(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", layers=5)
    checkpoint = tiny_adapter(base, tmp_path / "a", layers_to_transform=[0, 2, 4], target_modules=["up_proj"])
    assert [c.layer for c in load_subject(base, ChatFormat(), checkpoint).components] == [0, 2, 4]


def test_with_two_adapters_loaded_the_active_one_is_read(tiny_base: ModelRef, tmp_path: Path) -> None:
    subject = load_subject(tiny_base, ChatFormat(), tiny_adapter(tiny_base, tmp_path / "a"))
    second = tiny_adapter(tiny_base, tmp_path / "b", rank=2, seed=1)
    subject.model.load_adapter(str(second.path), adapter_name="second")
    assert find_components(subject.model) == subject.components
    assert {c.rank for c in find_components(subject.model, "second")} == {2}
    subject.model.set_adapter("second")
    assert {c.adapter for c in find_components(subject.model)} == {"second"}
    subject.model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ModelError, match="active together"):
        find_components(subject.model)


def lora(kind: str) -> dict[str, Any]:
    return {
        "dora": {"use_dora": True},
        "bias": {"bias": "all"},
        "bias of b": {"lora_bias": True, "target_modules": ["q_proj"]},
        "whole modules": {"modules_to_save": ["lm_head"]},
        "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("dora", "not a plain LoRA"),
        ("bias", "trains biases"),
        ("bias of b", "bias in B"),
        ("whole modules", "modules_to_save"),
        ("embedding", "adapts a Embedding"),
    ],
)
def test_an_adapter_that_does_more_than_its_scalars_is_refused(
    tiny_base: ModelRef, tmp_path: Path, kind: str, reason: str
) -> None:
    checkpoint = tiny_adapter(tiny_base, tmp_path, **lora(kind))
    with pytest.raises(ModelError, match=reason):
        load_subject(tiny_base, ChatFormat(), checkpoint)


def test_another_kind_of_adapter_is_refused_by_its_name(tiny_base: ModelRef) -> None:
    from peft import AdaLoraConfig, IA3Config, get_peft_model

    ia3 = IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    ada = AdaLoraConfig(target_modules=["q_proj"], total_step=10)
    for config, name in ((ia3, "IA3"), (ada, "ADALORA")):
        with pytest.raises(ModelError, match=f"kind {name}: only a LoRA"):
            find_components(get_peft_model(load_base(tiny_base), config))


def test_adapters_that_share_one_matrix_are_refused(tiny_subject: Subject) -> None:
    layers = tiny_subject.model.get_base_model().model.layers
    layers[1].self_attn.q_proj.lora_A = layers[0].self_attn.q_proj.lora_A
    with pytest.raises(ModelError, match="share one lora_A"):
        find_components(tiny_subject.model)


def test_an_adapter_of_another_base_names_both_and_the_shapes(tmp_path: Path) -> None:
    small, large = tiny_model(tmp_path / "s"), tiny_model(tmp_path / "l", layers=3)
    with pytest.raises(ModelError, match=r"does not fit.*14 of its weights have no module there.*layers\.2"):
        load_subject(small, ChatFormat(), tiny_adapter(large, tmp_path / "a"))
    with pytest.raises(ModelError, match=r"has no weights for 14 of the matrices.*layers\.2.*another model$"):
        load_subject(large, ChatFormat(), tiny_adapter(small, tmp_path / "d"))
    stacked = AutoConfig.from_pretrained(small.path)
    stacked.intermediate_size = 64
    AutoModelForCausalLM.from_config(stacked).save_pretrained(large.path)
    with pytest.raises(ModelError, match=r"does not fit.*size mismatch"):
        load_subject(small, ChatFormat(), tiny_adapter(large, tmp_path / "c"))
    gpt2 = tiny_model(tmp_path / "g", "gpt2")
    with pytest.raises(ModelError, match=r"does not fit"):
        load_subject(small, ChatFormat(), tiny_adapter(gpt2, tmp_path / "b"))


def test_what_has_no_scalar_channels_is_refused(tiny_base: ModelRef, tiny_subject: Subject) -> None:
    with pytest.raises(ModelError, match="no active adapter"):
        find_components(load_base(tiny_base))
    tiny_subject.model.merge_adapter()
    with pytest.raises(ModelError, match="merged"):
        find_components(tiny_subject.model)
