"""A Coverage of every explained feature: by its rule where it is one, else by what a scorer says of sampled tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.contract.stages import RuleReader
from harness.interpretation.config import CoverageConfig
from harness.interpretation.coverage import ExplainedSource, Whole, cover, matched_density, thresholds
from harness.interpretation.coverage_sample import covered_by, draw, estimates, question
from harness.records import Coverage, Evidence, Explanation, Feature, Grade, ScoringAnswer, ScoringTest

Ask = Callable[[Sequence[tuple[Explanation, ScoringTest]]], Iterator[ScoringAnswer]]
Regrade = Callable[[str, Mapping[str, float]], Mapping[str, "Grade | None"]]


@dataclass(frozen=True)
class Interpreting:
    """What one interpreter can be asked.

    Attributes:
        name: its name.
        reader: reads its rules; None where its explanations are no rules.
        ask: has it say of contexts whether an explanation fits; None where it cannot.
        regrade: source, and feature -> activation that a context must exceed -> `grade_top` by the contexts left.
    """

    name: str
    reader: RuleReader | None
    ask: Ask | None
    regrade: Regrade


def coverages(
    sources: Sequence[ExplainedSource], by: Interpreting, config: CoverageConfig, seed: int
) -> Iterator[Coverage]:
    """One Coverage per explained feature.

    Args:
        sources: features with their explanations, dead ones and those without explanation left out.
        by: who explained them.
        config: how many tokens are asked about, and which density is matched.
        seed: of what is drawn.
    """
    density = config.density or matched_density(sources)
    limits = [thresholds(s, density, config.threshold_tokens, seed) for s in sources]
    rules = list(dict.fromkeys(e.rule for s in sources for e in s.explanations if e.rule)) if by.reader else []
    masks = by.reader.token_masks(rules) if by.reader and rules else None
    wholes = list(cover(sources, {rule: i for i, rule in enumerate(rules)}, masks, limits))
    for source, whole in zip(sources, wholes, strict=True):
        graded = _graded_top(source, whole, by)
        sampled = by.reader is None or any(e.rule is None for e in source.explanations)
        asked = _sampled(source, whole, by, config, seed) if sampled else {}
        for i, (feature, explanation) in enumerate(zip(source.features, source.explanations, strict=True)):
            found = _by_rule(whole, i) if by.reader and explanation.rule else asked[i]
            yield Coverage(
                item=f"{feature.source}/{feature.feature}",
                source=feature.source,
                feature=feature.feature,
                interpreter=by.name,
                density_per_token=whole.n_active[i] / whole.n_tokens,
                matched_above=float(whole.thresholds[i]),
                matched_density_per_token=whole.n_strong[i] / whole.n_tokens,
                matched_grade_top=graded[feature.feature],
                **found,
            )


def not_covered(feature: Feature, interpreter: str, reason: str) -> Coverage:
    """The Coverage of a feature that has none."""
    n_active = round(feature.density_per_token * feature.n_tokens)
    return Coverage(
        item=f"{feature.source}/{feature.feature}",
        source=feature.source,
        feature=feature.feature,
        interpreter=interpreter,
        density_per_token=feature.density_per_token,
        matched_above=0.0,
        matched_density_per_token=feature.density_per_token,
        matched_grade_top=None,
        **_unknown(n_active, feature.n_tokens - n_active, 0, reason),
    )


def above(evidence: Evidence, activation: float) -> Evidence:
    """The feature with only those of its highest contexts whose own token exceeds an activation."""
    left = tuple(e for e in evidence.exemplars if e.activations[e.target] > activation)
    return evidence.model_copy(update={"exemplars": left})


def _graded_top(source: ExplainedSource, whole: Whole, by: Interpreting) -> dict[str, Grade | None]:
    """`grade_top` at matched density: as it was, where all contexts that were shown are strong enough."""
    graded = {e.feature: e.grade_top for e in source.explanations}
    changed = {
        f.feature: float(limit)
        for f, limit in zip(source.features, whole.thresholds, strict=True)
        if any(e.activations[e.target] <= limit for e in f.exemplars)
    }
    return graded | dict(by.regrade(source.stored.set.source, changed)) if changed else graded


def _by_rule(whole: Whole, i: int) -> dict[str, Any]:
    covered, n_active = int(whole.n_covered[i]), int(whole.n_active[i])
    return {
        "basis": "rule",
        "purity": whole.purity[i],
        "recall": whole.recall[i],
        "matched_purity": whole.matched_purity[i],
        "matched_recall": whole.matched_recall[i],
        "n_active": n_active,
        "n_inactive": whole.n_tokens - n_active,
        "n_covered": covered,
        "n_documents": whole.n_documents,
        "reason": None if covered else "the explanation holds on no token: there is no recall",
    }


def _sampled(
    source: ExplainedSource, whole: Whole, by: Interpreting, config: CoverageConfig, seed: int
) -> dict[int, dict[str, Any]]:
    """Index of the feature -> what is said of it, from one question each."""
    if by.ask is None or not config.contexts:
        why = (
            "the interpreter answers no scoring tests" if by.ask is None else "coverage.contexts is 0: nobody is asked"
        )
        return {i: _unknown(int(n), whole.n_tokens - int(n), 0, why) for i, n in enumerate(whole.n_active)}
    drawn = draw(source, whole, config.contexts, seed)
    tests = [
        (e, question(f, own, source.stored, config.window))
        for e, f, own in zip(source.explanations, source.features, drawn, strict=True)
    ]
    answers = {answer.item: answer for answer in by.ask(tests)}
    found: dict[int, dict[str, Any]] = {}
    for i in range(len(tests)):
        answer, own = answers[tests[i][1].item], drawn[i]
        n_active, n_documents = sum(d.value > 0 for d in own), len({d.document for d in own})
        covered = covered_by(answer)
        if covered is None:
            why = f"no answer: {answer.reason}"
            found[i] = _unknown(n_active, len(own) - n_active, n_documents, why)
            continue
        strong, active = whole.n_strong[i] / whole.n_tokens, whole.n_active[i] / whole.n_tokens
        shares = {"strong": strong, "weak": active - strong, "inactive": 1 - active}
        numbers = estimates(own, covered, shares, float(whole.weak_share[i]))
        missing = None in numbers
        found[i] = {
            "basis": "sample",
            **numbers._asdict(),
            "n_active": n_active,
            "n_inactive": len(own) - n_active,
            "n_documents": n_documents,
            "reason": "no token of a stratum was drawn, or none is covered" if missing else None,
        }
    return found


def _unknown(n_active: int, n_inactive: int, n_documents: int, reason: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("basis", "purity", "recall", "matched_purity", "matched_recall", "n_covered"))
    counts = {"n_active": n_active, "n_inactive": n_inactive, "n_documents": n_documents}
    return {**nothing, **counts, "reason": reason}
