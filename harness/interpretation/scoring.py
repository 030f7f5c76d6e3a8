"""From answers to scores: balanced accuracy, AUC and correlation per feature; what was not answered counts as wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.interpretation import agreement
from harness.records import ExplanationScore, RatedContext, ScoringAnswer, ScoringContext, ScoringKind, ScoringTest
from harness.stats import Estimate, Undefined

YES = 0.5
"""A rating from here on is a yes."""


def score(tests: Sequence[ScoringTest], answers: Mapping[str, ScoringAnswer], interpreter: str) -> ExplanationScore:
    """The score of one feature in one kind of test.

    A context without a rating counts as answered wrongly, and has no part in the AUC. A simulation that was not
    answered predicts 0 on every token, as in delphi.

    Args:
        tests: of one feature and kind.
        answers: by the test's item.
        interpreter: who answered.
    """
    first = tests[0]
    if first.kind == "simulation":
        return _simulated(tests, answers, interpreter)
    ratings = [answers[t.item].ratings or (None,) * len(t.contexts) for t in tests]
    rated = [_rated(c, r) for t, own in zip(tests, ratings, strict=True) for c, r in zip(t.contexts, own, strict=True)]
    reasons = {answers[t.item].reason for t in tests} - {None}
    why = "; ".join(sorted(str(r) for r in reasons)) or None
    if first.kind == "intruder":
        found = [_finds(t, own) for t, own in zip(tests, ratings, strict=True)]
        return _record(
            first, interpreter, rated, n_positive=len(tests), n_negative=sum(len(t.contexts) - 1 for t in tests),
            n_unanswered=sum(answers[t.item].ratings is None for t in tests),
            balanced_accuracy=sum(found) / len(found), auc=None,
            reason=why or "an intruder is chosen, not rated apart: no AUC",
        )  # fmt: skip
    labels = [c.label for c in rated]
    said = [(c.rating >= YES) if c.rating is not None else not c.label for c in rated]
    accuracy = agreement.balanced_accuracy(labels, said)
    answered = [(c.label, c.rating) for c in rated if c.rating is not None]
    area = agreement.auc([label for label, _ in answered], [rating for _, rating in answered])
    undefined = next((x.reason for x in (accuracy, area) if isinstance(x, Undefined)), None)
    return _record(
        first, interpreter, rated, n_positive=sum(labels), n_negative=len(labels) - sum(labels),
        n_unanswered=len(rated) - len(answered),
        balanced_accuracy=None if isinstance(accuracy, Undefined) else accuracy,
        auc=None if isinstance(area, Undefined) else area, reason=why or undefined,
    )  # fmt: skip


def _simulated(
    tests: Sequence[ScoringTest], answers: Mapping[str, ScoringAnswer], interpreter: str
) -> ExplanationScore:
    """Correlation over the tokens of all contexts, as Bills et al. (2023) score top and random text together."""
    rated, pairs = [], []
    for test in tests:
        (context,), answer = test.contexts, answers[test.item]
        predicted = answer.ratings or ()
        given = {"activations": context.activations, "predicted": predicted}
        rated.append(_rated(context, None).model_copy(update=given))
        known = zip(predicted or (0.0,) * len(context.tokens), context.activations, strict=True)
        pairs.append([(p, true) for p, true in known if true is not None])
    n_unanswered = sum(not c.predicted for c in rated)
    found = agreement.clustered_correlation(pairs)
    reasons = [str(r) for r in dict.fromkeys(answers[t.item].reason for t in tests) if r]
    if n_unanswered == len(tests):
        found = Undefined("; ".join(reasons) or "no simulation was answered")
    elif not isinstance(found, Undefined) and len({p for own in pairs for p, _ in own}) == 1:
        reasons.append("the explanation predicts the same on every token: counted as 0")
    if isinstance(found, Undefined):
        reasons = [found.reason]
    n_strongest = sum(c.label for c in rated)
    return _record(
        tests[0], interpreter, rated, n_positive=n_strongest, n_negative=len(rated) - n_strongest,
        n_unanswered=n_unanswered, balanced_accuracy=None, auc=None, reason="; ".join(reasons) or None,
        correlation=None if isinstance(found, Undefined) else found,
    )  # fmt: skip


def unscored(source: str, feature: str, kind: ScoringKind, interpreter: str, reason: str) -> ExplanationScore:
    """A feature that could not be tested."""
    return ExplanationScore(
        item=f"{kind}/{feature}", source=source, feature=feature, interpreter=interpreter, kind=kind, n_positive=0,
        n_negative=0, n_hard=0, n_unanswered=0, balanced_accuracy=None, auc=None, reason=reason,
    )  # fmt: skip


def _record(
    test: ScoringTest,
    interpreter: str,
    rated: list[RatedContext],
    *,
    n_positive: int,
    n_negative: int,
    n_unanswered: int,
    balanced_accuracy: float | None,
    auc: float | None,
    reason: str | None,
    correlation: Estimate | None = None,
) -> ExplanationScore:
    return ExplanationScore(
        item=f"{test.kind}/{test.feature}",
        source=test.source,
        feature=test.feature,
        interpreter=interpreter,
        kind=test.kind,
        n_positive=n_positive,
        n_negative=n_negative,
        n_hard=sum(c.hard for c in rated),
        n_not_quiet=sum(not c.quiet for c in rated),
        n_unanswered=n_unanswered,
        balanced_accuracy=balanced_accuracy,
        auc=auc,
        correlation=correlation,
        reason=reason,
        contexts=tuple(rated),
    )


def _rated(context: ScoringContext, rating: float | None) -> RatedContext:
    return RatedContext(
        document=context.document,
        start=context.start,
        label=context.label,
        hard=context.hard,
        rating=rating,
        quiet=context.quiet,
    )


def _finds(test: ScoringTest, ratings: Sequence[float | None]) -> float:
    """1 where the intruder alone has the highest rating; a part of it where others share that; 0 unanswered."""
    if any(r is None for r in ratings):
        return 0.0
    known = [float(r) for r in ratings if r is not None]
    best = [c.label for c, r in zip(test.contexts, known, strict=True) if r == max(known)]
    return sum(best) / len(best)


def by_kind(tests: Sequence[ScoringTest]) -> dict[tuple[str, ScoringKind], list[ScoringTest]]:
    """(feature, kind) -> its tests, in order."""
    found: dict[tuple[str, ScoringKind], list[ScoringTest]] = {}
    for test in tests:
        found.setdefault((test.feature, test.kind), []).append(test)
    return found
