"""Dictionaries go out to other tools and come back with the same codes; what cannot, is refused by name."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "topk"}, "'topk' has no fixed threshold"),
        ({"architecture": "gated"}, "'gated' has no fixed threshold"),
        ({"normalize_activations": "expected_average_only_in"}, "normalize_activations='expected_average_only_in'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations='hook_z'"),
    ],
)
def test_what_this_layout_cannot_say_is_refused(change: dict[str, str], words: str, tmp_path: Path) -> None:
    export(made(), tmp_path, "saelens")
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert words in str(caught.value)


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
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "GatedAutoEncoder"}}))
    with pytest.raises(DataError, match=r"GatedAutoEncoder is not a thresholded linear encoder.*BatchTopKSAE"):
        read(tmp_path)


def test_an_export_overwrites_nothing_and_knows_its_formats(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        export(made(), tmp_path, "saelens")
    with pytest.raises(UnknownName, match="nearest: 'saelens'"):
        export(made(), tmp_path / "x", "saelense")
    assert FORMATS == DICTIONARY_FORMATS, "the command line knows every format"
