"""Dictionaries go out to other tools and come back with the same codes; what cannot, is refused by name."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from harness.dictionaries.formats import FORMATS, export, read
from harness.dictionaries.weights import Weights, load_weights, save_weights
from harness.errors import DataError, UnknownName, UsageError
from harness.render.dictionary_command import DICTIONARY_FORMATS
from harness_plugins.dictionaries.files import open_codec


def made(*, d_in: int = 5, n: int = 9, signed: bool = False, one_threshold: bool = True, seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    threshold = torch.full((n,), 0.4) if one_threshold else torch.rand(n, generator=generator)
    return Weights(
        draw(d_in, n), draw(n, d_in), draw(n), draw(d_in), threshold, signed=signed, metadata={"k": 2, "columns": ["a"]}
    )


def codes(weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """The formula of the docstring, in float64."""
    w = {k: v.double() for k, v in weights.tensors().items()}
    pre = (x.double() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    size = pre.abs() if weights.signed else pre
    return torch.where(size > w["threshold"], pre, 0)


def rebuilt(weights: Weights, z: torch.Tensor) -> torch.Tensor:
    return z @ weights.W_dec.double() + weights.b_dec.double()


X = torch.randn(200, 5, generator=torch.Generator().manual_seed(9)) * 2


@pytest.mark.parametrize("signed", [False, True])
def test_the_codec_computes_the_formula(signed: bool) -> None:
    weights = made(signed=signed)
    codec = open_codec(weights)
    z = codec.encode(X)
    torch.testing.assert_close(z.double(), codes(weights, X), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(codec.decode(z).double(), rebuilt(weights, codes(weights, X)), rtol=1e-4, atol=1e-4)
    assert bool((z < 0).any()) == signed
    assert (codec.encode_sparse(X).toarray() == z.numpy()).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 12))
def test_polarities_are_the_signed_latents(seed: int, d_in: int, n: int) -> None:
    weights = made(d_in=d_in, n=n, signed=True, one_threshold=False, seed=seed)
    x = torch.randn(20, d_in, generator=torch.Generator().manual_seed(seed))
    z, both = codes(weights, x), codes(weights.unsigned(), x)
    torch.testing.assert_close(both[:, 0::2] - both[:, 1::2], z)
    assert not bool(((both[:, 0::2] > 0) & (both[:, 1::2] > 0)).any())
    torch.testing.assert_close(rebuilt(weights.unsigned(), both), rebuilt(weights, z))


@pytest.mark.parametrize("one_threshold", [True, False])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("form", FORMATS)
def test_what_goes_out_comes_back(form: str, signed: bool, one_threshold: bool, tmp_path: Path) -> None:
    weights = made(signed=signed, one_threshold=one_threshold)
    export(weights, tmp_path / "out", form)
    back = read(tmp_path / "out")
    assert not back.signed
    expected = codes(weights.unsigned(), X)
    torch.testing.assert_close(codes(back, X), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rebuilt(back, codes(back, X)), rebuilt(weights, codes(weights, X)), rtol=1e-5, atol=1e-5)
    assert back.metadata["columns"] == ["a"]
    assert back.metadata["k"] == 2


def test_the_own_layout_keeps_signed_latents_and_saelens_refuses_them(tmp_path: Path) -> None:
    weights = made(signed=True)
    save_weights(tmp_path, weights)
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] not in ("jumprelu", "standard", "topk")
    back = load_weights(tmp_path)
    assert back.signed
    for name, tensor in weights.tensors().items():
        assert torch.equal(back.tensors()[name], tensor)


def test_dictionary_learning_gets_a_class_that_computes_the_same(tmp_path: Path) -> None:
    """JumpReluAutoEncoder has thresholds of its own and never subtracts b_dec; BatchTopKSAE has one threshold."""
    for one, name in ((True, "BatchTopKSAE"), (False, "JumpReluAutoEncoder")):
        weights = made(one_threshold=one)
        export(weights, tmp_path / name, "dictionary-learning")
        config = json.loads((tmp_path / name / "config.json").read_text())["trainer"]
        assert (config["dict_class"], config["activation_dim"], config["dict_size"]) == (name, 5, 9)
        state = torch.load(tmp_path / name / "ae.pt", weights_only=True)
        if one:
            assert state["k"] == config["k"] == 2
            pre = (X - state["b_dec"]) @ state["encoder.weight"].T + state["encoder.bias"]
        else:
            pre = X @ state["W_enc"] + state["b_enc"]
        torch.testing.assert_close(
            (pre * (pre > state["threshold"])).relu().double(), codes(weights, X), rtol=1e-4, atol=1e-5
        )


def test_an_uncalibrated_threshold_keeps_what_is_positive(tmp_path: Path) -> None:
    export(made(), tmp_path, "dictionary-learning")
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    state["threshold"] = torch.tensor(-1.0)
    torch.save(state, tmp_path / "ae.pt")
    zero = replace(made(), threshold=torch.zeros(9))
    torch.testing.assert_close(codes(read(tmp_path), X), codes(zero, X), rtol=1e-5, atol=1e-5)


def test_saelens_without_b_dec_on_the_input(tmp_path: Path) -> None:
    export(made(), tmp_path, "saelens")
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "apply_b_dec_to_input": False}))
    weights = made()
    pre = X.double() @ weights.W_enc.double() + weights.b_enc.double()
    torch.testing.assert_close(codes(read(tmp_path), X), torch.where(pre > 0.4, pre, 0), rtol=1e-4, atol=1e-5)


def top(pre: torch.Tensor, k: int) -> torch.Tensor:
    """Pre where it is among the k largest of its row and positive."""
    order = pre.argsort(dim=1, descending=True)
    kept = torch.zeros_like(pre, dtype=torch.bool).scatter_(1, order[:, :k], True)
    return torch.where(kept & (pre > 0), pre, 0)


def folder(path: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], name: str = "sae_weights") -> Path:
    """A folder with `cfg.json` and a safetensors file."""
    path.mkdir(exist_ok=True)
    (path / "cfg.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in tensors.items()}, path / f"{name}.safetensors")
    return path


def linear(**more: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """SAELens' matrices and biases, 5 columns and 9 latents, and others of given shapes; all drawn."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"W_enc": (5, 9), "W_dec": (9, 5), "b_enc": (9,), "b_dec": (5,), **more}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


OLD = {
    "architecture": "standard", "d_in": 5, "d_sae": 9, "activation_fn_str": "relu", "activation_fn_kwargs": {},
    "apply_b_dec_to_input": True, "finetuning_scaling_factor": False, "normalize_activations": "none",
    "dtype": "float32", "device": "cpu", "hook_name": "blocks.3.hook_resid_post", "hook_layer": 3, "context_size": 128,
    "prepend_bos": True, "dataset_path": "d", "l1_coefficient": 5, "lp_norm": 1.0, "noise_scale": 0.0,
}  # fmt: skip
"""A config as SAELens 3 to 5 wrote it."""


def check(path: Path, z: torch.Tensor, x_hat: torch.Tensor) -> None:
    """Codes and reconstruction of the folder, also after it was stored in our layout."""
    for weights in (read(path), stored_and_read(read(path), path / "own")):
        codec = open_codec(weights)
        found = codec.encode(X)
        torch.testing.assert_close(found.double(), z, rtol=1e-4, atol=1e-5)
        assert torch.equal(found != 0, z != 0)
        torch.testing.assert_close(codec.decode(found).double(), x_hat, rtol=1e-4, atol=1e-4)


def stored_and_read(weights: Weights, path: Path) -> Weights:
    path.mkdir()
    save_weights(path, weights)
    return load_weights(path)


@pytest.mark.parametrize(
    ("change", "k"),
    [
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}, 3),
        ({"architecture": "topk", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}}, 2),
        ({"architecture": "topk", "activation_fn_str": None, "k": 4, "rescale_acts_by_decoder_norm": False}, 4),
        ({"architecture": "topk", "activation_fn_str": "relu", "k": 9}, 9),
    ],
)
def test_saelens_top_k_keeps_k_latents_of_a_token(change: dict[str, Any], k: int, tmp_path: Path) -> None:
    """Before version 6 only the activation function says so."""
    t = {name: tensor.double() for name, tensor in linear().items()}
    z = top((X.double() - t["b_dec"]) @ t["W_enc"] + t["b_enc"], k)
    path = folder(tmp_path / "sae", {**OLD, **change}, linear())
    check(path, z, z @ t["W_dec"] + t["b_dec"])
    assert read(path).metadata["k"] == k


def test_an_architecture_that_is_not_said_is_the_standard_one(tmp_path: Path) -> None:
    t = {name: tensor.double() for name, tensor in linear().items()}
    pre = (X.double() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    names = {"activation_fn_str": "activation_fn", "hook_name": "hook_point"}
    config = {names.get(name, name): value for name, value in OLD.items() if name != "architecture"}
    check(folder(tmp_path / "a", config, linear()), pre.relu(), pre.relu() @ t["W_dec"] + t["b_dec"])
    config = {**config, "activation_fn": "topk", "activation_fn_kwargs": {"k": 2}}
    check(folder(tmp_path / "b", config, linear()), top(pre, 2), top(pre, 2) @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("signed", [False, True])
def test_codes_of_a_top_k_dictionary_do_not_depend_on_the_batch(signed: bool) -> None:
    weights = replace(made(d_in=5, n=40, signed=signed), threshold=torch.zeros(40), k=3)
    codec = open_codec(weights)
    z = codec.encode(X)
    assert int((z != 0).sum(1).max()) == 3
    assert bool((z < 0).any()) == signed
    assert all(torch.equal(codec.encode(X[i : i + 1])[0], z[i]) for i in range(0, 200, 17))
    assert (codec.encode_sparse(X).toarray() == z.numpy()).all()
    both = open_codec(weights.unsigned()).encode(X)
    assert torch.equal(both if not signed else both[:, 0::2] - both[:, 1::2], z)


def test_scaling_by_decoder_norms_and_abs_top_k(tmp_path: Path) -> None:
    t = {name: tensor.double() for name, tensor in linear().items()}
    pre, norms = (X.double() - t["b_dec"]) @ t["W_enc"] + t["b_enc"], t["W_dec"].norm(dim=1)
    z = top(pre * norms, 3)
    config = {"architecture": "topk", "d_in": 5, "d_sae": 9, "k": 3, "rescale_acts_by_decoder_norm": True}
    check(folder(tmp_path / "a", config, linear()), z, z / norms @ t["W_dec"] + t["b_dec"])
    assert not torch.equal(z != 0, top(pre, 3) != 0)
    config |= {"architecture": "abstopk", "rescale_acts_by_decoder_norm": False}
    z = top(pre.abs(), 3) * pre.sign()
    check(folder(tmp_path / "b", config, linear()), z, z @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("centred", [True, False])
def test_a_gated_encoder_is_opened_as_the_thresholds_that_it_amounts_to(centred: bool, tmp_path: Path) -> None:
    tensors = linear(b_gate=(9,), b_mag=(9,), r_mag=(9,))
    del tensors["b_enc"]
    t = {name: tensor.double() for name, tensor in tensors.items()}
    u = (X.double() - t["b_dec"] * centred) @ t["W_enc"]
    z = (t["r_mag"].exp() * u + t["b_mag"]).relu() * (u + t["b_gate"] > 0)
    config = {**OLD, "architecture": "gated", "apply_b_dec_to_input": centred}
    check(folder(tmp_path / "sae", config, tensors), z, z @ t["W_dec"] + t["b_dec"])


def test_thresholds_that_are_stored_as_logarithms_or_of_a_training_checkpoint(tmp_path: Path) -> None:
    tensors = linear(log_threshold=(9,))
    t = {name: tensor.double() for name, tensor in tensors.items()}
    pre, norms = (X.double() - t["b_dec"]) @ t["W_enc"] + t["b_enc"], t["W_dec"].norm(dim=1)
    z = torch.where(pre > t["log_threshold"].exp(), pre, 0)
    check(folder(tmp_path / "a", {**OLD, "architecture": "jumprelu"}, tensors), z, z @ t["W_dec"] + t["b_dec"])
    tensors = {**linear(), "topk_threshold": torch.tensor(0.8, dtype=torch.float64)}
    for name, architecture in (("b", "batchtopk"), ("c", "matryoshka_batchtopk")):
        config = {"architecture": architecture, "d_in": 5, "d_sae": 9, "k": 2.5, "matryoshka_widths": [3, 9]}
        z = torch.where(pre * norms > 0.8, pre * norms, 0)
        check(folder(tmp_path / name, config, tensors), z, z / norms @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("name", ["scaling_factor", "finetuning_scaling_factor"])
def test_a_scaling_factor_scales_what_a_latent_writes(name: str, tmp_path: Path) -> None:
    tensors = linear(**{name: (9,)})
    t = {name: tensor.double() for name, tensor in tensors.items()}
    z = ((X.double() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    path = folder(tmp_path / "a", {**OLD, "finetuning_scaling_factor": True}, tensors)
    check(path, z, (z * t[name]) @ t["W_dec"] + t["b_dec"])
    with pytest.raises(DataError, match="finetuning_scaling_factor is false"):
        read(folder(tmp_path / "b", OLD, tensors))
    check(folder(tmp_path / "c", OLD, {**tensors, name: torch.ones(9)}), z, z @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("value", [False, None, "none", ""])
def test_spellings_of_none_are_none(value: Any, tmp_path: Path) -> None:
    config = {**OLD, "normalize_activations": value, "reshape_activations": value, "of_tomorrow": value}
    assert read(folder(tmp_path, config, linear())).n_latents == 9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "topk"}, "'topk' without a k"),
        ({"architecture": "temporal"}, "'temporal' is not one linear encoder"),
        ({"architecture": "transcoder"}, "'transcoder' is not one linear encoder"),
        ({"architecture": ["standard"]}, "the architecture ['standard']"),
        ({"architecture": "gated"}, "no tensor 'b_gate'"),
        ({"activation_fn_str": "tanh-relu"}, "activation_fn='tanh-relu'"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {}}, "activation_fn='topk'"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2, "postact_fn": "tanh"}}, "postact_fn"),
        ({"architecture": "jumprelu", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}}, "'jumprelu'"),
        ({"activation_fn": "topk"}, "contradict each other"),
        ({"architecture": "topk", "k": 10}, "k=10 is no whole number from 1 to 9"),
        ({"architecture": "topk", "k": 2.5}, "k=2.5"),
        ({"architecture": "topk", "k": True}, "k=True"),
        ({"normalize_activations": True}, "normalize_activations=True"),
        ({"normalize_activations": "expected_average_only_in"}, "normalize_activations='expected_average_only_in'"),
        ({"normalize_activations": "constant_norm_rescale"}, "normalize_activations='constant_norm_rescale'"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm'"),
        ({"normalize_activations": "of_tomorrow"}, "normalize_activations='of_tomorrow'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations='hook_z'"),
        ({"hook_name": "blocks.0.attn.hook_z"}, "reshape_activations='hook_z'"),
        ({"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm"),
        ({"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input='no' is neither true nor false"),
        ({"d_sae": 10}, "d_sae=10"),
        ({"d_out": 4}, "d_out=4"),
        ({"post_encoder_scale": 2}, "post_encoder_scale=2 is no field of SAELens"),
    ],
)
def test_what_this_layout_cannot_say_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(folder(tmp_path, {**OLD, **change}, linear()))
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["threshold", "W_skip", "running_norm"])
def test_a_tensor_that_is_not_known_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"the tensor '{name}' is not known here"):
        read(folder(tmp_path, OLD, linear(**{name: (9,)})))


SPARSIFY = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": 9, "k": 3,
            "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": 5}  # fmt: skip


def sparsify_tensors() -> dict[str, torch.Tensor]:
    t = linear()
    return {"encoder.weight": t["W_enc"].T, "encoder.bias": t["b_enc"], "W_dec": t["W_dec"], "b_dec": t["b_dec"]}


@pytest.mark.parametrize("change", [{}, {"signed": True}, {"signed": False, "num_latents": 0}])
def test_sparsify_folders_open(change: dict[str, Any], tmp_path: Path) -> None:
    t = {name: tensor.double() for name, tensor in linear().items()}
    pre = (X.double() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    z = top(pre.abs(), 3) * pre.sign() if change.get("signed") else top(pre, 3)
    path = folder(tmp_path / "sae", {**SPARSIFY, **change}, sparsify_tensors(), "sae")
    check(path, z, z @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation": "groupmax"}, "activation='groupmax'"),
        ({"skip_connection": True}, "skip_connection"),
        ({"transcode": True}, "transcode"),
        ({"k": 0}, "k=0"),
        ({"num_latents": 8}, "8"),
        ({"post_norm": 1}, "post_norm=1 is no field of sparsify"),
    ],
)
def test_what_sparsify_computes_otherwise_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read(folder(tmp_path, {**SPARSIFY, **change}, sparsify_tensors(), "sae"))


def written(path: Path, name: str, state: dict[str, torch.Tensor], **trainer: Any) -> Path:
    """A folder of dictionary_learning."""
    path.mkdir(exist_ok=True)
    torch.save(state, path / "ae.pt")
    config = {"dict_class": name, "activation_dim": 5, "dict_size": 9, "lr": 0.1, "l1_penalty": 0.1, **trainer}
    (path / "config.json").write_text(json.dumps({"trainer": config, "buffer": {"ctx_len": 128}}))
    return path


def test_every_class_of_dictionary_learning(tmp_path: Path) -> None:
    """Its classes' formulas, in float64."""
    t = linear(b_gate=(9,), b_mag=(9,), r_mag=(9,), threshold=(9,))
    w = {"encoder.weight": t["W_enc"].T, "decoder.weight": t["W_dec"].T}
    biased = {**w, "encoder.bias": t["b_enc"]}
    one = {**biased, "b_dec": t["b_dec"], "k": torch.tensor(3, dtype=torch.int), "threshold": torch.tensor(0.6)}
    d = {name: tensor.double() for name, tensor in t.items()}
    x, norms = X.double(), d["W_dec"].norm(dim=1)
    raw, u = x @ d["W_enc"] + d["b_enc"], (x - d["b_dec"]) @ d["W_enc"]
    pre = u + d["b_enc"]
    matrices = {name: t[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    groups = {"k": one["k"], "threshold": one["threshold"], "group_sizes": torch.tensor([4, 5])}
    gate = {"decoder_bias": t["b_dec"], "gate_bias": t["b_gate"], "mag_bias": t["b_mag"], "r_mag": t["r_mag"]}
    gated = (d["r_mag"].exp() * u + d["b_mag"]).relu() * (u + d["b_gate"] > 0)
    cases = {
        "AutoEncoder": ({**biased, "bias": t["b_dec"]}, pre.relu() * norms, 1 / norms),
        "AutoEncoderNew": ({**biased, "decoder.bias": t["b_dec"]}, raw.relu(), 1),
        "GatedAutoEncoder": ({**w, **gate}, gated, 1),
        "AutoEncoderTopK": (one, top(pre, 3), 1),
        "BatchTopKSAE": (one, torch.where(pre > 0.6, pre, 0), 1),
        "MatryoshkaBatchTopKSAE": ({**matrices, **groups}, torch.where(pre > 0.6, pre, 0), 1),
        "JumpReluAutoEncoder": ({**matrices, "threshold": t["threshold"]}, raw.relu() * (raw > d["threshold"]), 1),
    }
    for name, (state, z, scale) in cases.items():
        trainer = {"k": 3} if "k" in state else {}
        check(written(tmp_path / name, name, state, **trainer), z, (z * scale) @ d["W_dec"] + d["b_dec"])
    with pytest.raises(DataError, match=r"k=4 in config\.json and 3 in ae\.pt"):
        read(written(tmp_path / "k", "AutoEncoderTopK", one, k=4))
    with pytest.raises(DataError, match="'extra' is not known here"):
        read(written(tmp_path / "extra", "BatchTopKSAE", {**one, "extra": torch.zeros(9)}))
    with pytest.raises(DataError, match="post_scale=2 is no field of dictionary_learning"):
        read(written(tmp_path / "field", "BatchTopKSAE", one, post_scale=2))
    state = {**matrices, **groups, "group_sizes": torch.tensor([4, 4])}
    with pytest.raises(DataError, match=r"group_sizes \[4, 4\] do not add up"):
        read(written(tmp_path / "groups", "MatryoshkaBatchTopKSAE", state))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("signed", [False, True])
def test_a_top_k_dictionary_goes_out_and_comes_back(form: str, signed: bool, tmp_path: Path) -> None:
    weights = replace(made(signed=signed), threshold=torch.zeros(9), k=2)
    export(weights, tmp_path, form)
    back = read(tmp_path)
    assert (back.k, back.signed) == (2, False)
    torch.testing.assert_close(open_codec(back).encode(X), open_codec(weights.unsigned()).encode(X))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no dictionary"):
        read(tmp_path)
    export(made(), tmp_path / "a", "saelens")
    file = tmp_path / "a" / "sae_weights.safetensors"
    tensors = load_file(file)
    for broken, words in (
        ({**tensors, "b_enc": torch.zeros(3)}, "b_enc has shape"),
        ({**tensors, "W_dec": tensors["W_dec"] * torch.inf}, "W_dec is not finite"),
        ({k: v for k, v in tensors.items() if k != "threshold"}, "no tensor 'threshold'"),
    ):
        save_file(broken, file)
        with pytest.raises(DataError, match=words):
            read(tmp_path / "a")
    file.write_bytes(b"x")
    with pytest.raises(DataError, match="cannot read"):
        read(tmp_path / "a")
    (tmp_path / "a" / "cfg.json").write_text("[1]")
    with pytest.raises(DataError, match="no JSON object"):
        read(tmp_path / "a")


def test_a_pickle_is_read_as_tensors_and_never_run(tmp_path: Path) -> None:
    export(made(), tmp_path, "dictionary-learning")
    proof = tmp_path / "proof"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (proof,))  # type: ignore[return-value]

    with (tmp_path / "ae.pt").open("wb") as stream:
        pickle.dump({"k": Payload()}, stream)
    with pytest.raises(DataError, match="as tensors"):
        read(tmp_path)
    assert not proof.exists()


def test_other_classes_of_dictionary_learning_are_refused(tmp_path: Path) -> None:
    export(made(), tmp_path, "dictionary-learning")
    for name in ("IdentityDict", "CrossCoder", ["BatchTopKSAE"], None):
        (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": name}}))
        with pytest.raises(DataError, match=r"is not a linear encoder with thresholds or a top-k.*BatchTopKSAE"):
            read(tmp_path)


def test_an_export_overwrites_nothing_and_knows_its_formats(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        export(made(), tmp_path, "saelens")
    with pytest.raises(UnknownName, match="nearest: 'saelens'"):
        export(made(), tmp_path / "x", "saelense")
    assert FORMATS == DICTIONARY_FORMATS, "the command line knows every format"
