"""KL and cross-entropy of ablations against a brute force that shares nothing with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import ModelError
from harness.model.chat import ChatFormat
from harness.model.subject import Subject, load_subject
from harness.testing import tiny_adapter, tiny_model, tiny_traces
from harness_plugins.ablations.cells import Cell, cells, group_cells
from harness_plugins.ablations.config import KLConfig
from harness_plugins.ablations.divergence import Divergence, KLSums, shares
from harness_plugins.ablations.documents import choose, read_texts, texts_of, window

TRACES = tiny_traces(6)
SCOPES = ("adapter", "block", "layer", "projection", "component")

# The model itself runs in float32: with and without padding its logits (about 10) differ by some 1e-5, which is
# 1e-3 of a KL of 1e-4 nats per token at the worst.
FLOAT32: dict[str, float] = {"rtol": 2e-3, "atol": 1e-5}
# Norms compute in float32 also in a float64 model; padding then changes the last bits of a row's sums.
FLOAT64: dict[str, float] = {"rtol": 1e-5, "atol": 1e-9}


def divergence(subject: Subject, **settings: Any) -> Divergence:
    config = KLConfig(**{"floor_documents": 0, **settings})
    return Divergence(subject, read_texts(subject, TRACES, config, torch.Generator().manual_seed(0)), config, seed=0)


def sums_of(subject: Subject, found: list[Cell], **settings: Any) -> dict[str, KLSums]:
    swept = divergence(subject, **settings).sweep(found)
    return {cell.item: sums for cell, sums in swept}


def all_cells(subject: Subject) -> list[Cell]:
    return cells(subject.components, SCOPES)


def test_every_cell_equals_the_brute_force_and_is_not_zero(wide: Subject, brute_force: Any) -> None:
    found, oracle = sums_of(wide, all_cells(wide), batch_size=4), brute_force(wide)
    for cell in all_cells(wide):
        np.testing.assert_allclose(found[cell.item].kl_nats, oracle.kl(cell.off), err_msg=cell.item, **FLOAT64)
        assert found[cell.item].kl_nats.sum(1).min() > 0, cell.item


def test_cross_entropy_equals_the_brute_force(wide: Subject, brute_force: Any) -> None:
    some, oracle = group_cells(wide.components)[:2], brute_force(wide)
    ours = divergence(wide)
    np.testing.assert_allclose(ours.ce_full_nats, oracle.cross_entropy([]), **FLOAT64)
    for cell, sums in ours.sweep(some):
        expected = oracle.cross_entropy(cell.off)
        np.testing.assert_allclose(ours.ce_full_nats + sums.ce_change_nats, expected, **FLOAT64)


def test_reusing_the_layers_below_gives_the_bits_of_whole_passes(wide: Subject) -> None:
    reused = divergence(wide, batch_size=3)
    assert reused.engine == "prefix reuse, modules, float64"
    whole = divergence(wide, batch_size=3)
    whole.reuses = False
    ours, theirs = (dict((c.item, s) for c, s in d.sweep(all_cells(wide))) for d in (reused, whole))
    assert ours.keys() == theirs.keys()
    for item in ours:
        assert np.array_equal(ours[item].kl_nats, theirs[item].kl_nats), item
        assert np.array_equal(ours[item].ce_change_nats, theirs[item].ce_change_nats), item


def test_ablations_that_share_a_pass_are_those_that_do_not(subject: Subject) -> None:
    alone = sums_of(subject, all_cells(subject))
    together = sums_of(subject, all_cells(subject), ablations_per_batch=5)
    for item, sums in alone.items():
        # Matrix products of other shapes round differently.
        np.testing.assert_allclose(together[item].kl_nats, sums.kl_nats, rtol=1e-3, atol=1e-6, err_msg=item)


@pytest.mark.parametrize("rows", [1, 3])
def test_shares_of_several_workers_give_the_bits_of_the_sweep(subject: Subject, rows: int) -> None:
    """In whatever order a worker is given them, and with the floor of each layer measured once."""
    settings = {"ablations_per_batch": rows, "floor_documents": 2}
    ours, theirs = divergence(subject, **settings), divergence(subject, **settings)
    swept = {cell.item: sums for cell, sums in ours.sweep(all_cells(subject))}
    parts = shares(all_cells(subject), reuses=True, rows=rows, n_workers=3)
    assert len(parts) > len(shares(all_cells(subject), reuses=True, rows=rows))
    assert sorted(p.layer for p in parts if p.first) == [0, 1]
    assert [c for p in parts for c in p.cells] == list(c for c, _ in ours.sweep(all_cells(subject)))
    for part in reversed(parts):
        for cell, sums in zip(part.cells, theirs.measure(part), strict=True):
            assert np.array_equal(sums.kl_nats, swept[cell.item].kl_nats), cell.item
            assert np.array_equal(sums.ce_change_nats, swept[cell.item].ce_change_nats), cell.item
    assert theirs.floors_nats == ours.floors_nats


def test_the_in_place_path_is_another_rounding_of_the_same(subject: Subject) -> None:
    with_modules = sums_of(subject, all_cells(subject))
    ours = divergence(subject, numerics="in-place")
    assert ours.engine == "prefix reuse, in-place, float32"
    for cell, sums in ours.sweep(all_cells(subject)):
        np.testing.assert_allclose(sums.kl_nats, with_modules[cell.item].kl_nats, rtol=1e-3, atol=1e-6)
    assert all("forward" not in m.__dict__ for m in subject.model.modules())


def test_it_holds_in_float32_and_for_higher_ranks(tmp_path: Path, brute_force: Any) -> None:
    base = tiny_model(tmp_path / "base", "llama")
    ranked = load_subject(base, ChatFormat(), tiny_adapter(base, tmp_path / "adapter", rank=2))
    found, oracle = sums_of(ranked, all_cells(ranked), max_tokens=40), brute_force(ranked, window=slice(14, 54))
    assert sum(c.scope == "component" for c in all_cells(ranked)) == 2 * 7 * 2
    for cell in all_cells(ranked):
        np.testing.assert_allclose(found[cell.item].kl_nats, oracle.kl(cell.off), err_msg=cell.item, **FLOAT32)


def test_a_layer_subset_keeps_its_numbers(tmp_path: Path, brute_force: Any) -> None:
    base = tiny_model(tmp_path / "base", "qwen2", layers=3)
    checkpoint = tiny_adapter(base, tmp_path / "adapter", layers_to_transform=[2])
    upper = load_subject(base, ChatFormat(), checkpoint)
    found, oracle = sums_of(upper, all_cells(upper)), brute_force(upper)
    assert {c.first_layer for c in all_cells(upper)} == {2}
    for item in ("adapter", "layer:2", "component:L2.k_proj"):
        off = next(c.off for c in all_cells(upper) if c.item == item)
        np.testing.assert_allclose(found[item].kl_nats, oracle.kl(off), **FLOAT32)


def test_chunks_of_positions_change_nothing(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    some = all_cells(subject)[:3]
    whole = sums_of(subject, some)
    monkeypatch.setattr("harness.model.readout.CHUNK_BYTES", 4 * 300 * 7)
    for item, sums in sums_of(subject, some).items():
        np.testing.assert_allclose(sums.kl_nats, whole[item].kl_nats, rtol=1e-5)
        np.testing.assert_allclose(sums.ce_change_nats, whole[item].ce_change_nats, rtol=1e-5, atol=1e-6)


def test_no_more_than_a_chunk_of_logits_is_ever_alive(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.model.readout.CHUNK_BYTES", 4 * 300 * 7)
    ours = divergence(subject, probes=1)
    largest: list[int] = []
    handle = ours.readout._head.register_forward_hook(lambda _, __, out: largest.append(out.numel()))
    list(ours.sweep(all_cells(subject)[:2]))
    handle.remove()
    vocabulary = ours.readout.weight.shape[0]
    assert max(largest) <= 4 * 300 * 7 / 4
    assert sum(largest) % vocabulary == 0
    assert len(largest) > 10


def test_switching_everything_off_is_the_base_model(wide: Subject, brute_force: Any) -> None:
    """Of the last hidden states to the bit, and so of the KL."""
    ours = divergence(wide, batch_size=6)
    (batch,) = ours.texts.batches
    with torch.no_grad(), ours.switched_off([wide.components], len(batch.documents)):
        off = ours.blocks.run(batch.inputs)
    with torch.no_grad(), wide.model.disable_adapter():
        base = ours.blocks.run(batch.inputs)
    assert torch.equal(off, base)


def test_weights_are_untouched_also_after_an_exception(wide: Subject) -> None:
    before = {k: v.clone() for k, v in wide.model.state_dict().items()}
    ours = divergence(wide)
    sweep = ours.sweep(all_cells(wide))
    next(sweep)
    with pytest.raises(KeyboardInterrupt):
        sweep.throw(KeyboardInterrupt)
    with pytest.raises(RuntimeError), ours.switched_off([wide.components[:1]], 6):
        ours.blocks.run({"input_ids": torch.zeros(1, 1)})
    assert all(torch.equal(v, before[k]) for k, v in wide.model.state_dict().items())
    assert not [m for m in wide.model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_the_other_of_two_adapters_is_left_alone(tmp_path: Path, brute_force: Any) -> None:
    base = tiny_model(tmp_path / "base")
    checkpoint = tiny_adapter(base, tmp_path / "adapter")
    alone = load_subject(base, ChatFormat(), checkpoint)
    two = load_subject(base, ChatFormat(), checkpoint)
    second = tiny_adapter(base, tmp_path / "second", seed=5)
    two.model.load_adapter(str(second.path), "second")
    some = all_cells(alone)[:4]
    expected = sums_of(alone, some)
    for item, sums in sums_of(two, some).items():
        assert np.array_equal(sums.kl_nats, expected[item].kl_nats), item


def test_segments_add_up_to_the_tokens(subject: Subject) -> None:
    """Of prompts of 34 tokens and responses of 61, where 60 tokens count: 30 of the prompt, 30 of the trace."""
    ours = divergence(subject, max_tokens=60)
    assert ours.texts.n_tokens.tolist() == [[30, 30, 0]] * 6
    assert ours.n_tokens == (60,) * 6
    assert ours.texts.n_targets.tolist() == [30] * 6
    everything = divergence(subject)
    assert (everything.texts.n_tokens[:, 2] > 0).all()
    assert everything.texts.n_targets.tolist() == [n - 1 for n in everything.texts.n_tokens[:, 1:].sum(1).tolist()]


@pytest.mark.parametrize(
    ("n_prompt", "n_response", "max_tokens", "expected"),
    [
        (34, 61, 2048, range(0, 95)),  # all of it
        (34, 61, 95, range(0, 95)),
        (34, 61, 80, range(0, 80)),  # the prompt fits in half: whole, as the first 80 tokens
        (34, 61, 60, range(4, 64)),  # half and half: the prompt's last part
        (34, 61, 41, range(14, 55)),
        (34, 61, 1, range(34, 35)),  # the response goes first
        (100, 10, 60, range(50, 110)),  # a short response: whole, and the prompt's last part
        (100, 10, 8, range(96, 104)),
    ],
)
def test_the_window_lies_on_the_response(n_prompt: int, n_response: int, max_tokens: int, expected: range) -> None:
    found = window(n_prompt, n_response, max_tokens)
    assert found == expected
    of_response = sum(i >= n_prompt for i in found)
    assert of_response >= min(n_response, len(found) / 2)
    assert len(found) == min(max_tokens, n_prompt + n_response)


def test_what_precedes_a_window_is_its_context(subject: Subject, brute_force: Any) -> None:
    """A token's KL does not depend on how many tokens count: the text is read from its beginning."""
    found, oracle = sums_of(subject, all_cells(subject), max_tokens=16), brute_force(subject, window=slice(26, 42))
    for cell in all_cells(subject):
        np.testing.assert_allclose(found[cell.item].kl_nats, oracle.kl(cell.off), err_msg=cell.item, **FLOAT32)


def test_mean_ablation_keeps_what_is_constant(subject: Subject) -> None:
    """On one token the mean is the value itself, so that nothing changes; on more tokens it is another ablation."""
    whole = all_cells(subject)[:1]
    config = KLConfig(mode="mean", floor_documents=0)
    document = subject.chat.document(subject.tokenizer, TRACES[0])
    first = {name: getattr(document, name)[34:35] for name in ("ids", "offsets", "segments", "ranked")}
    text = texts_of([replace(document, **first)], config, pad=0)
    ((_, single),) = Divergence(subject, text, config, seed=0).sweep(whole)
    assert single.kl_nats.sum() == pytest.approx(0.0, abs=1e-9)
    mean, zero = (sums_of(subject, whole, mode=m)["adapter"].kl_nats for m in ("mean", "zero"))
    assert mean.sum() != pytest.approx(zero.sum())


def test_mean_ablation_puts_in_the_mean(subject: Subject) -> None:
    """The oracle's copy has no A any more: its B writes a constant, through a bias."""
    import copy

    (cell,) = [c for c in all_cells(subject) if c.item == "component:L0.up_proj"]
    ours = divergence(subject, mode="mean", batch_size=6)
    (batch,) = ours.texts.batches
    (c,) = cell.off
    seen: list[torch.Tensor] = []
    module = subject.model.get_submodule(c.module)
    handle = module.lora_A[c.adapter].register_forward_hook(lambda _, __, out: seen.append(out[batch.mask]))
    with torch.no_grad():
        full = ours.blocks.run(batch.inputs)
    handle.remove()
    model = copy.deepcopy(subject.model)
    target = model.get_submodule(c.module)
    target.lora_A[c.adapter].weight.data.zero_()
    constant = target.lora_B[c.adapter].weight.data[:, 0] * seen[0].double().mean() * c.scaling
    target.register_forward_hook(lambda _, __, out: out + constant.float())
    with torch.no_grad():
        logits = model(**batch.inputs, use_cache=False).logits[batch.mask].double()
        p = torch.log_softmax(ours.readout.logits(full[batch.mask]).double(), -1)
    q = torch.log_softmax(logits, -1)
    ((_, sums),) = ours.sweep([cell])
    assert sums.kl_nats.sum() == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3)


def test_documents_depend_on_the_seed_only() -> None:
    first = choose(TRACES, 3, torch.Generator().manual_seed(1))
    assert first == choose(TRACES, 3, torch.Generator().manual_seed(1))
    assert [t.id for t in first] == sorted(t.id for t in first)
    assert len(choose(TRACES, 99, torch.Generator())) == len(TRACES)


def test_rounding_noise_is_far_below_any_cell(subject: Subject) -> None:
    ours = divergence(subject, floor_documents=2, batch_size=1)
    kl = {cell.item: sums.kl_nats.sum() for cell, sums in ours.sweep(all_cells(subject))}
    assert set(ours.floors_nats) == {0, 1}
    # float32 has 6e-8 of relative rounding: its square is 4e-15 nats, times what two random layers amplify.
    assert all(1e-16 < floor < 1e-9 for floor in ours.floors_nats.values())
    assert min(kl.values()) / sum(ours.n_tokens) > 100 * max(ours.floors_nats.values())


def test_what_is_not_finite_is_named(subject: Subject, tmp_path: Path) -> None:
    ours = divergence(subject)
    ours.to = {"L0.v_proj": 1e38}
    with pytest.raises(ModelError, match=r"KL is not finite with component:L0.v_proj switched off, in document 't0'"):
        list(ours.sweep([c for c in all_cells(subject) if c.item == "component:L0.v_proj"]))
    base = tiny_model(tmp_path / "base")
    broken = load_subject(base, ChatFormat(), tiny_adapter(base, tmp_path / "adapter"))
    c = broken.components[3]
    broken.model.get_submodule(c.module).lora_B[c.adapter].weight.data[0] = float("nan")
    with pytest.raises(ModelError, match=r"hidden states are not finite in document 't\d'"):
        divergence(broken)


def test_a_bfloat16_head_costs_a_part_in_a_thousand() -> None:
    """Against float64 on the same hidden states, down to 1e-4 nats; the matrix has 400 rows of bfloat16."""
    from types import SimpleNamespace

    from harness.model.kl import Reference, compare
    from harness.model.readout import Readout

    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(64, 400).to(torch.bfloat16).requires_grad_(False)
    head.weight.data = (torch.randn(400, 64, generator=generator) * 0.75).to(torch.bfloat16)
    readout = Readout(SimpleNamespace(get_output_embeddings=lambda: head, config=SimpleNamespace()))
    hidden = torch.randn(2000, 64, generator=generator).bfloat16()
    p = torch.log_softmax(hidden.double() @ head.weight.double().T + head.bias.double(), -1)
    for size in (0.01, 0.1, 1.0):
        other = (hidden + size * torch.randn(2000, 64, generator=generator)).bfloat16()
        q = torch.log_softmax(other.double() @ head.weight.double().T + head.bias.double(), -1)
        expected = float((p.exp() * (p - q)).sum(-1).mean())
        reference = Reference.of(readout.precise_logits(hidden))
        found = float(compare(reference, readout.difference(hidden, other)).kl_nats.double().mean())
        assert expected > 1e-5
        assert found == pytest.approx(expected, rel=2e-3)


def test_a_model_that_caps_its_logits_is_refused(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from harness.model.readout import Readout

    head = torch.nn.Linear(4, 8)
    capped = SimpleNamespace(get_output_embeddings=lambda: head, config=SimpleNamespace(final_logit_softcapping=30.0))
    with pytest.raises(ModelError, match=r"final_logit_softcapping = 30.0"):
        Readout(capped)


def test_logits_that_are_not_finite_are_a_sentence(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from harness.model.readout import Readout

    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "base").path).eval()
    inputs = {"input_ids": torch.tensor([[1, 2, 3]])}
    Readout(model).check(model, inputs)
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(ModelError, match="are not finite: a weight is not a number"):
        Readout(model).check(model, inputs)


def test_an_adapter_on_the_output_matrix_is_refused(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    checkpoint = tiny_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    with pytest.raises(ModelError, match="adapts the output matrix"):
        divergence(load_subject(base, ChatFormat(), checkpoint))
