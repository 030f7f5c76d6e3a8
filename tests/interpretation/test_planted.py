"""Planted features: what they are said to be is what they are, through the selection that every source goes through."""

from collections import Counter

import pytest

from harness.activations.exemplars import collect_features, evidence
from harness.activations.store import open_set
from harness.errors import DataError
from harness.interpretation.planted import draw_plants, write_plants


@pytest.fixture
def planted(made, tmp_path):
    stored = made({"any": lambda t, rng: 1.0})
    plants = draw_plants(stored, 4, k=16, cap=2, seed=5)
    found = open_set(write_plants(plants, stored, tmp_path / "planted", seed=5))
    return stored, plants, evidence(collect_features(found, k=16, cap=2, window=5), 16)


def own_tokens(shown):
    return [e.tokens[e.target] for e in shown.exemplars]


def test_one_token_two_tokens_any_token(planted):
    _, plants, shown = planted
    assert [p.record.kind for p in plants] == ["monosemantic"] * 4 + ["mixture"] * 4 + ["random"] * 4
    assert [p.record.right_grade for p in plants] == [0] * 4 + [2] * 8
    for plant, e in zip(plants, shown, strict=True):
        tokens = Counter(own_tokens(e))
        assert e.source == "planted"
        assert len(e.exemplars) == 16
        if plant.record.kind == "monosemantic":
            assert set(tokens) == set(plant.record.concepts)
        elif plant.record.kind == "mixture":
            assert set(tokens) == set(plant.record.concepts)
            assert min(tokens.values()) >= 3, "both concepts are shown"
        else:
            assert len(tokens) > 4
        assert max(Counter(x.document for x in e.exemplars).values()) <= 2


def test_the_same_seed_plants_the_same_and_special_tokens_are_none_of_them(planted, tmp_path):
    stored, plants, shown = planted
    assert [p.record for p in draw_plants(stored, 4, k=16, cap=2, seed=5)] == [p.record for p in plants]
    assert [p.record for p in draw_plants(stored, 4, k=16, cap=2, seed=6)] != [p.record for p in plants]
    again = open_set(write_plants(plants, stored, tmp_path / "again", seed=5))
    assert evidence(collect_features(again, k=16, cap=2, window=5), 16) == shown
    assert not {"<t>", "<a>", "<q>"} & {t for p in plants for t in p.record.concepts}


def test_a_corpus_with_too_few_frequent_tokens_is_refused(tmp_path):
    import numpy as np

    from harness.testing import tiny_activations

    small = tiny_activations(tmp_path / "small", {"a": np.ones((4, 1)), "b": np.ones((3, 1))})
    with pytest.raises(DataError, match=r"grading\.planted=0"):
        draw_plants(open_set(small), 2, k=16, cap=4, seed=0)
