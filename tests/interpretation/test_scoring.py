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
    # strong on Wait, between quiet and active on `+`, quiet on `-`
    "levels": lambda t, rng: {"Wait": 10.0, "+": 2.0, "-": 1.0}.get(t.strip(), 0.0),
    # as adapter directions are: somewhere active on half of the tokens, and never quiet for a whole window
    "dense": lambda t, rng: 4.0 * (t.strip() == "Wait") + rng.uniform(0.5, 2),
    "most": lambda t, rng: rng.uniform(0, 4) * (rng.random() < 0.9),
}


@pytest.fixture
def tests_of(made):
    stored = made(COLUMNS)
    features = list(collect_features(stored, k=8, cap=2, window=5))
    pool = ContextPool(stored, [Column(i, 1) for i in range(len(features))], CONFIG, seed=0)

    def get(name):
        i = list(COLUMNS).index(name)
        return features[i], FeatureTests(pool, features[i], i, CONFIG, "seed").tests()

    get.stored = stored
    return get


def test_labels_are_true_and_contexts_were_not_shown(tests_of):
    feature, tests = tests_of("wait")
    tests = [t for t in tests if t.kind != "simulation"]
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


def test_quiet_is_below_the_inactive_share_and_what_lies_between_is_neither(tests_of):
    feature, tests = tests_of("levels")
    assert feature.activation_max == 10
    negatives = [c for t in tests if t.kind == "detection" for c in t.contexts if not c.label]
    assert len(negatives) == 6
    for c in negatives:
        assert c.quiet
        assert not {"+", "Wait"} & {t.strip() for t in c.tokens}, "a token of 0.2 of the maximum is no quiet context"
    # 0.1 of the maximum is still quiet: six windows without any + or - would be hard to find here
    assert any("-" in {t.strip() for t in c.tokens} for c in negatives)


@pytest.mark.parametrize("name", ["dense", "most"])
def test_a_feature_too_dense_for_quiet_contexts_is_tested_on_its_quietest_and_they_are_counted(tests_of, name):
    feature, tests = tests_of(name)
    found = list(tests)
    assert {t.kind for t in found} == {"detection", "fuzzing", "intruder", "simulation"}
    (detection,) = (t for t in found if t.kind == "detection")
    strongest = {(c.document, c.start): top_of(c, tests_of.stored, name) for c in detection.contexts}
    yes = [strongest[c.document, c.start] for c in detection.contexts if c.label]
    no = [strongest[c.document, c.start] for c in detection.contexts if not c.label]
    assert len(yes) == len(no) == 6
    assert max(no) < min(yes), "what is asked has a right answer"
    assert min(no) > 0.1 * feature.activation_max
    assert not any(c.quiet for c in detection.contexts if not c.label)
    given = {t.item: ScoringAnswer(item=t.item, ratings=tuple(float(c.label) for c in t.contexts)) for t in found}
    assert score([detection], given, "judge").n_not_quiet == 6
    shown = {(e.document, e.start + i) for e in feature.exemplars for i in range(len(e.tokens))}
    assert not shown & {(c.document, c.start + i) for c in detection.contexts for i in range(len(c.tokens))}


def top_of(context, stored, name):
    """The largest activation of the tokens of a context that count."""
    document = stored.document(context.document)
    own = slice(context.start, context.start + len(context.tokens))
    values = document.values[:, stored.columns.index(name)].astype(float)
    return float(np.where(document.ranked, values, 0)[own].max())


def test_simulations_are_of_the_strongest_contexts_and_of_random_ones(tests_of):
    feature, tests = tests_of("wait")
    simulated = [t for t in tests if t.kind == "simulation"]
    assert [len(t.contexts) for t in simulated] == [1] * 10
    contexts = [t.contexts[0] for t in simulated]
    assert sum(c.label for c in contexts) == 5
    shown = {(e.document, e.start + i) for e in feature.exemplars for i in range(len(e.tokens))}
    for c in contexts:
        assert not shown & {(c.document, c.start + i) for i in range(len(c.tokens))}
        document = tests_of.stored.document(c.document)
        for i, (token, value) in enumerate(zip(c.tokens, c.activations, strict=True), c.start):
            if not document.ranked[i]:
                assert value is None
            else:
                assert value == pytest.approx(float(document.values[i, 0]))
                assert (value > 0) == (token.strip() == "Wait")
    assert all(max(a or 0 for a in c.activations) > 0 for c in contexts if c.label)


def test_a_feature_that_is_never_quiet_or_dead_has_no_test_and_says_why(tests_of):
    for name, why in (("constant", "activating contexts that are stronger than the quietest"), ("dead", "dead")):
        _, found = tests_of(name)
        assert isinstance(found, TooFew)
        assert why in found.reason


def test_what_could_not_be_tested_counts_nothing():
    record = unscored("s", "f", "detection", "judge", "dead: no activating context")
    assert (record.n_positive, record.n_negative, record.n_hard, record.n_unanswered) == (0, 0, 0, 0)
    assert (record.balanced_accuracy, record.auc, record.reason) == (None, None, "dead: no activating context")


def test_exactly_as_many_contexts_as_are_needed_are_enough(made):
    """`min_contexts` is the least number that is tested, not the largest that is not."""
    stored = made(COLUMNS)
    features = list(collect_features(stored, k=8, cap=2, window=5))
    i = list(COLUMNS).index("wait")

    def tests_with(least):
        config = CONFIG.model_copy(update={"min_contexts": least})
        pool = ContextPool(stored, [Column(j, 1) for j in range(len(features))], config, seed=0)
        return FeatureTests(pool, features[i], i, config, "seed")

    n = min(len(tests_with(1)._positive), len(tests_with(1)._negative))
    assert not isinstance(tests_with(n).tests(), TooFew)
    assert isinstance(tests_with(n + 1).tests(), TooFew)


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


def simulations(*activations):
    return [
        ScoringTest(item=f"simulation/f/{i}", kind="simulation", source="s", feature="f", contexts=(
            ScoringContext(document=f"d{i}", start=0, tokens=("a",) * len(own), label=i < 2, activations=own),
        ))
        for i, own in enumerate(activations)
    ]  # fmt: skip


def test_a_simulation_is_correlated_over_all_tokens_that_count():
    tests = simulations((0.0, 4.0, None), (1.0, 0.0, 3.0), (0.0, 0.0, 0.0))
    found = score(tests, answers((0.1, 0.9, 1.0), (0.0, 0.2, 0.8), (0.3, 0.0, 0.0), kind="simulation"), "judge")
    true, said = [0, 4, 1, 0, 3, 0, 0, 0], [0.1, 0.9, 0.0, 0.2, 0.8, 0.3, 0, 0]
    assert found.correlation.value == pytest.approx(np.corrcoef(true, said)[0, 1])
    assert found.correlation.low < found.correlation.value < found.correlation.high
    assert (found.n_positive, found.n_negative, found.n_unanswered) == (2, 1, 0)
    assert (found.balanced_accuracy, found.auc, found.reason) == (None, None, None)
    assert found.contexts[0].activations == (0.0, 4.0, None)
    assert found.contexts[0].predicted == (0.1, 0.9, 1.0)


def test_an_unanswered_simulation_predicts_nothing_and_is_counted():
    tests = simulations((0.0, 4.0), (1.0, 0.0), (0.0, 0.0))
    found = score(tests, answers((0.0, 1.0), None, (0.0, 0.5), kind="simulation"), "judge")
    assert found.correlation.value == pytest.approx(np.corrcoef([0, 4, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0.5])[0, 1])
    assert (found.n_unanswered, found.reason) == (1, "no JSON")
    nothing = score(tests, answers(None, None, None, kind="simulation"), "judge")
    assert (nothing.correlation, nothing.n_unanswered, nothing.reason) == (None, 3, "no JSON")


def test_a_constant_prediction_explains_nothing_and_a_constant_truth_cannot_be_explained():
    tests = simulations((0.0, 4.0), (1.0, 0.0), (0.0, 0.0))
    found = score(tests, answers((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), kind="simulation"), "judge")
    assert found.correlation.value == 0, "left out, it would flatter the mean"
    assert "the same on every token" in found.reason
    flat = simulations((2.0, 2.0), (2.0, 2.0), (2.0, 2.0))
    found = score(flat, answers((0.0, 1.0), (0.0, 0.0), (0.0, 0.0), kind="simulation"), "judge")
    assert found.correlation is None
    assert "as active on every token" in found.reason


def test_a_window_has_the_maximum_of_its_tokens(made):
    stored = made(COLUMNS)
    pool = ContextPool(stored, [Column(0, 1)], CONFIG, seed=0)
    for i in range(0, len(pool.windows), 17):
        assert pool.maxima[i, 0] == pytest.approx(pool.activations(i, 0).max())
    assert max(w.stop - w.start for w in pool.windows) == 7
    assert np.isfinite(pool.maxima).all()
