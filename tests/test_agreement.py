"""Agreement and discrimination against scikit-learn, scipy, published examples and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn import metrics

from harness.interpretation import agreement
from harness.stats import Estimate, Undefined, share


def test_fleiss_on_the_example_of_the_paper():
    # Fleiss (1971), table 1: ten subjects, fourteen raters, five classes; printed kappa 0.430 for his thirty
    # psychiatric cases; this 10 x 5 table is the standard worked example, kappa 0.210.
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    ratings = [[c for c, n in enumerate(row) for _ in range(n)] for row in counts]
    found = agreement.fleiss_kappa(ratings)
    assert found.value == pytest.approx(0.210, abs=5e-4)
    assert found.low < found.value < found.high


def test_kappa_is_one_for_a_deterministic_judge_and_about_zero_for_a_random_one():
    rng = np.random.default_rng(0)
    grades = rng.choice([0, 1, 2, None], size=200).tolist()
    assert agreement.fleiss_kappa([[g, g, g] for g in grades]).value == 1
    assert agreement.cohen_kappa([(g, g) for g in grades]).value == 1
    chance = agreement.fleiss_kappa(rng.integers(0, 3, (400, 3)).tolist())
    assert abs(chance.value) < 0.08  # standard error is about 1 / sqrt(2 * 3 * 400) = 0.02
    assert chance.low < 0 < chance.high


def test_cohen_is_scikit_learns():
    rng = np.random.default_rng(1)
    first = rng.integers(0, 3, 100)
    second = np.where(rng.random(100) < 0.6, first, rng.integers(0, 3, 100))
    found = agreement.cohen_kappa(list(zip(first.tolist(), second.tolist(), strict=True)))
    assert found.value == pytest.approx(metrics.cohen_kappa_score(first, second))
    assert found.low < found.value < found.high


def test_what_has_no_kappa_says_why():
    assert isinstance(agreement.fleiss_kappa([[0, 0], [0, 0]]), Undefined)
    assert isinstance(agreement.fleiss_kappa([[0, 1]]), Undefined)
    assert isinstance(agreement.cohen_kappa([(1, 1), (1, 1)]), Undefined)
    with pytest.raises(ValueError, match="as many ratings"):
        agreement.fleiss_kappa([[0, 1], [0]])


def test_adjusted_rand_is_scikit_learns():
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 4, 60), rng.integers(0, 3, 60)
    for a, b in [(first, second), (first, first + 7), (first, np.where(rng.random(60) < 0.8, first, 9))]:
        expected = metrics.adjusted_rand_score(a, b)
        assert agreement.adjusted_rand(a.tolist(), b.tolist()) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_auc_and_balanced_accuracy_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    labels = rng.random(50) < 0.3
    ratings = np.round(rng.random(50) + 0.3 * labels, 1)  # with ties
    assert agreement.auc(labels, ratings) == pytest.approx(metrics.roc_auc_score(labels, ratings))
    said = ratings >= 0.5
    assert agreement.balanced_accuracy(labels, said) == pytest.approx(metrics.balanced_accuracy_score(labels, said))


def test_one_kind_of_cases_has_neither():
    assert isinstance(agreement.auc([True, True], [0.1, 0.2]), Undefined)
    assert isinstance(agreement.balanced_accuracy([False], [True]), Undefined)


@pytest.mark.parametrize("n_clusters", [4, 20])
def test_clustered_mean_covers_the_truth(n_clusters):
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(150):
        effects = rng.normal(0, 1, n_clusters)
        values = np.concatenate([effect + rng.normal(0, 1, 10) for effect in effects])
        found = agreement.clustered_mean(values, [i // 10 for i in range(len(values))], seed=trial)
        covered += found.low <= 0 <= found.high
    assert covered >= 135  # 95 % of 150 is 142.5, standard error 2.7


def test_clustered_mean_of_one_cluster_is_of_its_cases():
    values = [0.2, 0.5, 0.7]
    found = agreement.clustered_mean(values, ["a"] * 3)
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.high == pytest.approx(min(1.0, expected.high))
    assert found.low == pytest.approx(max(0.0, expected.low))
    assert not agreement.clustered_mean([1.0], ["a"]).bounded


def test_permutation_of_one_stratum_is_fishers_exact_test():
    # equal groups: the hypergeometric is symmetric, so that both definitions of two-sided agree
    for hits, other in [(9, 2), (6, 5), (15, 4)]:
        first, second = [i < hits for i in range(20)], [i < other for i in range(20)]
        found = agreement.stratified_permutation(first, second, [0] * 20, [0] * 20)
        exact = scipy_stats.fisher_exact([[hits, 20 - hits], [other, 20 - other]]).pvalue
        assert found == pytest.approx(exact, rel=1e-9)


_GROUP = st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=7)


@given(_GROUP, _GROUP)
@example([(True, 0), (True, 0), (False, 0), (True, 1), (True, 1)], [(False, 0), (False, 0), (True, 1), (False, 1)])
def test_permutation_within_strata_is_brute_force(first, second):
    strata = sorted({s for _, s in [*first, *second]})
    cases = {s: [hit for hit, own in [*first, *second] if own == s] for s in strata}
    n_first = {s: sum(own == s for _, own in first) for s in strata}
    sums = [0]
    for s in strata:
        drawn = [sum(chosen) for chosen in itertools.combinations(cases[s], n_first[s])]
        sums = [total + n for total in sums for n in drawn]
    centre, observed = np.mean(sums), sum(hit for hit, _ in first)
    exact = np.mean(np.abs(np.array(sums) - centre) >= abs(observed - centre) - 1e-9)
    hits = [hit for hit, _ in first], [hit for hit, _ in second]
    found = agreement.stratified_permutation(*hits, [s for _, s in first], [s for _, s in second])
    assert found == pytest.approx(exact, rel=1e-9)


def test_permutation_of_large_strata_is_scipys_hypergeometric():
    # 20,000 and 30,000 features of one layer: the terms themselves would overflow
    first, second = [i < 4_000 for i in range(20_000)], [i < 6_300 for i in range(30_000)]
    found = agreement.stratified_permutation(first, second, [0] * 20_000, [0] * 30_000)
    law = scipy_stats.hypergeom(50_000, 10_300, 20_000)
    far = abs(4_000 - 20_000 * 10_300 / 50_000)
    exact = law.cdf(4_120 - far) + law.sf(4_120 + far - 1)
    assert found == pytest.approx(exact, rel=1e-6)  # scipy's gammaln of 50,000 has 11 digits


def test_a_difference_between_layers_is_no_difference_between_sources():
    # layer 0 is all hits, layer 1 none; the first source merely has more of layer 0
    first, second = [True] * 18 + [False] * 2, [True] * 2 + [False] * 18
    layers = [0] * 18 + [1] * 2, [0] * 2 + [1] * 18
    assert agreement.stratified_permutation(first, second, *layers) == pytest.approx(1)
    assert agreement.stratified_permutation(first, second, [0] * 20, [0] * 20) < 0.001


def test_holm_by_hand():
    assert agreement.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert agreement.holm([]) == []
    assert agreement.holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=30))
def test_benjamini_hochberg_is_scipys(p_values):
    expected = scipy_stats.false_discovery_control(p_values, method="bh") if p_values else []
    assert agreement.benjamini_hochberg(p_values) == pytest.approx(list(expected), abs=1e-12)


def test_where_all_gradings_agree_kappa_still_has_doubt():
    """111 of 111: Wilson's lower bound of the agreement is .967; with chance agreement a third, kappa's is .950."""
    grades = [i % 3 for i in range(111)]
    low = 111 / (111 + scipy_stats.norm.ppf(0.975) ** 2)
    for found in (agreement.fleiss_kappa([[g, g] for g in grades]), agreement.cohen_kappa([(g, g) for g in grades])):
        assert (found.value, found.high) == (1, 1)
        assert found.low == pytest.approx((low - 1 / 3) / (2 / 3), abs=1e-9)


def test_a_jackknife_that_never_changes_bounds_nothing():
    found = agreement.jackknife(lambda cases: 1.0, list(range(40)))
    assert (found.value, found.bounded) == (1.0, False)


def plain_lang_reiczigel(k, n, k_se, n_se, k_sp, n_sp):
    """Written out once more from the paper's formulas, for a share of n independent cases."""
    z = scipy_stats.norm.ppf(0.975)
    p, se, sp = (k + z**2 / 2) / (n + z**2), (k_se + 1) / (n_se + 2), (k_sp + 1) / (n_sp + 2)
    youden = se + sp - 1
    prevalence = (p + sp - 1) / youden
    shift = 2 * z**2 * (prevalence * se * (1 - se) / (n_se + 2) - (1 - prevalence) * sp * (1 - sp) / (n_sp + 2))
    variance = p * (1 - p) / (n + z**2)
    variance += prevalence**2 * se * (1 - se) / (n_se + 2) + (1 - prevalence) ** 2 * sp * (1 - sp) / (n_sp + 2)
    half = z * variance**0.5 / youden
    return np.clip([prevalence + shift - half, prevalence + shift + half], 0, 1)


@pytest.mark.parametrize("counts", [(50, 100, 9, 10, 50, 60), (28, 56, 40, 40, 30, 40), (3, 200, 18, 20, 95, 100)])
def test_a_corrected_share_is_rogan_and_gladens_with_lang_and_reiczigels_interval(counts):
    k, n, k_se, n_se, k_sp, n_sp = counts
    found = agreement.corrected_share(share(k, n), n, (k_se, n_se), (k_sp, n_sp))
    closed = (k / n + k_sp / n_sp - 1) / (k_se / n_se + k_sp / n_sp - 1)
    assert found.value == pytest.approx(min(1, max(0, closed)))
    low, high = plain_lang_reiczigel(*counts)
    assert (found.low, found.high) == pytest.approx((min(low, found.value), max(high, found.value)), abs=1e-9)


def test_a_perfect_judge_corrects_nothing_but_its_doubt():
    found = agreement.corrected_share(share(30, 60), 60, (20, 20), (50, 50))
    assert found.value == 0.5
    assert found.high - found.low > share(30, 60).high - share(30, 60).low, "two samples more are uncertain"


def test_cases_in_clusters_are_worth_fewer():
    plain = share(30, 60)
    wide = Estimate(0.5, 0.5 - 2 * (plain.high - 0.5), 0.5 + 2 * (plain.high - 0.5))
    clustered = agreement.corrected_share(wide, 60, (18, 20), (45, 50))
    fewer = agreement.corrected_share(share(8, 16), 16, (18, 20), (45, 50))  # deff 4: worth 15 cases
    assert (clustered.low, clustered.high) == pytest.approx((fewer.low, fewer.high), abs=0.02)


@pytest.mark.parametrize(("found", "refused"), [((5, 10), (30, 60)), ((1, 10), (55, 60)), ((3, 4), (3, 4))])
def test_a_judge_that_is_not_clearly_better_than_chance_corrects_nothing(found, refused):
    undefined = agreement.corrected_share(share(28, 56), 56, found, refused)
    assert isinstance(undefined, Undefined)
    assert f"{found[0]} of {found[1]}" in undefined.reason


@pytest.mark.slow
@pytest.mark.parametrize("sensitivity", [0.7, 0.95])
@pytest.mark.parametrize("specificity", [0.75, 0.95])
@pytest.mark.parametrize("true", [0.1, 0.5, 0.8])
def test_the_corrected_interval_covers(sensitivity, specificity, true):
    """In 2,000 studies with 10 and 60 planted features and 56 real ones, of those corrected; standard error .005."""
    rng = np.random.default_rng(0)
    raw = true * sensitivity + (1 - true) * (1 - specificity)
    covered = absent = 0
    for k, k_se, k_sp in zip(rng.binomial(56, raw, 2000), rng.binomial(10, sensitivity, 2000),
                             rng.binomial(60, specificity, 2000), strict=True):  # fmt: skip
        found = agreement.corrected_share(share(int(k), 56), 56, (int(k_se), 10), (int(k_sp), 60))
        absent += isinstance(found, Undefined)
        covered += not isinstance(found, Undefined) and found.low <= true <= found.high
    assert absent < (100 if sensitivity + specificity > 1.6 else 500), "weak judges are often refused"
    assert covered / (2000 - absent) > 0.93


def test_a_correlation_of_clustered_pairs_is_pearsons_whatever_the_clusters():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=60), rng.normal(size=60)
    y += 0.8 * x
    pairs = list(zip(x.tolist(), y.tolist(), strict=True))
    expected = scipy_stats.pearsonr(x, y)
    for size in (1, 6, 20):
        found = agreement.clustered_correlation([pairs[i : i + size] for i in range(0, 60, size)])
        assert found.value == pytest.approx(expected.statistic, abs=1e-12)
    single = agreement.clustered_correlation([[p] for p in pairs])
    fisher = expected.confidence_interval()
    # independent pairs: the jackknife's interval is near Fisher's own, which assumes normal data
    assert (single.low, single.high) == pytest.approx((fisher.low, fisher.high), abs=0.06)
    assert not agreement.clustered_correlation([pairs[:30], pairs[30:]]).bounded, "two contexts tell of no others"
    perfect = agreement.clustered_correlation([[(a, 2 * a), (a + 1, 2 * a + 2)] for a in range(9)])
    assert (perfect.value, perfect.bounded) == (pytest.approx(1), False)


@pytest.mark.slow
def test_clusters_that_agree_perfectly_without_one_have_a_finite_interval():
    pairs = [[(float(a), 2.0 * a), (a + 1.0, 2.0 * a + 2)] for a in range(6)] + [[(0.0, 9.0), (9.0, 0.0)]]
    found = agreement.clustered_correlation(pairs)
    assert np.isfinite([found.low, found.high]).all()
    assert -1 <= found.low < found.value < found.high <= 1


def test_a_clustered_correlations_interval_covers_where_fishers_does_not():
    """Ten contexts of 13 tokens, whose activation and prediction share a context's level."""
    rng = np.random.default_rng(1)
    true = 0.5
    covered = naive = 0
    for _ in range(1000):
        level = rng.multivariate_normal([0, 0], [[1, true], [true, 1]], 10).repeat(13, axis=0)
        own = rng.multivariate_normal([0, 0], [[1, true], [true, 1]], 130)
        x, y = (level + own).T
        found = agreement.clustered_correlation([list(zip(x[i : i + 13], y[i : i + 13], strict=True))
                                                 for i in range(0, 130, 13)])  # fmt: skip
        covered += found.low <= true <= found.high
        fisher = scipy_stats.pearsonr(x, y).confidence_interval()
        naive += fisher.low <= true <= fisher.high
    assert covered >= 920
    assert naive < 750
