"""Steering: pushes against weights and biases set by hand, quantities against log-softmax, and the report."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.benchmarks.answerer import InMemory
from harness.benchmarks.evaluate import evaluate
from harness.contract.context import Made, RunContext
from harness.contract.progress import SilentProgress
from harness.contract.settings import EvaluateConfig
from harness.dictionaries.effects import Without
from harness.errors import UnknownName
from harness.model.components import directions
from harness.model.subject import Subject
from harness.model.taps import ablate, component_sites, tap
from harness.records import Dictionary, Enrichment, EventAssociation, LatentEffect, Record, SteeringEffect
from harness.records.base import Estimate
from harness.reports.steer import ALPHA, Point, _point
from harness.testing import check_plugin, tiny_traces
from harness_plugins.ablations.steer import SteerConfig, harness_ablations
from harness_plugins.ablations.steer.ablation import Answers, Curve, Steer, _shuffled
from harness_plugins.ablations.steer.features import Latents, choose, named
from harness_plugins.ablations.steer.push import Astray, Pushes, RowPushes, pushed
from harness_plugins.ablations.steer.text import Text

EVENTS = {"wait": r"[Ww]", "digit": r"\d"}
"""The tiny tokenizer has no whole word `Wait`."""


@pytest.fixture(scope="module")
def text(subject: Subject) -> Text:
    documents = [subject.chat.document(subject.tokenizer, t) for t in tiny_traces(5)]
    return Text(subject, documents, EVENTS, 1024, SilentProgress())


@pytest.fixture(scope="module")
def astray(subject: Subject) -> Astray:
    return Astray(subject, torch.Generator().manual_seed(1))


class Doubling:
    """A linear dictionary: each component has a latent of twice its positive part."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x.clamp(min=0)

    def encode_sparse(self, x: torch.Tensor) -> Any:
        from scipy.sparse import csr_array

        return csr_array(self.encode(x).numpy())

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z / 2


def hidden_of(subject: Subject, inputs: dict[str, torch.Tensor], *taps: Any) -> torch.Tensor:
    with torch.no_grad(), ExitStack() as stack:
        for one in taps:
            stack.enter_context(one)
        logits: torch.Tensor = subject.model(**inputs, use_cache=False).logits
    return logits


@pytest.mark.parametrize("name", ["L0.q_proj", "group:mlp", "group:adapter"])
def test_a_gain_of_1_is_the_adapter_and_of_0_the_ablation_bit_for_bit(
    name: str, subject: Subject, text: Text, astray: Astray
) -> None:
    feature = named(name, "", subject.components, {})
    scalars, ranked = text.scalars()
    curve = Curve(feature, None, scalars, ranked, SteerConfig(gains=(0, 1), doses=(), controls=()))
    off = [c for c, member in zip(subject.components, feature.direction.tolist(), strict=True) if member]
    switched = tap(subject.model, component_sites(subject.components), ablate(subject.components, off))
    for batch in text.batches:
        zero, one = (pushed(subject, curve.in_text(p, batch, 0), astray) for p in curve.points)
        assert torch.equal(hidden_of(subject, batch.inputs, one), hidden_of(subject, batch.inputs))
        without = hidden_of(subject, batch.inputs, switched)
        assert torch.equal(hidden_of(subject, batch.inputs, zero), without)
        assert not torch.equal(without, hidden_of(subject, batch.inputs))
        switched = tap(subject.model, component_sites(subject.components), ablate(subject.components, off))


def test_a_latents_gain_of_1_is_the_adapter_and_of_0_takes_its_contribution_out(
    subject: Subject, text: Text, astray: Astray
) -> None:
    n = len(subject.components)
    latents = {"double": Latents("double", Doubling(), torch.eye(n) / 2)}
    feature = named("double/latent3", "", subject.components, latents)
    scalars, ranked = text.scalars()
    curve = Curve(feature, None, scalars, ranked, SteerConfig(gains=(0, 1), doses=(), controls=()))
    batch = text.batches[0]
    zero, one = (pushed(subject, curve.in_text(p, batch, 0), astray) for p in curve.points)
    assert torch.equal(hidden_of(subject, batch.inputs, one), hidden_of(subject, batch.inputs))
    contribution = batch.scalars.clamp(min=0) * feature.direction * 2 * batch.ranked[:, :, None]
    taken = tap(subject.model, component_sites(subject.components), Without(contribution), read=False)
    assert torch.equal(hidden_of(subject, batch.inputs, zero), hidden_of(subject, batch.inputs, taken))


def test_a_dose_is_a_bias_of_its_matrix_on_the_response(subject: Subject, text: Text, astray: Astray) -> None:
    """Closed form: s + d writes scaling * b * d more than s does."""
    index = next(i for i, c in enumerate(subject.components) if c.projection == "up_proj")
    component = subject.components[index]
    scalars, ranked = text.scalars()
    config = SteerConfig(gains=(), doses=(3,), controls=("flipped",))
    curve = Curve(named(component.name, "", subject.components, {}), None, scalars, ranked, config)
    assert curve.std == pytest.approx(float(scalars[ranked][:, index].double().std()), rel=1e-6)
    module = subject.model.get_submodule(component.module)
    written = component.scaling * 3 * curve.std * directions(subject.model, component).b
    batch = text.batches[0]
    for sign, point in zip((1, -1), curve.points, strict=True):
        bias = sign * batch.response[:, :, None] * written
        handle = module.register_forward_hook(lambda _, __, output, bias=bias: output + bias)
        try:
            expected = hidden_of(subject, batch.inputs)
        finally:
            handle.remove()
        got = hidden_of(subject, batch.inputs, pushed(subject, curve.in_text(point, batch, 0), astray))
        # float32 adds the same numbers in another order
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(got, hidden_of(subject, batch.inputs), rtol=1e-3, atol=1e-3)


def test_the_random_control_writes_as_much_at_the_same_matrix_along_another_direction(
    subject: Subject, text: Text, astray: Astray
) -> None:
    index = 4
    component, batch = subject.components[index], text.batches[0]
    added = (
        torch.randn(batch.scalars.shape, generator=torch.Generator().manual_seed(0))
        * torch.eye(len(subject.components))[index]
    )
    module = subject.model.get_submodule(f"{component.module}.lora_B.{component.adapter}")
    outputs = []
    for push in (
        Pushes(torch.ones(len(added), added.shape[2])),
        Pushes(torch.ones(len(added), added.shape[2]), astray=added),
    ):
        with pushed(subject, push, astray):
            handle = module.register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
            hidden_of(subject, batch.inputs)
            handle.remove()
    difference = (outputs[1] - outputs[0]).reshape(-1, outputs[0].shape[-1])
    b = directions(subject.model, component).b
    size = added[..., index].abs().reshape(-1) * b.norm()
    assert torch.allclose(difference.norm(dim=1), size, rtol=1e-3, atol=1e-4)
    cosine = torch.nn.functional.cosine_similarity(difference[0], b, dim=0).abs()
    assert cosine < 0.9


def test_shuffling_moves_what_is_added_within_the_response_only() -> None:
    added = torch.arange(24.0).reshape(2, 6, 2)
    response = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]], dtype=torch.bool)
    moved = _shuffled(added, response, 3)
    assert torch.equal(moved[~response], added[~response])
    for row in range(2):
        assert sorted(moved[row, response[row]].tolist()) == sorted(added[row, response[row]].tolist())
    assert not torch.equal(moved, added)


def test_quantities_are_those_of_log_softmax_in_float64(subject: Subject, text: Text, astray: Astray) -> None:
    scalars, ranked = text.scalars()
    feature = named("group:adapter", "", subject.components, {})
    curve = Curve(feature, None, scalars, ranked, SteerConfig(gains=(0, 3), doses=(), controls=()))
    n = len(text.sums.n["kl"])
    sums = [{name: np.zeros(n) for name in text.sums.n} for _ in curve.points]
    for batch in text.batches:
        text.changes(batch, [curve.in_text(p, batch, 0) for p in curve.points], astray, sums)
    decoded = [subject.tokenizer.decode([i]).strip() for i in range(len(subject.tokenizer))]
    digits = [i for i, t in enumerate(decoded) if t[:1].isdigit()]
    for gain, got in zip((0.0, 3.0), sums, strict=True):
        edit = Pushes(torch.full((1, len(subject.components)), gain))
        for i, trace in enumerate(tiny_traces(5)):
            document = subject.chat.document(subject.tokenizer, trace)
            inputs = {"input_ids": torch.tensor([document.ids])}
            p, q = (
                torch.log_softmax(hidden_of(subject, inputs, *taps)[0].double(), -1)
                for taps in ([], [pushed(subject, edit, astray)])
            )
            response = [j for j, s in enumerate(document.segments[:-1]) if s != "prompt"]
            kl = (p.exp() * (p - q)).sum(-1)[response].sum()
            # float32 logits of size 10 and KLs summed over some 40 tokens
            assert got["kl"][i] == pytest.approx(float(kl), rel=2e-3, abs=2e-4)
            change = (q.exp() - p.exp())[response][:, digits].sum()
            assert got["p digit"][i] == pytest.approx(float(change), rel=2e-3, abs=2e-3)
            assert text.sums.at_rest["p digit"][i] == pytest.approx(float(p.exp()[response][:, digits].sum()), rel=1e-3)
            for quantity, segment in {"ce question": "prompt", "ce trace": "think", "ce answer": "answer"}.items():
                at = [j for j, s in enumerate(document.segments[1:]) if s == segment]
                targets = [document.ids[j + 1] for j in at]
                assert text.sums.n[quantity][i] == len(at)
                ce = (p - q)[at, targets].sum()
                assert got[quantity][i] == pytest.approx(float(ce), rel=2e-3, abs=2e-3)


def test_generated_under_a_gain_of_0_are_the_answers_of_the_ablation(
    subject: Subject, astray: Astray, tmp_path: Path
) -> None:
    settings = EvaluateConfig(benchmarks=("organism_chain",), limit=3, max_gen_toks=12)
    run = RunContext(tmp_path, 0, evaluate=settings)
    answers = Answers(subject, astray, SteerConfig(items=3, new_tokens=12), run, "organism_chain")
    n = len(subject.components)
    table = Pushes(torch.stack([torch.ones(n), torch.zeros(n)]))
    asked = {
        name: [s.response for s in evaluate(answerer, "organism_chain", variant=name, settings=settings).samples]
        for name, answerer in {
            "rest": InMemory(subject, edit=RowPushes(table, 0)), "adapter": InMemory(subject),
            "off": InMemory(subject, edit=RowPushes(table, 1)), "ablated": InMemory(subject, subject.components),
        }.items()
    }  # fmt: skip
    assert asked["rest"] == asked["adapter"]
    assert asked["off"] == asked["ablated"]
    assert asked["off"] != asked["rest"]
    alone = answers._asked([Pushes(torch.zeros(1, n))])[0]
    together = answers._asked([Pushes(torch.ones(1, n)), Pushes(torch.zeros(1, n))])
    assert {k: v.tolist() for k, v in together[1].items()} == {k: v.tolist() for k, v in alone.items()}
    assert {k: v.tolist() for k, v in together[0].items()} == {k: v.tolist() for k, v in answers.rest.items()}


def test_a_dose_while_writing_leaves_the_prompt_alone_and_follows_its_row() -> None:
    table = Pushes(torch.ones(2, 3), torch.tensor([[[0.0, 0, 5]], [[1.0, 0, 0]]]))
    edit = RowPushes(table, 0)
    values, columns = torch.zeros(2, 1, 3), slice(0, 3)
    assert edit(torch.zeros(2, 4, 3), columns).abs().sum() == 0
    assert edit(values, columns)[:, 0].tolist() == [[0, 0, 5], [0, 0, 5]]
    edit.gates = torch.tensor([[1], [0]])
    assert edit(values, columns)[:, 0].tolist() == [[1, 0, 0], [0, 0, 5]]
    edit.keep(torch.tensor([1]))
    assert edit(values[:1], columns)[:, 0].tolist() == [[0, 0, 5]]


def test_the_strongest_latents_and_the_one_that_reads_an_event_are_chosen(subject: Subject) -> None:
    n = len(subject.components)
    latents = {"d": Latents("d", Doubling(), torch.eye(n))}
    effects = [
        LatentEffect(item=f"e{i}", source=source, latent=f"latent{i}", kl_nats=Estimate(kl, kl, kl), n_active=1,
                     n_tokens=9, n_documents=2)
        for source, i, kl in (("d", 0, 0.1), ("d", 1, 0.5), ("d", 2, 0.3), ("other", 3, 9.0))
    ]  # fmt: skip

    def enriched(latent: int, n_both: int, share: float) -> Enrichment:
        event = EventAssociation(family="class", event="wait", n_event=10, n_both=n_both, activation_share=share,
                                 odds_ratio=None, p_value=None, q_value=None)  # fmt: skip
        return Enrichment(item=f"d/latent{latent}", source="d", feature=f"latent{latent}", active_above=0, n_active=1,
                          n_tokens=9, n_documents=2, top_class=None, top_class_share=None, events=(event,))  # fmt: skip

    records: list[Record] = [*effects, enriched(2, 9, 0.9), enriched(4, 10, 0.95), enriched(5, 1, 1.0)]
    made = Made(lambda kind: [r for r in records if isinstance(r, kind)])  # type: ignore[arg-type]
    chosen = choose(SteerConfig(strongest=2), made, subject.components, latents, torch.ones(n))
    assert [f.name for f in chosen] == ["d/latent1", "d/latent2", "d/latent4"]
    assert chosen[2].chosen_by == "reads wait best"
    std = torch.zeros(n)
    std[5] = 1
    (alone,) = choose(SteerConfig(strongest=1), Made(), subject.components, {}, std)
    assert (alone.name, alone.kind) == (subject.components[5].name, "component")
    with pytest.raises(UnknownName, match=r"no feature to steer 'L0\.q_prj'; nearest: 'L0\.q_proj'"):
        choose(SteerConfig(features=("L0.q_prj",)), Made(), subject.components, {}, std)


def test_it_keeps_the_contract_and_every_push_has_its_controls(tmp_path: Path) -> None:
    (registration,) = harness_ablations()
    config = {"strongest": 1, "gains": [0, 4], "doses": [5], "n_documents": 3, "items": 2, "new_tokens": 6}
    evaluation = EvaluateConfig(benchmarks=("organism_chain",))
    records = [
        r for r in check_plugin(registration, tmp_path, config, evaluate=evaluation) if isinstance(r, SteeringEffect)
    ]
    kl = {(r.push, r.size, r.control): r for r in records if r.quantity == "kl"}
    assert {control for push, _, control in kl if push == "gain"} == {
        "itself", "flipped", "random", "shuffled", "unrelated",
    }  # fmt: skip
    assert {control for push, _, control in kl if push == "dose"} == {"itself", "flipped", "random", "unrelated"}
    for (push, size, control), r in kl.items():
        assert (r.excess is None) == (control == "itself")
        if r.excess is not None:
            own = kl[push, size, "itself"]
            assert r.excess.value == pytest.approx(own.change.value - r.change.value, abs=1e-9)
    written = {(r.push, r.control) for r in records if r.where == "generated"}
    assert written == {("gain", c) for c in ("itself", "flipped", "unrelated")} | {
        ("dose", c) for c in ("itself", "flipped", "random", "unrelated")
    }


def test_a_dictionary_on_other_columns_is_not_steered(subject: Subject, tmp_path: Path) -> None:
    control = Dictionary(name="on-random", path=tmp_path, columns=("r0",), n_latents=1, k=1)
    made = Made(lambda kind: [control] if kind is Dictionary else [])  # type: ignore[arg-type, return-value]
    run = RunContext(tmp_path, 0, made=made)
    config = SteerConfig(strongest=1, gains=(0,), doses=(), controls=(), n_documents=2, events={})
    records = list(Steer(config).measure(subject, tiny_traces(3), run))
    assert {r.kind for r in records} == {"component"}


def test_an_interrupted_step_measures_only_the_features_that_are_not_stored(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SteerConfig(features=("L0.q_proj", "group:mlp"), gains=(0,), doses=(), n_documents=2, events={})
    whole = list(Steer(config).measure(subject, tiny_traces(3), RunContext(tmp_path, 0)))
    stored = [r for r in whole if r.feature == "L0.q_proj"]
    pushes_measured: list[int] = []
    changes = Text.changes

    def counted(self: Text, batch: Any, pushes: Any, *rest: Any) -> None:
        pushes_measured.append(len(pushes))
        changes(self, batch, pushes, *rest)

    monkeypatch.setattr(Text, "changes", counted)
    run = RunContext(tmp_path, 0, done=frozenset(r.item for r in stored))
    again = list(Steer(config).measure(subject, tiny_traces(3), run))
    assert again == [r for r in whole if r.feature == "group:mlp"]
    assert set(pushes_measured) == {4}  # itself, flipped, random, shuffled


def effect(control: str, change: float, excess: float | None, p: float | None) -> SteeringEffect:
    return SteeringEffect(
        item=control, source="adapter", feature="f", kind="component", chosen_by="named", push="dose", size=1, std=1,
        times_normal=1, control=control, where="text", quantity="kl", unit="nats", at_rest=0,
        change=Estimate(change, change - 0.1, change + 0.1, 8),
        excess=None if excess is None else Estimate(excess, excess - 0.05, excess + 0.05, 8),
        p_value=p, n_documents=8, n_units=9,
    )  # fmt: skip


def test_an_effect_exceeds_every_control_in_its_own_direction() -> None:
    def effective(change: float, *excesses: tuple[float, float]) -> bool:
        others = [effect(f, 0, e, p) for f, (e, p) in zip(("random", "flipped"), excesses, strict=False)]
        point = _point([effect("itself", change, None, None), *others])
        return replace(point, p_holm=point.p_value).effect

    assert effective(1.0, (0.5, 0.001), (0.9, 0.02))
    assert effective(-1.0, (-0.5, 0.001), (-0.9, 0.02))
    assert not effective(1.0, (0.5, 0.001), (0.9, ALPHA)), "the largest p-value counts"
    assert not effective(1.0, (0.5, 0.001), (0.04, 0.001)), "the least excess counts"
    assert not effective(1.0, (-0.5, 0.001)), "a control does more"
    assert not effective(1.0), "without a control there is no effect"
    tiny = Point(1, 1, Estimate(-1, -1.1, -0.9), Estimate(-1e-6, -2e-6, -1e-7), "random", 0.0, 8, 0.0)
    assert not tiny.effect, "both end at the floor"
