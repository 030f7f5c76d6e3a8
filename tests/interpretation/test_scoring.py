"""Held-out contexts and scores: what is asked has the right answer, and wrong or missing answers count."""

import numpy as np
import pytest

from harness.activations.exemplars import collect_features
from harness.interpretation.config import ScoringConfig
from harness.interpretation.contexts import Column, ContextPool, FeatureTests, TooFew
from harness.interpretation.scoring import by_kind, score, unscored
from harness.records import ScoringAnswer, ScoringContext, ScoringTest

CONFIG = ScoringConfig(window=3, documents=60)
COLUMNS = {
    "wait": lambda t, rng: float(t.strip() == "Wait") * rng.uniform(2, 4),
    "constant": lambda t, rng: 1.0,
    "dead": lambda t, rng: 0.0,
    # fires on `x` where a coin says so: half of the x are quiet, and the hard negatives hold them
    "some-x": lambda t, rng: float(t.strip() == "x" and rng.random() < 0.5),
}


@pytest.fixture
def tests_of(made):
    stored = made(COLUMNS)
    features = list(collect_features(stored, k=8, cap=2, window=5))
    pool = ContextPool(stored, [Column(i, 1) for i in range(len(features))], CONFIG, seed=0)

    def get(name):
        i = list(COLUMNS).index(name)
        return features[i], FeatureTests(pool, features[i], i, CONFIG, "seed").tests()

    return get


def test_labels_are_true_and_contexts_were_not_shown(tests_of):
    feature, tests = tests_of("wait")
    tests = list(tests)
    assert [t.kind for t in tests] == ["detection", "fuzzing", "intruder", "intruder", "intruder"]
    shown = {(e.document, e.start + i) for e in feature.exemplars for i in range(len(e.tokens))}
    for test in tests:
        for c in test.contexts:
            assert not shown & {(c.document, c.start + i) for i in range(len(c.tokens))}
            fires = any(t.strip() == "Wait" for t in c.tokens)
            marked = [c.tokens[i].strip() for i in c.marked]
            if test.kind == "detection":
                assert fires == c.label
                assert not marked
            elif test.kind == "fuzzing":
                assert (set(marked) == {"Wait"}) == c.label
                assert marked
            else:
                assert fires != c.label
        labels = [c.label for c in test.contexts]
        assert (sum(labels), len(labels)) == ((6, 12) if test.kind != "intruder" else (1, 5))


def test_hard_negatives_hold_a_token_that_the_feature_fires_on(tests_of):
    _, tests = tests_of("some-x")
    detection = next(iter(tests))
    negatives = [c for c in detection.contexts if not c.label]
    assert sum(c.hard for c in negatives) >= len(negatives) // 2
    assert all(c.hard == any(t.strip() == "x" for t in c.tokens) for c in negatives)


def test_a_feature_that_is_never_quiet_or_dead_has_no_test_and_says_why(tests_of):
    for name, why in (("constant", "fewer than 3 held-out quiet contexts"), ("dead", "dead")):
        _, found = tests_of(name)
        assert isinstance(found, TooFew)
        assert why in found.reason


def test_the_same_seed_asks_the_same(tests_of):
    assert list(tests_of("wait")[1]) == list(tests_of("wait")[1])


def a_test(kind, labels, number=0):
    contexts = [ScoringContext(document=f"d{i}", start=0, tokens=("a",), label=x) for i, x in enumerate(labels)]
    return ScoringTest(item=f"{kind}/f/{number}", kind=kind, source="s", feature="f", contexts=tuple(contexts))


def answers(*ratings, kind="detection"):
    return {
        f"{kind}/f/{i}": ScoringAnswer(item=f"{kind}/f/{i}", ratings=r, reason=None if r else "no JSON")
        for i, r in enumerate(ratings)
    }


def test_scores_by_hand():
    test = a_test("detection", [True, True, False, False])
    found = score([test], answers((0.9, 0.4, 0.5, 0.1)), "judge")
    assert found.balanced_accuracy == pytest.approx(0.5)  # one of two, one of two
    assert found.auc == pytest.approx(0.75)
    assert (found.n_positive, found.n_negative, found.n_unanswered) == (2, 2, 0)
    perfect = score([test], answers((1.0, 0.5, 0.0, 0.49)), "judge")
    assert (perfect.balanced_accuracy, perfect.auc) == (1.0, 1.0)


def test_what_is_not_answered_is_wrong():
    tests = [a_test("detection", [True, False], i) for i in range(2)]
    found = score(tests, answers((1.0, 0.0), None), "judge")
    assert found.balanced_accuracy == 0.5
    assert found.n_unanswered == 2
    assert found.reason == "no JSON"
    assert found.auc == 1.0  # of what was answered
    nothing = score(tests[1:], answers(None, None), "judge")
    assert (nothing.balanced_accuracy, nothing.auc) == (0.0, None)


def test_intruders_are_found_by_the_highest_rating_and_ties_share():
    tests = [a_test("intruder", [False, True, False], i) for i in range(4)]
    found = score(tests, answers((0.1, 0.9, 0.2), (0.9, 0.1, 0.0), (0.5, 0.5, 0.1), None, kind="intruder"), "judge")
    assert found.balanced_accuracy == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert (found.n_positive, found.n_unanswered, found.auc) == (4, 1, None)
    assert unscored("s", "f", "fuzzing", "judge", "why").reason == "why"
    assert len(by_kind([*tests, a_test("fuzzing", [True])])) == 2


def test_a_window_has_the_maximum_of_its_tokens(made):
    stored = made(COLUMNS)
    pool = ContextPool(stored, [Column(0, 1)], CONFIG, seed=0)
    for i in range(0, len(pool.windows), 17):
        assert pool.maxima[i, 0] == pytest.approx(pool.activations(i, 0).max())
    assert max(w.stop - w.start for w in pool.windows) == 7
    assert np.isfinite(pool.maxima).all()
