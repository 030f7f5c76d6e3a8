"""Attaching an adapter leaves the base as it is, whatever PEFT would do to it; what cannot be attached is named."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from harness.errors import ModelError
from harness.model.attach import attach_adapter
from harness.model.chat import ChatFormat
from harness.model.components import find_components
from harness.model.lora_folder import CONFIG, WEIGHTS, load_lora, read_lora
from harness.model.subject import Subject, base_under, load_base, load_subject
from harness.model.taps import ablate, component_sites, tap
from harness.records import Checkpoint, ModelRef
from harness.testing import Architecture, tiny_adapter, tiny_model

IDS = torch.tensor([[5, 9, 40, 77, 100, 12, 30, 31, 32]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        values: torch.Tensor = model(input_ids=IDS).logits
    return values


def subject_of(base: ModelRef, folder: Path) -> Subject:
    checkpoint = Checkpoint(kind="adapter", path=folder, base=base, chat_hash="", n_parameters=0, n_examples=0)
    return load_subject(base, ChatFormat(), checkpoint)


def all_off(subject: Subject) -> torch.Tensor:
    components = subject.components
    with tap(subject.model, component_sites(components), ablate(components, components), read=False):
        return logits(subject.model)


def trained(base: ModelRef, folder: Path, init: Any, **settings: Any) -> torch.Tensor:
    """Save an adapter of that initialisation after a step that changes A and B; its logits as they were in training."""
    conv1d = load_base(base).config.model_type == "gpt2"
    targets = ["c_attn", "c_fc"] if conv1d else ["q_proj", "up_proj", "down_proj"]
    fields = {"r": 2, "lora_alpha": 3, "target_modules": targets, "fan_in_fan_out": conv1d, **settings}
    model = get_peft_model(load_base(base), LoraConfig(init_lora_weights=init, task_type="CAUSAL_LM", **fields)).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    model.save_pretrained(str(folder))
    return logits(model)


@pytest.mark.parametrize(
    ("init", "architecture", "settings"),
    [
        ("pissa", "qwen2", {"r": 1}),
        (
            "pissa",
            "qwen2",
            {"r": 4, "use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 7}},
        ),
        ("pissa", "gpt2", {}),
        ("olora", "qwen2", {}),
        ("olora", "llama", {"r": 20}),  # twice the rank is more than the width
        ("OLoRA", "qwen2", {"use_rslora": True}),
    ],
)
def test_an_adapter_that_was_trained_on_changed_weights_becomes_a_plain_one(
    init: str, architecture: Architecture, settings: dict[str, Any], tmp_path: Path
) -> None:
    """The model is the trained one, and with every component off it is the base, to the last bit."""
    base = tiny_model(tmp_path / "base", architecture)
    wanted = trained(base, tmp_path / "adapter", init, **settings)
    subject, plain = subject_of(base, tmp_path / "adapter"), load_base(base)
    torch.testing.assert_close(logits(subject.model), wanted, rtol=1e-4, atol=1e-4)  # float32, other order of sums
    assert not torch.allclose(wanted, logits(plain), atol=1e-2)
    assert torch.equal(all_off(subject), logits(plain))
    with subject.model.disable_adapter():
        assert torch.equal(logits(subject.model), logits(plain))
    ours = dict(subject.model.unload().named_parameters())
    assert all(torch.equal(p, ours[name]) for name, p in plain.named_parameters())
    ranks = {c.rank for c in subject.components}
    assert ranks == {2 * r for r in {settings.get("r", 2), *settings.get("rank_pattern", {}).values()}}


def test_conversion_gives_what_pefts_own_conversion_gives(tiny_base: ModelRef, tmp_path: Path) -> None:
    """PEFT's needs the initial adapter, saved before training."""
    config = LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM")
    model = get_peft_model(load_base(tiny_base), config).eval()
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(str(tmp_path / "initial"))
    model.peft_config["default"].init_lora_weights = "pissa"
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data *= 1.5
    model.save_pretrained(str(tmp_path / "raw"))
    model.save_pretrained(str(tmp_path / "plain"), path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    theirs = PeftModel.from_pretrained(load_base(tiny_base), str(tmp_path / "plain")).eval()
    ours = attach_adapter(load_base(tiny_base), str(tmp_path / "raw"))
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-4, atol=1e-4)


def test_a_base_in_bfloat16_stays_as_it_is(tiny_base: ModelRef, tmp_path: Path) -> None:
    half = tiny_base.model_copy(update={"dtype": "bfloat16"})
    trained(half, tmp_path / "adapter", "pissa")
    subject = subject_of(half, tmp_path / "adapter")
    assert torch.equal(all_off(subject), logits(load_base(half)))


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_initialisations_that_leave_the_base_alone_are_attached_as_peft_does(
    tiny_base: ModelRef, tmp_path: Path, init: Any
) -> None:
    trained(tiny_base, tmp_path / "adapter", True)
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    (tmp_path / "adapter" / CONFIG).write_text(json.dumps({**config, "init_lora_weights": init}))
    theirs = PeftModel.from_pretrained(load_base(tiny_base), str(tmp_path / "adapter")).eval()
    ours = attach_adapter(load_base(tiny_base), str(tmp_path / "adapter"))
    state = ours.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[k], v) and state[k].dtype == v.dtype for k, v in theirs.state_dict().items())
    assert torch.equal(logits(ours), logits(theirs))
    assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]


@pytest.mark.parametrize("init", ["corda", "loftq", "lora_ga", "pissa_niter_1", "pissa_of_tomorrow"])
def test_what_cannot_be_converted_is_refused_with_the_conversion(
    tiny_base: ModelRef, tmp_path: Path, init: str
) -> None:
    """Their factors come from data, are random, or are not the whole change; an unknown one may be anything."""
    trained(tiny_base, tmp_path / "adapter", True)
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    (tmp_path / "adapter" / CONFIG).write_text(json.dumps({**config, "init_lora_weights": init}))
    with pytest.raises(ModelError, match=rf"init_lora_weights='{init}'.*path_initial_model_for_weight_conversion"):
        subject_of(tiny_base, tmp_path / "adapter")
    with pytest.raises(ModelError, match=rf"init_lora_weights='{init}'.*pretrained-adapter"):
        read_lora(tmp_path / "adapter")


def with_tensors(source: Path, folder: Path, **tensors: torch.Tensor) -> Path:
    """The adapter in another folder, with more tensors in its file; `__` in a name is a dot."""
    shutil.copytree(source, folder)
    more = {f"base_model.model.{k.replace('__', '.')}": v.clone().contiguous() for k, v in tensors.items()}
    save_file({**load_file(source / WEIGHTS[0]), **more}, folder / WEIGHTS[0])
    return folder


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("model__layers__0__self_attn__q_proj__base_layer__weight", "model.layers.0.self_attn.q_proj.weight"),
        ("model__embed_tokens__weight", "model.embed_tokens.weight"),
        ("lm_head__weight", "lm_head.weight"),  # tied to the embeddings
        ("model__norm__weight", "model.norm.weight"),
    ],
)
def test_weights_of_the_base_that_are_stored_with_an_adapter_must_be_the_bases(
    tiny_base: ModelRef, tmp_path: Path, key: str, name: str
) -> None:
    adapter, base = tiny_adapter(tiny_base, tmp_path / "adapter").path, load_base(tiny_base)
    own = base.state_dict()[name]
    same = subject_of(tiny_base, with_tensors(adapter, tmp_path / "same", **{key: own}))
    assert torch.equal(all_off(same), logits(base))
    other = with_tensors(adapter, tmp_path / "other", **{key: own + torch.eye(*own.shape, 1)[..., 0] * 1e-3
                                                         if own.dim() == 1 else own + 1e-3})  # fmt: skip
    with pytest.raises(ModelError, match=rf"stores base_model\.model\.{key.replace('__', '.')}, of other values"):
        subject_of(tiny_base, other)
    resized = with_tensors(adapter, tmp_path / "resized", **{key: torch.cat([own, own[:2]])})
    with pytest.raises(ModelError, match="of other values than the base's own"):
        subject_of(tiny_base, resized)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("matrix", "rank"), [("lora_A", 1), ("lora_B", 3)])
def test_weights_that_are_not_finite_are_named(
    tiny_base: ModelRef, tmp_path: Path, matrix: str, rank: int, value: float
) -> None:
    folder = tiny_adapter(tiny_base, tmp_path, rank=rank).path
    tensors = load_file(folder / WEIGHTS[0])
    key = f"base_model.model.model.layers.1.mlp.up_proj.{matrix}.weight"
    tensors[key].view(-1)[-1] = value
    save_file(tensors, folder / WEIGHTS[0])
    with pytest.raises(ModelError, match=rf"{key} is not finite"):
        subject_of(tiny_base, folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora_alpha": float("nan")}, "lora_alpha=nan is no finite number"),
        ({"lora_alpha": float("inf")}, "lora_alpha=inf"),
        ({"lora_alpha": "4"}, "lora_alpha='4'"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "q_proj=nan"),
        ({"r": 0}, "r=0 is no whole number above 0"),
        ({"rank_pattern": {"q_proj": 1.5}}, "q_proj=1.5"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"r": 10**12}, "size mismatch"),
        ({"layer_replication": [[0, 1], [0, 2]]}, r"layer_replication=\[\[0, 1\], \[0, 2\]\]"),
        ({"alora_invocation_tokens": [5, 6], "task_type": "CAUSAL_LM"}, r"alora_invocation_tokens=\[5, 6\]"),
        ({"use_dora": True}, "not a plain LoRA .use_dora=True"),
        ({"kasa_config": {}, "bias": "lora_only"}, "bias='lora_only'"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
        ({"peft_type": "PROMPT_TUNING"}, "kind PROMPT_TUNING"),
        ({"peft_type": "LOHA"}, "kind LOHA"),
        ({"peft_type": 3}, "peft_type"),
        ({"gate_of_tomorrow": {"on": True}}, "does not know 'gate_of_tomorrow'"),
        ({"target_modules": "("}, "does not fit"),
        ({"target_modules": {"q_proj": 1}}, "does not fit|no configuration"),
        ({"target_modules": ["q_proj"]}, "24 of its weights have no module there"),
    ],
)
def test_settings_that_are_no_plain_lora_are_named(
    tiny_base: ModelRef, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = tiny_adapter(tiny_base, tmp_path).path
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=words):
        subject_of(tiny_base, folder)


def test_unknown_settings_that_are_off_change_nothing(tiny_base: ModelRef, tmp_path: Path) -> None:
    folder = tiny_adapter(tiny_base, tmp_path).path
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "of_tomorrow": None, "other": False, "third": {}}))
    assert len(subject_of(tiny_base, folder).components) == 14


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."])
@pytest.mark.parametrize("inside", [False, True])
def test_prefixes_of_wrappers_are_taken_off(tiny_base: ModelRef, tmp_path: Path, prefix: str, inside: bool) -> None:
    """Of the whole PEFT model, or of the base or a layer in it."""
    folder = tiny_adapter(tiny_base, tmp_path / "adapter").path
    wanted = logits(subject_of(tiny_base, folder).model)
    stored = load_file(folder / WEIGHTS[0])
    if inside and not prefix.startswith("module"):
        for part in ("base_model.model.", "layers.1."):
            stored = {k.replace(part, part + prefix): v for k, v in stored.items()}
    else:
        stored = {prefix + k: v for k, v in stored.items()}
    save_file(stored, folder / WEIGHTS[0])
    assert torch.equal(logits(subject_of(tiny_base, folder).model), wanted)


def test_names_that_are_nobodys_are_said_before_anything_is_judged(tiny_base: ModelRef, tmp_path: Path) -> None:
    folder = tiny_adapter(tiny_base, tmp_path / "adapter").path
    stored = load_file(folder / WEIGHTS[0])
    save_file({k.replace(".lora_A.", ".lora_down."): v for k, v in stored.items()}, folder / WEIGHTS[0])
    with pytest.raises(ModelError, match=r"14 of its weights have no module there.*down_proj\.lora_down\.weight"):
        subject_of(tiny_base, folder)
    save_file({f"unet.{k}": v for k, v in stored.items()}, folder / WEIGHTS[0])
    with pytest.raises(ModelError, match=r"'unet\.base_model.*in the file, 'base_model.*expected"):
        subject_of(tiny_base, folder)


def damage(folder: Path, kind: str) -> None:
    config, weights = folder / CONFIG, folder / WEIGHTS[0]
    if kind == "empty":
        weights.write_bytes(b"")
    elif kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "no tensors":
        save_file({}, weights)
    elif kind == "whole numbers":
        save_file({k: v.int() for k, v in load_file(weights).items()}, weights)
    elif kind == "missing":
        weights.unlink()
    elif kind == "pickle":
        weights.unlink()
        torch.save({"run": shutil.rmtree}, folder / WEIGHTS[1])
    elif kind == "list":
        config.write_text("[1, 2]")
    elif kind == "no object":
        config.write_text('{"peft_type": ')
    elif kind == "deep":
        config.write_text("[" * 100_000)
    elif kind == "binary":
        config.write_bytes(b"\xff\xfe\x00{")
    elif kind == "no kind":
        config.write_text("{}")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", r"cannot read .*adapter_model\.safetensors: .*copy the adapter again"),
        ("truncated", r"cannot read .*adapter_model\.safetensors"),
        ("no tensors", "holds no weights"),
        ("whole numbers", "no tensor of floating-point numbers"),
        ("missing", r"has no weights: neither adapter_model\.safetensors nor adapter_model\.bin"),
        ("pickle", r"cannot read .*adapter_model\.bin"),
        ("list", "no configuration of PEFT"),
        ("no object", r"cannot read .*adapter_config\.json"),
        ("deep", r"cannot read .*adapter_config\.json"),
        ("binary", r"cannot read .*adapter_config\.json"),
        ("no kind", "peft_type"),
    ],
)
def test_damaged_files_are_named(tiny_base: ModelRef, tmp_path: Path, kind: str, words: str) -> None:
    folder = tiny_adapter(tiny_base, tmp_path).path
    damage(folder, kind)
    with pytest.raises(ModelError, match=words):
        subject_of(tiny_base, folder)


def test_a_pickle_of_tensors_is_read_as_tensors(tiny_base: ModelRef, tmp_path: Path) -> None:
    folder = tiny_adapter(tiny_base, tmp_path).path
    wanted = logits(subject_of(tiny_base, folder).model)
    torch.save(load_file(folder / WEIGHTS[0]), folder / WEIGHTS[1])
    (folder / WEIGHTS[0]).unlink()
    assert torch.equal(logits(subject_of(tiny_base, folder).model), wanted)


@pytest.mark.parametrize("matrix", ["lora_A", "lora_B"])
def test_an_adapter_that_changes_nothing_is_said_once(
    tiny_base: ModelRef, tmp_path: Path, caplog: pytest.LogCaptureFixture, matrix: str
) -> None:
    folder = tiny_adapter(tiny_base, tmp_path, rank=2).path
    tensors = {k: v * 0 if matrix in k else v for k, v in load_file(folder / WEIGHTS[0]).items()}
    save_file(tensors, folder / WEIGHTS[0])
    with caplog.at_level(logging.WARNING):
        subject = subject_of(tiny_base, folder)
    assert caplog.text.count("changes nothing") == 1
    assert torch.equal(logits(subject.model), logits(load_base(tiny_base)))


def test_numbers_of_a_plain_adapter_are_pefts_to_the_last_bit(tiny_base: ModelRef, tmp_path: Path) -> None:
    folder = tiny_adapter(tiny_base, tmp_path, rank=3).path
    theirs = PeftModel.from_pretrained(load_base(tiny_base), str(folder)).eval()
    ours = attach_adapter(load_base(tiny_base), str(folder))
    assert torch.equal(logits(ours), logits(theirs))
    assert find_components(ours) == find_components(theirs)
    assert load_lora(folder).tensors.keys() == load_file(folder / WEIGHTS[0]).keys()


def test_patterns_of_a_compiled_model_keep_their_ranks_and_scales(tiny_base: ModelRef, tmp_path: Path) -> None:
    """An alpha that no longer matched its module would be another scaling without a word."""
    name = "model.layers.1.self_attn.q_proj"
    folder = tiny_adapter(tiny_base, tmp_path, rank_pattern={name: 2}, alpha_pattern={name: 9}).path
    wanted = logits(subject_of(tiny_base, folder).model)
    config = json.loads((folder / CONFIG).read_text())
    for pattern in ("rank_pattern", "alpha_pattern"):
        config[pattern] = {f"_orig_mod.{module}": value for module, value in config[pattern].items()}
    (folder / CONFIG).write_text(json.dumps(config))
    assert torch.equal(logits(subject_of(tiny_base, folder).model), wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["lm_head", "q_proj"]},  # the head is tied to the embeddings
        {"target_modules": r".*layers\.1\..*(q|v)_proj"},
        {"target_modules": "all-linear", "exclude_modules": ["q_proj"]},
        {"lora_dropout": 0.3, "task_type": "CAUSAL_LM"},
    ],
)
def test_modules_are_chosen_as_peft_chooses_them(tiny_base: ModelRef, tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = tiny_adapter(tiny_base, tmp_path, **settings).path
    theirs = PeftModel.from_pretrained(load_base(tiny_base), str(folder)).eval()
    subject = subject_of(tiny_base, folder)
    assert torch.equal(logits(subject.model), logits(theirs))
    assert torch.equal(all_off(subject), logits(load_base(tiny_base)))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_base_is_named(tmp_path: Path, file: str) -> None:
    base = tiny_model(tmp_path / "base")
    (tmp_path / "base" / file).write_bytes((tmp_path / "base" / file).read_bytes()[:90])
    with pytest.raises(ModelError, match=r"cannot load the (model|tokenizer) .*base"):
        load_subject(base, ChatFormat())


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_another_adapter_on_the_loaded_base_is_as_if_all_were_loaded_again(
    architecture: Architecture, tmp_path: Path
) -> None:
    """Base, adapters of two ranks and a PiSSA in turn on one loaded base: logits are those of a fresh load, bit for
    bit."""
    base = tiny_model(tmp_path / "base", architecture)
    trained(base, tmp_path / "pissa", "pissa")
    folders = [
        *(tiny_adapter(base, tmp_path / f"rank{rank}", rank=rank, seed=rank).path for rank in (1, 2)),
        tmp_path / "pissa",
    ]
    bare = load_subject(base, ChatFormat())
    subject, weights = bare, {n: p.data_ptr() for n, p in bare.model.named_parameters()}
    plain = logits(bare.model)
    for folder in (*folders, folders[0]):
        fresh = subject_of(base, folder)
        subject = load_subject(base, ChatFormat(), fresh.checkpoint, loaded=base_under(subject))
        torch.testing.assert_close(logits(subject.model), logits(fresh.model), rtol=0, atol=0)
        assert subject.components == fresh.components
    again = load_subject(base, ChatFormat(), loaded=base_under(subject))
    assert {n: p.data_ptr() for n, p in again.model.named_parameters()} == weights, "nothing was copied"
    assert torch.equal(logits(again.model), plain)


def test_there_is_no_base_under_a_full_fine_tune(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    full = Checkpoint(kind="full", path=Path(base.path), base=base, chat_hash="", n_parameters=0, n_examples=0)
    assert base_under(load_subject(base, ChatFormat(), full)) is None
