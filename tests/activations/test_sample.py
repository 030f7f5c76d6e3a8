"""QuantileSample: a uniform sample of active tokens, the same whatever the shards, even over the quantiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from harness.activations.sample import QuantileSample, Sampled, _priorities
from harness.activations.sparse import SparseRows
from tests.activations.test_topk import Stream, streams


def sample(stream: Stream, *, sparse: bool = False, **settings: Any) -> Sampled:
    sampler = QuantileSample(stream.documents[0].shape[1], **settings)
    for values, ranked in zip(stream.documents, stream.ranked, strict=True):
        sampler.add_document(SparseRows.of(values, str(values.dtype)) if sparse else values, ranked)
    return sampler.result()


def pool(stream: Stream, row: int, n: int, seed: int) -> list[tuple[float, int, int]]:
    """(value, place, priority) of the 4 n active tokens of lowest priority, by looking at all of them."""
    everything = np.concatenate(stream.documents)[:, row // 2].astype(np.float32) * (1 - 2 * (row % 2))
    active = np.flatnonzero(np.concatenate(stream.ranked) & (everything > 0))
    priority = _priorities(active, seed)
    order = np.argsort(priority)[: 4 * n]
    return sorted((float(everything[active[i]]), int(active[i]), int(priority[i])) for i in order)


@settings(max_examples=100, deadline=None)
@given(streams())
def test_every_stratum_gives_its_token_of_lowest_priority(stream: Stream) -> None:
    n, seed = 3, 11
    found = sample(stream, signed=True, n=n, seed=seed)
    for row in range(2 * stream.documents[0].shape[1]):
        entries = pool(stream, row, n, seed)
        own = slice(found.bounds[row], found.bounds[row + 1])
        m = min(n, len(entries))
        strata = [[e for r, e in enumerate(entries) if r * m // len(entries) == s] for s in range(m)]
        expected = [min(s, key=lambda e: e[2]) for s in strata][::-1]
        assert found.tokens[own].tolist() == [e[1] for e in expected]
        assert found.values[own].tolist() == [e[0] for e in expected]
        places = [(entries.index(e) + 0.5) / len(entries) for e in expected]
        np.testing.assert_allclose(found.quantiles[own], places)


@settings(max_examples=60, deadline=None)
@given(streams())
def test_dense_and_sparse_streams_give_the_same_sample(stream: Stream) -> None:
    dense, sparse = (sample(stream, sparse=s, signed=True, n=4, seed=5) for s in (False, True))
    for name in ("bounds", "tokens", "values", "quantiles"):
        np.testing.assert_array_equal(getattr(dense, name), getattr(sparse, name))


def test_the_sample_is_uniform_over_quantiles() -> None:
    """A column of known ranks: the mean true quantile of each stratum's token is the stratum's middle."""
    rng = np.random.default_rng(0)
    n_tokens, n = 3000, 5
    values = rng.permutation(n_tokens).astype(np.float32)[:, None] + 1
    drawn = []
    for seed in range(200):
        found = sample(Stream([values], [np.ones(n_tokens, dtype=bool)]), signed=False, n=n, seed=seed)
        drawn.append(found.values / n_tokens)
        assert np.abs(found.quantiles - found.values / n_tokens).max() < 0.5
    # Standard error of a stratum's mean: below 0.15 / sqrt(200) = 0.011.
    np.testing.assert_allclose(np.mean(drawn, axis=0), [0.9, 0.7, 0.5, 0.3, 0.1], atol=0.04)


def test_priorities_are_distinct_and_depend_on_the_seed() -> None:
    places = np.arange(200_000)
    first, second = _priorities(places, 1), _priorities(places, 2)
    assert len(np.unique(first)) == len(places)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.01


@pytest.mark.parametrize("sparse", [False, True])
def test_none_are_drawn_where_none_are_wanted_or_active(sparse: bool) -> None:
    stream = Stream([np.zeros((5, 2), dtype=np.float16)], [np.ones(5, dtype=bool)])
    for n in (0, 4):
        found = sample(stream, sparse=sparse, signed=True, n=n, seed=0)
        assert found.bounds.tolist() == [0] * 5
