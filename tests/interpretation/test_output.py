"""The output score, by hand."""

from __future__ import annotations

import pytest

from harness.interpretation.output import output_scores, output_test
from harness.records import ScoringAnswer, WriteDirection


def written(raised: str, null: str) -> WriteDirection:
    """Of single letters, the most raised first."""
    return WriteDirection(
        item="d:latent1", source="d", feature="latent1", layer=None, projection=None, write_norm=1,
        effect_tokens=tuple(raised), effects_nats=tuple(map(float, range(len(raised), 0, -1))), null_tokens=tuple(null),
    )  # fmt: skip


def rated(written: WriteDirection, *named: str) -> ScoringAnswer:
    """1 for the tokens that an explanation names."""
    test = output_test(written)
    return ScoringAnswer(item=test.item, ratings=tuple(float(c.tokens[0] in named) for c in test.contexts))


def test_tokens_come_in_an_order_that_says_nothing_and_a_third_is_raised() -> None:
    test = output_test(written("fbdace", "abcdef"))
    assert [c.tokens for c in test.contexts] == [(t,) for t in "abcdef"]
    assert [c.tokens[0] for c in test.contexts if c.label] == ["b", "f"]


def test_the_same_answer_is_held_against_the_feature_and_against_a_random_direction() -> None:
    w = written("fbdace", "abcdef")
    real, random = output_scores(w, rated(w, "f", "b"), "judge")
    assert (real.kind, real.item, real.balanced_accuracy, real.auc) == ("output", "output/d:latent1", 1.0, 1.0)
    assert (random.kind, random.item) == ("output-random", "output-random/d:latent1")
    # of a and b, b is named; of c to f, f is
    assert random.balanced_accuracy == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert (random.n_positive, random.n_negative) == (2, 4)
    assert {c.document: c.rating for c in real.contexts} == {t: float(t in "fb") for t in "abcdef"}


def test_an_explanation_that_names_all_tokens_or_none_is_at_chance() -> None:
    w = written("fbdace", "abcdef")
    for named in ("", "abcdef"):
        assert [s.balanced_accuracy for s in output_scores(w, rated(w, *named), "judge")] == [0.5, 0.5]


def test_no_answer_is_wrong_and_says_why() -> None:
    w = written("fbdace", "abcdef")
    answer = ScoringAnswer(item=output_test(w).item, ratings=None, reason="no JSON")
    for found in output_scores(w, answer, "judge"):
        assert (found.balanced_accuracy, found.auc, found.n_unanswered, found.reason) == (0.0, None, 6, "no JSON")


def test_texts_that_several_tokens_share_count_once() -> None:
    test = output_test(written("aabbcc", "abcabc"))
    assert [(c.tokens[0], c.label) for c in test.contexts] == [("a", True), ("b", False), ("c", False)]
