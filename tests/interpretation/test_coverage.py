"""Purity and recall: by brute force over every token, at equal density, and estimated from what a scorer says."""

import re

import numpy as np
import pytest

from harness.activations.exemplars import collect_features
from harness.activations.store import ActivationWriter, open_set
from harness.interpretation.config import CoverageConfig
from harness.interpretation.coverage import ExplainedSource, Ratios, cover, matched_density, thresholds
from harness.interpretation.coverage_sample import STRATA, Drawn, draw, estimates
from harness.interpretation.covering import Interpreting, coverages, not_covered
from harness.records import Estimate, Explanation, ScoringAnswer
from harness_plugins.interpreters import lexical
from harness_plugins.interpreters.lexical.rule_masks import RuleMasks
from harness_plugins.interpreters.lexical.rules import Place, Rule, occurrences
from harness_plugins.interpreters.lexical.scoring import answer, read, written

DIGIT = written([Rule(Place(class_="digit"))])
AFTER_EQUALS = written([Rule(Place(class_="digit"), previous=Place(("=",)))])
BEFORE_POINT = written([Rule(next=Place((".",)))])
WAIT_OR_LETTER = written([Rule(Place(("Wait",))), Rule(Place(class_="letter"))])
NEVER = written([Rule(Place(("nowhere",)))])
RULES = (DIGIT, AFTER_EQUALS, BEFORE_POINT, WAIT_OR_LETTER, NEVER)


def mostly_digits(token, rng):
    return rng.uniform(0.5, 2) if token.strip().isdigit() else rng.uniform(0, 0.3) * (rng.random() < 0.5)


def signed_noise(token, rng):
    return rng.normal() + (3 if token.strip() == "Wait" else 0)


def rare(token, rng):
    return float(token.strip() == "x") * rng.uniform(1, 2)


COLUMNS = {"L0.digits": mostly_digits, "L1.noise": signed_noise, "L2.rare": rare}


def explained(stored, rule_of, k=8):
    features = [f for f in collect_features(stored, k=k, cap=2, window=4, sample=8, seed=0) if f.exemplars]
    explanations = [
        Explanation(item=f.feature, source=f.source, feature=f.feature, interpreter="lexical", explanation="x",
                    grade=0, grade_top=0, reason="r", rule=rule_of(i), n_exemplars=len(f.exemplars))
        for i, f in enumerate(features)
    ]  # fmt: skip
    return ExplainedSource(stored, features, explanations)


def reader():
    (registration,) = lexical.harness_interpreters()
    return registration.implementation()(registration.config())


def by_rule(**others):
    return Interpreting("lexical", reader(), None, others.get("regrade", lambda source, limits: dict.fromkeys(limits)))


def neighbours(texts, i, step):
    i += step
    while 0 <= i < len(texts) and not texts[i].strip(" "):
        i += step
    return texts[i].strip(" ") if 0 <= i < len(texts) else None


def holds(rule, texts, i):
    """What the rules of this test say, written out without the interpreter."""
    bare = texts[i].strip(" ")
    digit = bool(re.fullmatch(r"[0-9]+", bare))
    return {
        DIGIT: digit,
        AFTER_EQUALS: digit and neighbours(texts, i, -1) == "=",
        BEFORE_POINT: neighbours(texts, i, 1) == ".",
        WAIT_OR_LETTER: bare == "Wait" or bool(re.fullmatch(r"[A-Za-z]", bare)),
        NEVER: False,
    }[rule]


def brute_force(stored, feature, rule, above):
    """Purity, recall and counts, token by token."""
    column = stored.columns.index(feature.rstrip("+-") if stored.set.signed else feature)
    sign = -1 if feature.endswith("-") else 1
    weight = held = active = covered = both = tokens = 0
    for name in stored.document_ids:
        document, texts = stored.document(name), stored.tokens(name)
        for i, text in enumerate(texts):
            if i == 0 or text.startswith("<"):
                continue
            value = sign * float(document.values[i, column])
            value = value if value > above else 0.0
            hit = holds(rule, texts, i)
            tokens += 1
            weight += max(value, 0)
            held += max(value, 0) * hit
            active += value > 0
            covered += hit
            both += hit and value > 0
    return held / weight if weight else None, both / covered if covered else None, active, covered, tokens


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("rule", RULES, ids=["class", "before it", "after it", "one of two", "no token"])
def test_purity_and_recall_are_those_of_every_token(made, signed, rule):
    """Float32 sums of some 3,000 activations against float64: 1e-5 is a hundred times their rounding."""
    source = explained(made(COLUMNS, signed=signed), lambda i: rule)
    found = list(coverages([source], by_rule(), CoverageConfig(density=0.05), 0))
    assert [c.feature for c in found] == [f.feature for f in source.features]
    for c in found:
        purity, recall, active, covered, tokens = brute_force(source.stored, c.feature, rule, 0.0)
        assert (c.n_active, c.n_inactive, c.n_covered) == (active, tokens - active, covered)
        assert c.n_documents == len(source.stored.document_ids)
        assert c.density_per_token == pytest.approx(active / tokens)
        assert c.purity.value == pytest.approx(purity, abs=1e-5)
        assert (c.recall is None) == (recall is None)
        assert (c.reason is None) == (recall is not None)
        if recall is not None:
            assert c.recall.value == pytest.approx(recall, abs=1e-9)
            assert 0 <= c.recall.low <= c.recall.value <= c.recall.high <= 1
        matched = brute_force(source.stored, c.feature, rule, c.matched_above)
        assert c.matched_density_per_token == pytest.approx(matched[2] / tokens)
        assert c.matched_purity.value == pytest.approx(matched[0], abs=1e-5)


def test_a_sparse_set_has_the_numbers_of_the_same_set_stored_dense(made, tmp_path):
    dense = made(COLUMNS, signed=False)
    writer = ActivationWriter(tmp_path / "sparse", "made", dense.columns, layers=dense.set.layers, signed=False,
                              projections=dense.set.projections, site="s", chat_hash="0", dtype="float32",
                              sparse=True)  # fmt: skip
    for document in dense.documents():
        writer.append(document.document(), document.csr)
    sparse = open_set(writer.finish())
    one, other = (
        list(coverages([explained(s, lambda i: RULES[i % 4])], by_rule(), CoverageConfig(density=0.05), 0))
        for s in (dense, sparse)
    )
    assert sparse.sparse
    for a, b in zip(one, other, strict=True):
        assert a.purity.value == pytest.approx(b.purity.value, abs=1e-6)
        assert (a.n_active, a.n_covered, a.recall) == (b.n_active, b.n_covered, b.recall)
        assert a.matched_purity.high == pytest.approx(b.matched_purity.high, abs=1e-5)


def test_rules_hold_on_a_document_as_they_do_on_a_window():
    tokens = ("So", " x", " =", " ", " 7", ".", " Wait", " ", " y", "\n", "")
    found = RuleMasks(RULES)(tokens)
    windows = occurrences(tokens)
    assert found.shape == (len(tokens), len(RULES))
    for column, rule in enumerate(RULES):
        assert found[:, column].tolist() == [any(r.holds(o) for r in read(rule)) for o in windows]
    assert found[:, 1].nonzero()[0].tolist() == [4]  # the space before 7 is skipped


def test_at_equal_density_no_feature_is_active_on_more_tokens_than_asked_for(made):
    source = explained(made(COLUMNS, signed=True), lambda i: DIGIT)
    wanted = 0.05
    found = list(coverages([source], by_rule(), CoverageConfig(density=wanted), 0))
    n = found[0].n_active + found[0].n_inactive
    for c in found:
        if c.density_per_token <= wanted:
            assert (c.matched_above, c.matched_purity, c.matched_recall) == (0, c.purity, c.recall)
        else:
            assert c.matched_density_per_token == pytest.approx(wanted, abs=2 / n)


def test_equal_activations_stay_together(made):
    source = explained(made({"same": lambda token, rng: 1.0}), lambda i: DIGIT)
    (limit,) = thresholds(source, 0.05, 1000, 0)
    assert 0.999 < limit < 1


def test_the_density_is_the_sparsest_sources_median(made):
    stored = made(COLUMNS, signed=False)
    dense, sparse = explained(stored, lambda i: DIGIT), explained(stored, lambda i: DIGIT)
    sparse = ExplainedSource(stored, sparse.features[2:], sparse.explanations[2:])
    assert matched_density([dense, sparse]) == sparse.features[0].density_per_token


def test_grades_by_the_highest_contexts_are_made_again_only_where_some_of_them_are_too_weak(made):
    source = explained(made(COLUMNS, signed=False), lambda i: DIGIT, k=40)
    asked = []

    def regrade(name, limits):
        asked.append(limits)
        return dict.fromkeys(limits, 2)

    found = {c.feature: c for c in coverages([source], by_rule(regrade=regrade), CoverageConfig(density=0.01), 0)}
    (limits,) = asked
    for f in source.features:
        left = sum(e.activations[e.target] > found[f.feature].matched_above for e in f.exemplars)
        assert (f.feature in limits) == (left < len(f.exemplars))
        assert found[f.feature].matched_grade_top == (2 if f.feature in limits else 0)


def test_intervals_over_documents_cover():
    """400 times 40 documents of unequal length and own rates: 95 % +- 2.2 (two standard errors)."""
    rng = np.random.default_rng(0)
    inside, truth = 0, 0.3
    for _ in range(400):
        ratios = Ratios(1, 1)
        for _ in range(40):
            n = rng.integers(20, 200)
            rate = rng.beta(3, 7)  # mean .3; the same whatever the length
            ratios.add(np.array([[float(rng.binomial(n, rate))]]), np.array([[float(n)]]))
        ((found,),) = ratios.estimates()
        inside += found.low <= truth <= found.high
    assert 0.925 <= inside / 400 <= 0.985


def test_a_share_of_one_over_few_documents_is_not_certain():
    ratios = Ratios(1, 2)
    for n in (5.0, 9.0, 7.0):
        ratios.add(np.array([[n, 0.0]]), np.array([[n, 0.0]]))
    (whole, none) = ratios.estimates()[0]
    assert whole.value == whole.high == 1
    assert whole.low < 0.4
    assert none is None


def scorer(rule):
    """Answers by a rule, as an LLM that reads its explanation perfectly would."""

    def ask(tests):
        for explanation, test in tests:
            yield answer(explanation.model_copy(update={"rule": rule}), test)

    return ask


def test_sampled_numbers_estimate_those_of_all_tokens(made):
    """Without rules, a scorer that is always right: the whole's purity and recall lie in the intervals."""
    stored = made(COLUMNS, signed=True, n=120)
    config = CoverageConfig(contexts=40, density=0.05)
    exact = list(coverages([explained(stored, lambda i: DIGIT)], by_rule(), config, 0))
    inside = tried = 0
    for seed in range(6):
        by = Interpreting("llm", None, scorer(DIGIT), lambda source, limits: dict.fromkeys(limits))
        for whole, c in zip(exact, coverages([explained(stored, lambda i: None)], by, config, seed), strict=True):
            assert c.basis == "sample"
            assert c.n_active + c.n_inactive <= 120
            assert (c.reason is None) == (None not in (c.purity, c.recall, c.matched_purity, c.matched_recall))
            for name in ("purity", "recall", "matched_purity", "matched_recall"):
                true, found = getattr(whole, name), getattr(c, name)
                if found is not None:
                    inside += found.low <= true.value <= found.high
                    tried += 1
    assert tried >= 90
    assert inside / tried >= 0.92


def test_strata_count_by_their_share():
    drawn = [Drawn("strong", "d", i, 2.0) for i in range(4)] + [Drawn("weak", "d", i, 0.5) for i in range(4)]
    drawn += [Drawn("inactive", "d", i, 0.0) for i in range(4)]
    covered = [True] * 4 + [True, False, False, False] + [False] * 4
    found = estimates(drawn, covered, {"strong": 0.1, "weak": 0.3, "inactive": 0.6}, weak=0.4)
    assert found.purity.value == pytest.approx(0.6 * 1 + 0.4 * 0.25)
    assert found.recall.value == 1
    assert found.recall.low < 0.5  # 4 inactive tokens of which none is covered say little of 60 % of the tokens
    assert found.matched_recall.value == pytest.approx(0.1 / (0.1 + 0.3 * 0.25))
    assert found.n_covered == 5


def test_a_stratum_that_no_token_is_in_adds_no_doubt():
    drawn = [Drawn("strong", "d", i, 2.0) for i in range(4)] + [Drawn("weak", "d", i, 0.5) for i in range(4)]
    covered = [True] * 4 + [True, False, False, False]
    found = estimates(drawn, covered, {"strong": 0.5, "weak": 0.5, "inactive": 0.0}, weak=0.4)
    assert found.recall == Estimate(1.0, 1.0, 1.0), "no inactive token exists that could be covered"


def test_what_is_asked_about_was_not_shown_and_each_stratum_is_drawn(made):
    source = explained(made(COLUMNS, signed=True), lambda i: None)
    (whole,) = cover([source], {}, None, [thresholds(source, 0.05, 20_000, 0)])
    for feature, drawn in zip(source.features, draw(source, whole, 10, 0), strict=True):
        counts = {stratum: sum(d.stratum == stratum for d in drawn) for stratum in STRATA}
        assert counts["inactive"] >= 7  # of ten, those in no window that was shown
        assert counts["strong"] > 0
        shown = {(e.document, e.start + i) for e in feature.exemplars for i in range(len(e.tokens))}
        for stratum in STRATA:
            seen = {(d.document, d.position) in shown for d in drawn if d.stratum == stratum}
            assert len(seen) <= 1  # all were shown where nothing else is in the stratum, else none
        assert all((d.value > 0) == (d.stratum != "inactive") for d in drawn)


def test_absence_has_a_reason(made):
    source = explained(made(COLUMNS, signed=True), lambda i: None)

    def silent(tests):
        return (ScoringAnswer(item=t.item, ratings=None, reason="call failed: HTTP 400") for _, t in tests)

    def regrade(source, limits):
        return dict.fromkeys(limits)

    for by, why in (
        (Interpreting("llm", None, None, regrade), "no scoring tests"),
        (Interpreting("llm", None, silent, regrade), "HTTP 400"),
    ):
        for c in coverages([source], by, CoverageConfig(), 0):
            assert (c.purity, c.recall, c.basis) == (None, None, None)
            assert why in c.reason
            if by.ask:
                assert c.n_active + c.n_inactive <= 3 * CoverageConfig().contexts, "what was asked, not all tokens"
    none = not_covered(source.features[0], "lexical", "no explanation: unread")
    assert none.purity is None
    assert none.reason == "no explanation: unread"
