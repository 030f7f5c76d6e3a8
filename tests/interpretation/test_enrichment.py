"""Odds ratios against scipy and statsmodels' formulas; events against the corpus that was made."""

import numpy as np
import pytest
from scipy.stats import contingency, false_discovery_control

from harness.activations.exemplars import collect_features
from harness.interpretation.enrichment import SourceFeatures, Tables, enrich, q_values
from harness.interpretation.events import Event, EventFinder
from harness.interpretation.naming import named_classes


def tables(active, events, documents):
    found = Tables(active.shape[1], events.shape[1])
    for d in np.unique(documents):
        own = documents == d
        found.add(active[own].astype(np.float32), active[own], events[own])
    return found


def test_odds_ratio_is_scipys_and_one_token_per_document_is_woolf():
    rng = np.random.default_rng(0)
    events = rng.random((3000, 2)) < [0.2, 0.5]
    active = rng.random((3000, 3)) < 0.1 + 0.3 * events[:, :1]
    found = tables(active, events, np.arange(3000)).odds_ratios()
    for f in range(3):
        for e in range(2):
            table = [[np.sum(active[:, f] & events[:, e]), np.sum(active[:, f] & ~events[:, e])],
                     [np.sum(~active[:, f] & events[:, e]), np.sum(~active[:, f] & ~events[:, e])]]  # fmt: skip
            assert found.odds_ratio[f, e] == pytest.approx(contingency.odds_ratio(table, kind="sample").statistic)
            se = np.sqrt(np.sum(1 / np.array(table, dtype=float)))
            # K / (K - 1) and rounding: 3,000 documents
            assert np.log(found.high[f, e] / found.low[f, e]) / (2 * 1.959964) == pytest.approx(se, rel=1e-3)


def test_documents_are_clusters():
    """Every token twice over is no more evidence: the interval stays where independent tokens would shrink it."""
    rng = np.random.default_rng(1)
    events = rng.random((2000, 1)) < 0.3
    active = rng.random((2000, 1)) < 0.1 + 0.2 * events
    single = tables(active, events, np.arange(2000) // 10).odds_ratios()
    repeated = tables(np.repeat(active, 4, 0), np.repeat(events, 4, 0), np.arange(8000) // 40).odds_ratios()
    assert repeated.odds_ratio[0, 0] == pytest.approx(single.odds_ratio[0, 0])
    width = np.log(single.high / single.low)[0, 0]
    assert np.log(repeated.high / repeated.low)[0, 0] == pytest.approx(width, rel=0.1)  # Woolf's floor may bind once
    independent = tables(np.repeat(active, 4, 0), np.repeat(events, 4, 0), np.arange(8000)).odds_ratios()
    assert np.log(independent.high / independent.low)[0, 0] < 0.6 * width


def test_the_variance_is_the_sum_over_documents_that_the_docstring_gives():
    rng = np.random.default_rng(2)
    documents = np.repeat(np.arange(40), 30)
    shift = rng.normal(0, 1, 40)[documents]
    events = (rng.random(1200) < 0.3)[:, None]
    active = (rng.random(1200) < 1 / (1 + np.exp(1 - shift - events[:, 0])))[:, None]
    cells = np.array(
        [[np.sum((active[:, 0] == i) & (events[:, 0] == j) & (documents == d)) for i in (1, 0) for j in (1, 0)]
         for d in range(40)], dtype=float,
    )  # fmt: skip
    u = cells @ (np.array([1, -1, -1, 1]) / cells.sum(0))
    expected = np.sqrt(max(40 / 39 * np.sum(u**2), np.sum(1 / cells.sum(0))))
    found = tables(active, events, documents).odds_ratios()
    assert np.log(found.high / found.low)[0, 0] / (2 * 1.959964) == pytest.approx(expected, rel=1e-6)


def test_of_few_documents_the_spread_is_that_of_a_sample():
    """Five documents: without K / (K - 1) the standard error would be 11 % smaller."""
    a, b = np.array([9, 1, 8, 2, 9]), np.array([11, 19, 12, 18, 11])
    c, d = np.array([2, 8, 1, 9, 2]), np.array([38, 32, 39, 31, 38])
    found = Tables(1, 1)
    for counts in zip(a, b, c, d, strict=True):
        active, event = (np.repeat(side, counts)[:, None] for side in ([True, True, False, False], [True, False] * 2))
        found.add(active.astype(np.float32), active, event)
    u = a / a.sum() - b / b.sum() - c / c.sum() + d / d.sum()
    variance = np.var(u, ddof=1) * 5  # of a sum over five documents
    assert variance > sum(1 / cell.sum() for cell in (a, b, c, d))  # not the floor
    ratios = found.odds_ratios()
    assert np.log(ratios.high / ratios.low)[0, 0] / (2 * 1.959964) == pytest.approx(np.sqrt(variance), rel=1e-6)


def test_a_feature_is_active_above_its_threshold_not_at_it(made, traces, chat):
    """Half of the tokens lie at the threshold itself."""
    stored = made({"steps": lambda t, rng: float(rng.integers(1, 3))})
    (found,) = enrich([SourceFeatures(stored, [1.0], [[]])], EventFinder({}, traces, chat))
    ranked = [stored.document(d) for d in stored.document_ids]
    values = np.concatenate([d.values[d.ranked][:, 0] for d in ranked])
    assert 0 < (values == 1.0).sum() < len(values)
    assert found.n_active == (values == 2.0).sum()


def test_under_the_null_one_in_twenty_is_significant():
    rng = np.random.default_rng(3)
    documents = np.repeat(np.arange(200), 20)
    active = rng.random((4000, 60)) < 0.15
    events = rng.random((4000, 10)) < 0.2
    p = tables(active, events, documents).odds_ratios().p_value
    assert 0.02 < (p < 0.05).mean() < 0.075  # 600 tests, of which those of one event hang together


def test_what_cannot_be_said_is_not():
    active = np.array([[True, False, True]] * 20 + [[True, False, False]] * 20)
    events = np.array([[False, True]] * 20 + [[False, False]] * 20)
    found = tables(active, events, np.arange(40)).odds_ratios()
    assert np.isnan(found.odds_ratio[:, 0]).all()
    assert np.isnan(found.odds_ratio[:2]).all()  # always active, never active
    assert found.odds_ratio[2, 1] == pytest.approx(20.5 * 20.5 / 0.25)  # a half added to every cell
    rare = np.zeros((4000, 1), dtype=bool)
    rare[:3] = True
    other = np.zeros((4000, 1), dtype=bool)
    other[-20:] = True
    assert np.isnan(tables(rare, other, np.arange(4000)).odds_ratios().odds_ratio).all()


def test_q_values_are_scipys_and_leave_gaps():
    p = np.array([[0.01, np.nan], [0.04, 0.001]])
    found = q_values(p)
    assert np.isnan(found[0, 1])
    assert found[~np.isnan(p)] == pytest.approx(false_discovery_control([0.01, 0.04, 0.001]))


def test_tokens_get_the_classes_segments_and_events_that_were_written(made, traces, chat):
    stored = made({"any": lambda t, rng: 1.0})
    finder = EventFinder({"wait": r"\bWait\b", "equation": r"= \d"}, traces, chat)
    document = stored.document("d0")
    masks = finder.masks(document)
    tokens = [document.text[a:b].strip() for a, b in document.offsets]
    place = {event: i for i, event in enumerate(finder.events)}

    def are(family, name):
        return [t for t, on in zip(tokens, masks[:, place[Event(family, name)]], strict=True) if on]

    assert set(are("class", "operator")) <= {"+", "-"}
    assert set(are("class", "number")) <= set("0123456789")
    assert are("class", "wait") == [t for t in tokens if t in ("Wait", "check")]
    assert are("class", "answer") == [traces[0].answer]
    assert are("event", "wait") == [t for t in tokens if t == "Wait"]
    assert are("event", "equation")[:1] == ["="]
    assert len(are("event", "equation")) == 2 * tokens.count("=")
    assert are("segment", "prompt") == ["<q>", "what"]
    assert finder.class_of(masks, tokens.index("=")) == "relation"
    assert finder.class_of(masks, 0) is None


def test_a_feature_is_enriched_for_what_it_fires_on(made, traces, chat):
    columns = {
        "operator": lambda t, rng: float(t.strip() in "+-") * rng.uniform(1, 2) + 0.05 * (rng.random() < 0.3),
        "noise": lambda t, rng: float(rng.random() < 0.2),
        "dead": lambda t, rng: 0.0,
    }
    stored = made(columns)
    features = list(collect_features(stored, k=16, cap=4, window=5))
    finder = EventFinder({"digit": r"\d"}, traces, chat)
    source = SourceFeatures(
        stored,
        [0.1 * f.activation_max for f in features],
        [[(e.document, e.position) for e in f.exemplars] for f in features],
    )
    operator, noise, dead = enrich([source], finder)
    found = {(e.family, e.event): e for e in operator.events}
    best = found["class", "operator"]
    assert best.odds_ratio.value > 1000
    assert best.q_value < 1e-6
    assert best.n_both == best.n_event
    assert best.activation_share > 0.9
    assert found["event", "digit"].odds_ratio.value < 1
    assert (operator.top_class, operator.top_class_share) == ("operator", 1.0)
    assert operator.n_tokens == sum(int(stored.document(d).ranked.sum()) for d in stored.document_ids)
    assert all(e.q_value is None or e.q_value > 0.001 for e in noise.events)
    assert dead.top_class is None
    assert dead.reason
    assert all(e.odds_ratio is None and e.reason for e in dead.events)


def test_a_corpus_without_classes_says_so(made, traces, chat):
    stored = made({"noise": lambda t, rng: rng.random()})
    features = list(collect_features(stored, k=4, cap=4, window=5))
    finder = EventFinder({}, [t.model_copy(update={"spans": {}}) for t in traces], chat)
    places = [[(e.document, e.position) for e in f.exemplars] for f in features]
    (found,) = enrich([SourceFeatures(stored, [0.5], places)], finder)
    assert found.reason == "the corpus has no ground-truth classes"
    assert {e.family for e in found.events} == {"segment"}


def test_classes_are_named_by_words_and_signs():
    words = {"operator": ("operator", "+"), "number": ("digit",), "wait": ("wait",)}
    assert named_classes("operators after a digit", words) == {"operator", "number"}
    assert named_classes("token '+'", words) == {"operator"}
    assert named_classes("token 'Wait'", words) == {"wait"}
    assert named_classes("waiting for c++ digital", words) == set()
