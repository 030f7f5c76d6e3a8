"""Components: what is read at a component, times its scale and its column of B, is what the adapter adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import ModelError
from harness.model.chat import ChatFormat
from harness.model.components import find_components
from harness.model.subject import Subject, load_base, load_subject
from harness.model.taps import Site, component_sites, tap
from harness.records import ModelRef
from harness.testing import tiny_adapter, tiny_model, tiny_traces

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def ids(subject: Subject) -> torch.Tensor:
    return torch.tensor([subject.chat.document(subject.tokenizer, tiny_traces(1)[0]).ids])


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("rslora", [True, False])
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_scalars_times_scale_and_b_are_what_the_adapter_adds(
    tmp_path: Path, rank: int, rslora: bool, architecture: Any
) -> None:
    base = tiny_model(tmp_path / "base", architecture)
    subject = load_subject(base, ChatFormat(), tiny_adapter(base, tmp_path / "a", rank=rank, rslora=rslora))
    model, found = subject.model, subject.components
    modules = list(dict.fromkeys(c.module for c in found))
    width = {m: model.get_submodule(m).lora_B["default"].weight.shape[0] for m in modules}
    with tap(model, component_sites(found)) as scalars, torch.no_grad():
        with tap(model, [Site(m, "input", 0) for m in modules]) as inputs:
            with tap(model, [Site(m, "output", width[m]) for m in modules]) as outputs:
                model(ids(subject), use_cache=False)
    s = scalars.values()
    assert s.shape[-1] == len(found) == rank * len(modules)
    read, written = inputs.values(), outputs.values()
    at_in = at_out = 0
    for module in modules:
        lora = model.get_submodule(module)
        d_in = lora.lora_A["default"].weight.shape[1]
        x = read[..., at_in : at_in + d_in]
        added = written[..., at_out : at_out + width[module]] - lora.base_layer(x)
        at_in, at_out = at_in + d_in, at_out + width[module]
        mine = [i for i, c in enumerate(found) if c.module == module]
        b = lora.lora_B["default"].weight
        expected = sum(s[..., i, None] * found[i].scaling * b[:, found[i].rank_index] for i in mine)
        # float32: the sum is formed in another order than PEFT's.
        torch.testing.assert_close(added, expected, rtol=1e-3, atol=1e-4)


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


def test_what_has_no_scalar_channels_is_refused(tiny_base: ModelRef, tiny_subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no active adapter"):
        find_components(load_base(tiny_base))
    with pytest.raises(ModelError, match="not a plain LoRA"):
        load_subject(tiny_base, ChatFormat(), tiny_adapter(tiny_base, tmp_path, use_dora=True))
    tiny_subject.model.merge_adapter()
    with pytest.raises(ModelError, match="merged"):
        find_components(tiny_subject.model)
