"""Planted features: what they are said to be is what they are, through the selection that every source goes through."""

from collections import Counter, defaultdict
from typing import get_args

import numpy as np
import pytest

from harness.activations.exemplars import collect_features, evidence
from harness.activations.store import open_set, token_texts
from harness.errors import DataError
from harness.interpretation.planted import RIGHT_GRADE, draw_plants, write_plants
from harness.records import PlantedKind

N = 6
CLASS_OF = {"digits": str.isdigit, "single letters": lambda t: len(t) == 1 and t.isalpha(),
            "mathematical signs": lambda t: t in "+-=", "words": lambda t: t.islower() and len(t) > 1,
            "capitalised words": str.istitle, "punctuation": lambda t: t in ".?:"}  # fmt: skip


@pytest.fixture
def planted(made, tmp_path):
    stored = made({"any": lambda t, rng: 1.0})
    plants = draw_plants(stored, N, k=16, cap=2, seed=5)
    found = open_set(write_plants(plants, stored, tmp_path / "planted", seed=5))
    return stored, plants, found


@pytest.fixture
def by_kind(planted):
    """Kind -> (plant, feature) with the visible token before each exemplar's own, read from the document itself."""
    _, plants, found = planted
    pairs = defaultdict(list)
    for plant, feature in zip(plants, collect_features(found, k=16, cap=2, window=5), strict=True):
        pairs[plant.record.kind].append((plant, feature))
    return pairs


def own_tokens(shown):
    return [e.tokens[e.target].strip() for e in shown.exemplars]


def neighbours(planted, shown, step):
    stored = planted[0]
    texts = {e.document: stored.tokens(e.document) for e in shown.exemplars}
    return [texts[e.document][e.position + step].strip() for e in shown.exemplars]


def test_every_kind_has_its_right_grade_and_fills_its_contexts(by_kind):
    # this corpus has five digits and more of every class; its only sentence end is the full stop
    assert set(by_kind) == set(get_args(PlantedKind))
    for kind, pairs in by_kind.items():
        assert len(pairs) == N
        assert {p.record.right_grade for p, _ in pairs} == {RIGHT_GRADE[kind]}
        for plant, feature in pairs:
            assert (plant.record.feature, feature.source) == (feature.feature, "planted")
            assert sum(x.n_identical for x in feature.exemplars) == 16, feature.feature
            assert max(Counter(x.document for x in feature.exemplars).values()) <= 2
    assert RIGHT_GRADE == {"token": 0, "context": 1, "class": 1, "position": 1, "mixture": 2, "random": 2, "peak": 2}


def test_tokens_classes_and_mixtures_fire_on_what_they_name(by_kind):
    for plant, shown in by_kind["token"]:
        assert {own for own in own_tokens(shown)} == {c.strip() for c in plant.record.concepts}
    for plant, shown in by_kind["class"]:
        tokens = own_tokens(shown)
        assert all(CLASS_OF[plant.record.concepts[0]](t) for t in tokens), (plant.record, tokens)
        assert len(set(tokens)) > 1
    for plant, shown in by_kind["mixture"]:
        tokens = Counter(own_tokens(shown))
        assert set(tokens) == {c.strip() for c in plant.record.concepts}
        assert min(tokens.values()) >= 3, "both concepts are shown"
    assert all(len(set(own_tokens(shown))) > 4 for _, shown in by_kind["random"])


def test_contexts_and_positions_are_told_by_what_is_beside_them(by_kind, planted):
    for plant, shown in by_kind["context"]:
        assert set(neighbours(planted, shown, -1)) == {plant.record.concepts[0].strip()}
        assert len(set(own_tokens(shown))) > 1, "what follows varies, or it would be a token"
    for plant, shown in by_kind["position"]:
        step = -1 if plant.record.concepts[0].startswith("first") else 1
        assert set(neighbours(planted, shown, step)) == {"."}
        assert len(set(own_tokens(shown))) > 1


def test_a_peak_is_one_token_at_the_top_and_mostly_others_below(by_kind, planted):
    _, _, found = planted
    for plant, shown in by_kind["peak"]:
        token = plant.record.concepts[0]
        assert Counter(own_tokens(shown)).most_common(1)[0][0] == token.strip()
        column = found.columns.index(shown.feature)
        on_token = elsewhere = 0.0
        for document in found.documents():
            values = np.where(document.ranked, document.values[:, column].astype(np.float64), 0)
            is_token = np.array([t == token for t in token_texts(document, 0, len(document.ids))])
            on_token, elsewhere = on_token + values[is_token].sum(), elsewhere + values[~is_token].sum()
            assert values[~is_token].max() <= 1  # float16 rounds .9999 up
            assert values[is_token & document.ranked].min(initial=2) >= 1
        assert elsewhere > on_token, "no explanation by the token covers most of the activation"


def test_densities_go_from_sparse_to_dense(by_kind):
    shares = {kind: sorted(f.density_per_token for _, f in pairs) for kind, pairs in by_kind.items()}
    # 16 contexts of some 3,400 tokens need about 1 %
    assert shares["random"][0] < 0.02
    assert shares["random"][-1] == pytest.approx(0.6, abs=0.05)
    assert shares["peak"][0] == pytest.approx(0.2, abs=0.06)
    assert shares["peak"][-1] == pytest.approx(0.6, abs=0.06)
    assert 0.1 < shares["class"][-1] <= 0.25, "a class that is more of the text is no concept"
    for kind in ("token", "class", "position"):
        assert shares[kind][-1] > 2 * shares[kind][0], kind


def test_the_same_seed_plants_the_same_and_special_tokens_are_none_of_them(planted, tmp_path):
    stored, plants, found = planted
    assert [p.record for p in draw_plants(stored, N, k=16, cap=2, seed=5)] == [p.record for p in plants]
    assert [p.record for p in draw_plants(stored, N, k=16, cap=2, seed=6)] != [p.record for p in plants]
    again = open_set(write_plants(plants, stored, tmp_path / "again", seed=5))
    shown = [evidence(collect_features(s, k=16, cap=2, window=5), 16) for s in (again, found)]
    assert shown[0] == shown[1]
    assert not {"<t>", "<a>", "<q>"} & {t for p in plants for t in p.record.concepts}


def test_a_corpus_with_too_few_frequent_tokens_is_refused(tmp_path):
    from harness.testing import tiny_activations

    small = tiny_activations(tmp_path / "small", {"a": np.ones((4, 1)), "b": np.ones((3, 1))})
    with pytest.raises(DataError, match=r"grading\.planted=0"):
        draw_plants(open_set(small), 2, k=16, cap=4, seed=0)
