"""The card of an adapter: each number against weights multiplied out, and every sign of a fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.cli import main
from harness.errors import ModelError
from harness.model.attach import attach_adapter
from harness.model.card import Adapter, make_card, overlaps
from harness.model.lens import Lens
from harness.model.subject import load_base
from harness.records import ModelRef
from harness.testing import tiny_adapter, tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """Four layers, so that shares and medians say something."""
    return tiny_model(tmp_path_factory.mktemp("base"), layers=4)


@pytest.fixture(scope="module", params=[1, 3])
def adapter(request: pytest.FixtureRequest, base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter of rank 1, and one of rank 3."""
    return Path(tiny_adapter(base, tmp_path_factory.mktemp("adapter"), rank=request.param).path)


def weights(base: ModelRef, adapter: Path) -> dict[str, np.ndarray]:
    """Weights that are added, as PEFT multiplies it out."""
    model = attach_adapter(load_base(base), str(adapter))
    return {
        path: module.get_delta_weight("default").double().numpy()
        for path, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def test_norms_spectra_and_shares_are_those_of_the_weights(base: ModelRef, adapter: Path) -> None:
    """Singular values of the multiplied-out weights; factors in float32 keep five digits."""
    card = make_card(adapter, base.path, n_components=0)
    dense = weights(base, adapter)
    total = sum((w**2).sum() for w in dense.values())
    assert {m.module for m in card.modules} == set(dense)
    for m in card.modules:
        values = np.linalg.svd(dense[m.module], compute_uv=False)[: m.rank]
        np.testing.assert_allclose(m.spectrum, values, rtol=1e-5)
        assert m.share == pytest.approx((values**2).sum() / total, rel=1e-5)
        assert m.effective_rank == pytest.approx((values**2).sum() ** 2 / (values**4).sum(), rel=1e-5)
    for group in (*card.projections, *card.layers):
        modules = [w for p, w in dense.items() if group.name in (p.split(".")[-1], f"L{p.split('.')[4]}")]
        assert len(modules) == group.n_modules
        assert group.norm == pytest.approx(np.sqrt(sum((w**2).sum() for w in modules)), rel=1e-5)
    assert sum(g.share for g in card.layers) == pytest.approx(1)


def test_promoted_tokens_are_those_of_the_loaded_model(base: ModelRef, adapter: Path) -> None:
    """The card reads the files lazily; the lens of the loaded model says the same."""
    card = make_card(adapter, base.path, n_components=2, n_null=19)
    read = Adapter.read(adapter, base.path)
    lens = Lens.of_model(load_base(base))
    assert len(card.promoted) == 2
    for row in card.promoted:
        i = next(i for i, c in enumerate(read.components) if c.name == row.component)
        (tokens,) = lens.tokens((read.components[i].scaling * read.vectors[i].b)[None], n_null=19, seed=0)
        assert row.promoted == tuple(map(str, tokens.promoted))
        assert row.p_promoted == tokens.p_promoted


def test_overlaps_are_cosines_of_pairs(base: ModelRef, tmp_path: Path) -> None:
    """A planted feed: the b of L0.down_proj is the a of L2.q_proj; only later reads count."""
    folder = Path(tiny_adapter(base, tmp_path / "planted").path)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.model.layers.{}.{}.lora_{}.weight"
    tensors[name.format(0, "mlp.down_proj", "B")] = tensors[name.format(2, "self_attn.q_proj", "A")].T.clone() * 2
    save_file(tensors, folder / "adapter_model.safetensors")
    rows = {(r.what, r.first, r.second): r for r in overlaps(Adapter.read(folder, base.path))}
    row = rows["feeds", "down_proj", "q_proj"]
    assert (row.largest_pair, row.n_pairs) == ("L0.down_proj L2.q_proj", 6)  # of four layers: 3 + 2 + 1
    assert row.largest == pytest.approx(1, abs=1e-5)
    assert row.p < 1e-6
    assert rows["feeds", "o_proj", "gate_proj"].n_pairs == 10  # an attention block feeds the MLP of its own layer
    cosines = []
    for i in range(4):
        for j in range(i + 1, 4):
            one, two = (tensors[name.format(k, "mlp.up_proj", "A")][0].double() for k in (i, j))
            cosines.append(float(one @ two / one.norm() / two.norm()))
    reads = rows["reads", "up_proj", "up_proj"]
    assert reads.mean_cosine == pytest.approx(np.abs(cosines).mean(), rel=1e-4)
    assert reads.expected == pytest.approx(np.sqrt(2 / np.pi / 32))


def test_another_adapter_is_compared_by_weights_and_by_principal_angles(
    base: ModelRef, adapter: Path, tmp_path: Path
) -> None:
    """Against dense weights, and against an adapter's own copy with B doubled."""
    from scipy.linalg import subspace_angles

    rank = make_card(adapter, base.path, n_components=0).modules[0].rank
    second = Path(tiny_adapter(base, tmp_path / "second", rank=rank, seed=9).path)
    one, two = weights(base, adapter), weights(base, second)
    rows = make_card(adapter, base.path, second, n_components=0).other
    assert len(rows) == len(one)
    for row in rows:
        w, v = one[row.module], two[row.module]
        assert row.weight_cosine == pytest.approx((w * v).sum() / np.linalg.norm(w) / np.linalg.norm(v), abs=1e-5)
        assert row.norm_ratio == pytest.approx(np.linalg.norm(v) / np.linalg.norm(w), rel=1e-5)
        u, _, t = np.linalg.svd(w)
        s, _, r = np.linalg.svd(v)
        assert row.write_overlap == pytest.approx(
            (np.cos(subspace_angles(u[:, :rank], s[:, :rank])) ** 2).mean(), abs=1e-5
        )
        assert row.read_overlap == pytest.approx(
            (np.cos(subspace_angles(t[:rank].T, r[:rank].T)) ** 2).mean(), abs=1e-5
        )
        assert row.read_null == pytest.approx(rank / w.shape[1])
    tensors = load_file(adapter / "adapter_model.safetensors")
    (tmp_path / "double").mkdir()
    doubled = {k: v * 2 if "lora_B" in k else v for k, v in tensors.items()}
    save_file(doubled, tmp_path / "double" / "adapter_model.safetensors")
    (tmp_path / "double" / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    for row in make_card(adapter, base.path, tmp_path / "double", n_components=0).other:
        assert (row.weight_cosine, row.read_overlap, row.norm_ratio) == pytest.approx((1, 1, 2), rel=1e-5)


FAULTS: dict[str, Callable[[dict[str, torch.Tensor], str], None]] = {
    "not finite": lambda t, m: t[f"{m}.lora_B.weight"].view(-1)[3:4].fill_(float("inf")),
    "zero lora_B": lambda t, m: t[f"{m}.lora_B.weight"].zero_(),
    "zero lora_A": lambda t, m: t[f"{m}.lora_A.weight"].zero_(),
    "dominates": lambda t, m: t[f"{m}.lora_B.weight"].mul_(100),
    "outlier": lambda t, m: t[f"{m}.lora_B.weight"].mul_(20),
    "idle ranks": lambda t, m: t[f"{m}.lora_A.weight"][1].copy_(t[f"{m}.lora_A.weight"][0]),
}  # fmt: skip


@pytest.mark.parametrize("sign", FAULTS)
def test_each_sign_of_a_fault_is_found_where_it_was_planted(base: ModelRef, tmp_path: Path, sign: str) -> None:
    """In one module, and a sound adapter has none."""
    folder = Path(tiny_adapter(base, tmp_path / "a", rank=2, rslora=False).path)
    assert make_card(folder, base.path, n_components=0).faults == ()
    tensors = load_file(folder / "adapter_model.safetensors")
    module = "base_model.model.model.layers.1.mlp.up_proj"
    FAULTS[sign](tensors, module)
    save_file(tensors, folder / "adapter_model.safetensors")
    found = {(f.sign, f.where) for f in make_card(folder, base.path, n_components=1, n_null=19).faults}
    assert (sign, module) in found
    assert {where for _, where in found} == {module}


def test_an_adapter_that_writes_nothing_into_the_stream_has_reasons_instead_of_tokens(
    base: ModelRef, tmp_path: Path
) -> None:
    """An adapter on q_proj alone."""
    folder = Path(tiny_adapter(base, tmp_path / "q", target_modules=["q_proj"]).path)
    rows = make_card(folder, base.path).promoted
    assert rows
    assert all("does not write into the residual stream" in str(r.reason) and not r.promoted for r in rows)


def test_adapters_without_a_common_module_are_refused(base: ModelRef, tmp_path: Path) -> None:
    """With a sentence."""
    one = Path(tiny_adapter(base, tmp_path / "q", target_modules=["q_proj"]).path)
    two = Path(tiny_adapter(base, tmp_path / "v", target_modules=["v_proj"]).path)
    with pytest.raises(ModelError, match="no module in common"):
        make_card(one, base.path, two)


def test_the_command_prints_tables_and_json(base: ModelRef, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON is one object with a list per table."""

    def command(*argv: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            main(["card", str(adapter), "--base", base.path, *argv])
        return capsys.readouterr().out

    tables: dict[str, Any] = json.loads(command("--other", str(adapter), "--format", "json"))
    assert set(tables) == {"faults", "projections", "layers", "modules", "promoted", "overlaps", "other"}
    assert tables["promoted"][0]["n_null"] == 200
    shown = command()
    assert "No sign of a fault." in shown
    assert "What the largest components that write into the residual stream promote" in shown
