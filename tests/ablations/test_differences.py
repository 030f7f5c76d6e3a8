"""`differences` against brute force: whole logits of whole passes, singular values, jackknives, all ways to swap."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from harness.contract.context import Made, RunContext
from harness.model.batching import adapter_switch
from harness.model.blocks import Blocks
from harness.model.subject import Subject, load_subject
from harness.records import (
    Checkpoint,
    Divergence,
    DocumentDivergence,
    KindDivergence,
    ModelRef,
    PartingToken,
    Record,
    ResidualChange,
)
from harness.stats import Estimate, Undefined
from harness.testing import tiny_adapter, tiny_model, tiny_traces
from harness_plugins.ablations.differences import DifferencesConfig
from harness_plugins.ablations.differences.ablation import NO_FULL, Differences
from harness_plugins.ablations.differences.statistics import (
    mean_correlation,
    ratio_of_means,
    shuffled_within,
    top_share,
)
from harness_plugins.ablations.differences.streams import common, explained_shares, mean_cosine, relative_norm

R = TypeVar("R", bound=Record)
TRACES = tiny_traces(5)


def of(records: list[Record], kind: type[R]) -> list[R]:
    return [r for r in records if isinstance(r, kind)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelRef, Checkpoint, Checkpoint]:
    """A base, an adapter of rank 2 on it, and a full fine-tune: other weights of the same shape."""
    folder = tmp_path_factory.mktemp("differences")
    base = tiny_model(folder / "base")
    adapter = tiny_adapter(base, folder / "adapter", rank=2)
    full = tiny_model(folder / "full", seed=1)
    return base, adapter, adapter.model_copy(update={"kind": "full", "path": Path(full.path)})


@pytest.fixture
def subject(models: tuple[ModelRef, Checkpoint, Checkpoint]) -> Subject:
    from harness.model.chat import ChatFormat

    return load_subject(models[0], ChatFormat(), models[1])


def measured(subject: Subject, run: RunContext, full: Checkpoint | None = None, **settings: int) -> list[Record]:
    def records(record_class: type[Record]) -> list[Record]:
        return [full] if full is not None and record_class is Checkpoint else []

    run = RunContext(run.out_dir, seed=3, made=Made(records=records))  # type: ignore[arg-type]
    return list(Differences(DifferencesConfig(**settings)).measure(subject, TRACES, run))


@torch.no_grad()
def log_p(subject: Subject, ids: tuple[int, ...], *, adapter: bool = True) -> torch.Tensor:
    """Log-probabilities of a whole pass of the whole model, [token, vocab], float64."""
    with adapter_switch(subject.model, on=adapter):
        return subject.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)


def kl(p: torch.Tensor, q: torch.Tensor) -> np.ndarray:
    return (p.exp() * (p - q)).sum(-1).numpy()


def test_the_kl_of_every_token_is_that_of_whole_logits_in_float64(
    subject: Subject, models: tuple[ModelRef, Checkpoint, Checkpoint], run_context: Callable[..., RunContext]
) -> None:
    records = measured(subject, run_context(), models[2])
    full = load_subject(models[0], subject.chat, models[2])
    of_tokens = {r.item: r for r in of(records, DocumentDivergence)}
    assert of_tokens.keys() == {t.id for t in TRACES}
    pairs: dict[str, list[np.ndarray]] = {"adapter-base": [], "full-base": [], "full-adapter": []}
    for trace in TRACES:
        document = subject.chat.document(subject.tokenizer, trace)
        base, adapter = (log_p(subject, document.ids, adapter=on) for on in (False, True))
        there = log_p(full, document.ids)
        stored = of_tokens[trace.id]
        # float32 logits of a tiny model: their rounding is 1e-6 of a KL of order 1e-2
        np.testing.assert_allclose(stored.kl_nats, kl(adapter, base)[stored.first :], rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(stored.kl_full_nats, kl(there, base)[stored.first :], rtol=1e-3, atol=1e-6)
        response = np.array(document.segments) != "prompt"
        for name, (p, q) in zip(pairs, ((adapter, base), (there, base), (there, adapter)), strict=True):
            pairs[name].append(kl(p, q)[response])
    for record in of(records, Divergence):
        flat = np.concatenate(pairs[record.pair])
        assert record.kl_nats is not None
        assert record.kl_nats.value == pytest.approx(flat.mean(), rel=1e-3)
        assert record.n_tokens == len(flat)
        if record.pair != "adapter-base":
            rhos = [scipy_stats.spearmanr(a, b).statistic
                    for a, b in zip(pairs["adapter-base"], pairs[record.pair], strict=True)]  # fmt: skip
            assert record.correlation is not None
            assert record.correlation.value == pytest.approx(np.mean(rhos), abs=1e-2)  # ranks of near ties may swap


def test_parting_tokens_are_the_largest_and_say_what_each_model_would(
    subject: Subject, models: tuple[ModelRef, Checkpoint, Checkpoint], run_context: Callable[..., RunContext]
) -> None:
    records = measured(subject, run_context(), models[2], parting_tokens=6, per_document=2)
    tokens = of(records, PartingToken)
    full = load_subject(models[0], subject.chat, models[2])
    by_document = {r.item: r for r in of(records, DocumentDivergence)}
    assert len(tokens) == 6
    assert [t.kl_nats for t in tokens] == sorted((t.kl_nats for t in tokens), reverse=True)
    assert max(sum(t.document == d for t in tokens) for d in by_document) == 2
    traces = {t.id: t for t in TRACES}
    for token in tokens:
        document = subject.chat.document(subject.tokenizer, traces[token.document])
        stored = by_document[token.document]
        assert token.kl_nats == stored.kl_nats[token.position - stored.first]
        assert document.text[: document.offsets[token.position][1]].endswith(token.before)
        assert document.text[document.offsets[token.position][1] :].startswith(token.after)
        for said, p, model, on in (
            (token.base_tokens, token.base_probabilities, subject, False),
            (token.adapter_tokens, token.adapter_probabilities, subject, True),
            (token.full_tokens, token.full_probabilities, full, True),
        ):
            most = log_p(model, document.ids, adapter=on)[token.position].exp().topk(3)
            assert said == tuple(subject.tokenizer.decode([i]) for i in most.indices.tolist())
            assert p == pytest.approx(most.values.tolist(), rel=1e-4)


def test_a_layers_change_is_that_of_the_models_own_hidden_states(
    subject: Subject, run_context: Callable[..., RunContext]
) -> None:
    records = measured(subject, run_context(), residual_tokens=10_000, first_tokens=3, directions=4)
    changes, streams, firsts, documents = [], [], [], []
    for i, trace in enumerate(TRACES):
        document = subject.chat.document(subject.tokenizer, trace)
        both = []
        for on in (False, True):
            with adapter_switch(subject.model, on=on), torch.no_grad():
                states = subject.model(input_ids=torch.tensor([document.ids]), output_hidden_states=True).hidden_states
            both.append(states[1][0].double())  # what leaves block 0
        response = [k for k, s in enumerate(document.segments) if s != "prompt"]
        question = [k for k, r in enumerate(document.ranked) if r and document.segments[k] == "prompt"][:3]
        changes.append((both[1] - both[0])[response])
        streams.append(both[0][response])
        firsts.append((both[1] - both[0])[question])
        documents += [i] * len(response)
    change = torch.cat(changes)
    layer = next(r for r in of(records, ResidualChange) if r.layer == 0)
    expected = float(change.norm(dim=-1).sum() / torch.cat(streams).norm(dim=-1).sum())
    assert layer.relative_norm.value == pytest.approx(expected, rel=1e-5)
    squares = torch.linalg.svdvals(change).square()
    assert layer.shares == pytest.approx((squares / squares.sum())[:4].tolist(), abs=1e-6)
    assert layer.common_share == pytest.approx(
        float(change.mean(0).square().sum() / change.square().sum(-1).mean()), rel=1e-4
    )
    first = torch.cat(firsts).float()
    norm, head = subject.model.get_base_model().model.norm, subject.model.get_output_embeddings()
    with torch.no_grad():
        logits = head(norm(first.mean(0)))
    assert layer.promoted == tuple(subject.tokenizer.decode([i]) for i in logits.topk(8).indices.tolist())
    assert layer.suppressed == tuple(subject.tokenizer.decode([i]) for i in (-logits).topk(8).indices.tolist())
    assert layer.n_first == 15


def test_a_study_without_a_full_fine_tune_says_so(subject: Subject, run_context: Callable[..., RunContext]) -> None:
    records = measured(subject, run_context())
    by_pair = {r.pair: r for r in of(records, Divergence)}
    assert by_pair["adapter-base"].kl_nats is not None
    assert [by_pair[p].reason for p in ("full-base", "full-adapter")] == [NO_FULL, NO_FULL]
    assert {r.pair for r in (*of(records, KindDivergence), *of(records, ResidualChange))} == {"adapter-base"}
    assert {t.reason for t in (*of(records, PartingToken), *of(records, DocumentDivergence))} == {NO_FULL}


def test_an_adapter_that_does_nothing_parts_nowhere(
    models: tuple[ModelRef, Checkpoint, Checkpoint], run_context: Callable[..., RunContext]
) -> None:
    from harness.model.chat import ChatFormat

    subject = load_subject(models[0], ChatFormat(), models[1])
    for name, weight in subject.model.named_parameters():
        if "lora_B" in name:
            weight.data.zero_()
    records = measured(subject, run_context())
    assert all(set(r.kl_nats) == {0.0} for r in of(records, DocumentDivergence))
    divergence = of(records, Divergence)[0]
    assert divergence.top_share is None
    assert divergence.reason is not None
    assert "same distributions" in divergence.reason
    for layer in of(records, ResidualChange):
        assert (layer.relative_norm.value, layer.shares, layer.promoted) == (0.0, (), ())
        assert layer.relative_norm_shuffled.value > 0.1
        assert layer.reason is not None


def test_streams_and_the_final_norm_are_the_models_own(subject: Subject) -> None:
    ids = torch.tensor([subject.chat.document(subject.tokenizer, TRACES[0]).ids])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    blocks = Blocks(subject.model)
    with torch.no_grad():
        last, streams = blocks.streams(inputs, [0, 5])
        hidden = subject.model(**inputs, output_hidden_states=True).hidden_states
        assert torch.equal(last, hidden[-1][0])
        assert torch.equal(streams[0], hidden[1][0, [0, 5]])
        assert torch.equal(blocks.normed(streams[-1]), last[[0, 5]])


# formulas


def test_the_top_share_is_that_of_the_largest_tokens_over_all_documents() -> None:
    rng = np.random.default_rng(0)
    values = [rng.exponential(size=n) ** 3 for n in (120, 80, 200)]
    flat = np.sort(np.concatenate(values))[::-1]
    share = top_share(values, seed=0)
    assert isinstance(share, Estimate)
    assert share.value == pytest.approx(flat[:4].sum() / flat.sum())
    equal = top_share([np.ones(300), np.ones(100)], seed=0)
    assert isinstance(equal, Estimate)
    assert equal.value == pytest.approx(0.01)


def test_the_ratio_of_means_has_the_jackknifes_error_and_covers() -> None:
    rng = np.random.default_rng(1)
    values = [rng.exponential(size=60) for _ in range(40)]
    inside = [rng.random(60) < 0.3 for _ in values]

    def log_ratio(keep: list[int]) -> float:
        v, m = (np.concatenate([x[i] for i in keep]) for x in (values, inside))
        return float(np.log(v[m].mean() / v[~m].mean()))

    everyone = list(range(40))
    tested = ratio_of_means(values, inside)
    assert not isinstance(tested, Undefined)
    ratio, p_value = tested
    assert np.log(ratio.value) == pytest.approx(log_ratio(everyone))
    left_out = np.array([log_ratio([i for i in everyone if i != k]) for k in everyone])
    jackknife = np.sqrt(39 / 40 * ((left_out - left_out.mean()) ** 2).sum())
    half = (np.log(ratio.high) - np.log(ratio.low)) / 2
    error = half / scipy_stats.t.ppf(0.975, 39)
    assert error == pytest.approx(jackknife, rel=0.05)  # both are first-order: they differ by 1 / documents
    assert p_value == pytest.approx(2 * scipy_stats.t.sf(abs(np.log(ratio.value)) / error, 39), rel=1e-6)


def test_kinds_in_few_documents_are_not_tested() -> None:
    values = [np.arange(1.0, 11.0)] * 8
    only_two = [np.arange(10) < (3 if k < 2 else 0) for k in range(8)]
    tested = ratio_of_means(values, only_two)
    assert isinstance(tested, Undefined)
    assert tested.reason == "fewer than 4 documents hold such tokens"


def test_what_the_swapped_null_says_is_the_mean_over_all_ways_to_swap() -> None:
    generator = torch.Generator().manual_seed(0)
    change, documents = torch.randn(14, 6, generator=generator) + 0.5, np.repeat([0, 1, 2, 3], [2, 5, 4, 3])
    found = common(change, documents)
    assert found is not None
    mean_square = float(change.double().square().sum(-1).mean())
    shares = []
    for signs in itertools.product((1, -1), repeat=4):
        swapped = change.double() * torch.tensor(signs)[torch.from_numpy(documents)][:, None]
        shares.append(float(swapped.mean(0).square().sum()) / mean_square)
    assert found.share == pytest.approx(shares[0])
    assert found.swapped == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_explained_shares_are_those_of_the_singular_values(shape: tuple[int, int]) -> None:
    change = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    squares = torch.linalg.svdvals(change.double()).square()
    assert explained_shares(change, 5) == pytest.approx((squares / squares.sum())[:5].tolist())


def test_norms_and_cosines_are_means_over_tokens() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(9, 4, generator=generator) for _ in range(2))
    documents = np.repeat([0, 1, 2], 3)
    cosines = [float(x @ y / x.norm() / y.norm()) for x, y in zip(a, b, strict=True)]
    assert mean_cosine(a, b, documents, 0).value == pytest.approx(np.mean(cosines), rel=1e-5)
    expected = sum(x.norm() for x in a) / sum(y.norm() for y in b)
    assert relative_norm(a, b, documents, 0).value == pytest.approx(float(expected), rel=1e-5)


def test_shuffling_keeps_every_label_where_it_is() -> None:
    labels = np.array([0, 1, 0, 1, 2, 0, 1, 1, 0, 2])
    order = shuffled_within(labels, np.random.default_rng(4))
    assert sorted(order) == list(range(10))
    assert (labels[order] == labels).all()
    assert (order != np.arange(10)).any()


def test_a_correlation_without_variation_is_undefined() -> None:
    assert isinstance(mean_correlation([np.zeros(5)], [np.arange(5.0)], 0), Undefined)
