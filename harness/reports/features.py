"""Features with their explanations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, func, select

from harness.contract.cells import inline, percent, short, significant, text
from harness.contract.report import Block, Column, Report
from harness.records import PLANTED, Estimate
from harness.reports.common.features import (
    Explained,
    category_assignments,
    coverages,
    explanations,
    stored_features,
)
from harness.reports.common.rows import estimate, row_from, run_steps
from harness.reports.write_directions import promoted_tokens, promotes
from harness.store.schema import Exemplar, Feature

CONTEXT_TOKENS = 8
"""Tokens of the highest exemplar's context that are shown on either side of its token."""

TOP_FEATURES = 10
"""Features listed per source and interpreter; JSON and CSV have all."""


@dataclass(frozen=True)
class FeatureRow:
    """A feature and what an interpreter made of it; once per interpreter."""

    source: str
    feature: str
    layer: int | None
    projection: str | None
    interpreter: str | None
    explanation: str | None
    grade: int | None
    grade_top: int | None
    purity: Estimate | None
    recall: Estimate | None
    reason: str | None
    category: str | None
    density_per_token: float | None
    activation_max: float | None
    activation_sum: float | None
    n_tokens: int | None
    n_exemplars: int
    top_token: str | None
    top_token_context: str | None
    promotes: str | None


@dataclass(frozen=True)
class TopFeatureRow(FeatureRow):
    """A feature among the strongest of its source; `n_alike` is how many the source and interpreter have in all."""

    n_alike: int


R = TypeVar("R", bound=FeatureRow)


@dataclass(frozen=True)
class _Choice:
    """A feature, stored or only explained, and one interpreter's explanation of it."""

    source: str
    feature: str
    stored: Any | None
    explained: Explained | None

    @property
    def interpreter(self) -> str | None:
        """Who explained it."""
        return self.explained.interpreter if self.explained else None


def features(connection: Connection, run_id: int) -> list[FeatureRow]:
    """All features; those with an explanation first, then by summed activation, within each source."""
    choices = _choices(connection, run_id)
    return _rows(connection, run_id, FeatureRow, choices, [{}] * len(choices), every_exemplar=True)


def top_features(connection: Connection, run_id: int, top: int = TOP_FEATURES) -> list[TopFeatureRow]:
    """The first `top` rows of `features` of each source and interpreter: exemplars of the others are not read."""
    by_interpreter: dict[tuple[str, str | None], list[_Choice]] = defaultdict(list)
    for choice in _choices(connection, run_id):
        by_interpreter[choice.source, choice.interpreter].append(choice)
    choices = [choice for alike in by_interpreter.values() for choice in alike[:top]]
    n_alike = [{"n_alike": len(by_interpreter[c.source, c.interpreter])} for c in choices]
    return _rows(connection, run_id, TopFeatureRow, choices, n_alike)


def _choices(connection: Connection, run_id: int) -> list[_Choice]:
    """Every feature with each of its explanations, in the order of the report."""
    stored = stored_features(connection, run_id)
    by_feature: dict[tuple[str, str], list[Explained]] = defaultdict(list)
    for e in explanations(connection, run_id):
        if e.source != PLANTED:
            by_feature[e.source, e.feature].append(e)
    choices = [
        _Choice(*name, stored.get(name), explained)
        for name in dict.fromkeys([*stored, *by_feature])
        for explained in (by_feature.get(name) or (None,))
    ]
    order = {source: i for i, source in enumerate(dict.fromkeys(c.source for c in choices))}
    return sorted(
        choices,
        key=lambda c: (order[c.source], c.explained is None, -(c.stored.activation_sum or 0.0) if c.stored else 0.0),
    )


def _rows(
    connection: Connection, run_id: int, row_class: type[R], choices: Sequence[_Choice],
    more: Sequence[dict[str, Any]], *, every_exemplar: bool = False,
) -> list[R]:  # fmt: skip
    """A row for each choice, with more values of each."""
    ids: Any = [c.stored.id for c in choices if c.stored]
    if every_exemplar:  # a database takes some thousands of ids in a statement
        ids = select(Feature.id).where(Feature.step_id.in_(run_steps(run_id)))
    of_features = (Exemplar.feature_id.in_(ids), Exemplar.quantile.is_(None))
    counted = select(Exemplar.feature_id, func.count()).where(*of_features).group_by(Exemplar.feature_id)
    n_exemplars = {feature_id: n for feature_id, n in connection.execute(counted)}
    first = select(Exemplar.feature_id, Exemplar.tokens_json, Exemplar.target).where(*of_features, Exemplar.rank == 0)
    highest = {r.feature_id: r for r in connection.execute(first)}
    categories = {(a.source, a.feature, a.plugin): a.category for a in category_assignments(connection, run_id)}
    covered = coverages(connection, run_id)
    written = promoted_tokens(connection, run_id)
    rows = []
    for c, values in zip(choices, more, strict=True):
        e = c.explained
        top = highest.get(c.stored.id) if c.stored else None
        row = row_from(
            row_class,
            c.stored,
            source=c.source,
            feature=c.feature,
            interpreter=c.interpreter,
            explanation=e.explanation if e else None,
            grade=e.grade if e else None,
            grade_top=e.grade_top if e else None,
            purity=estimate(covered.get((c.source, c.feature, c.interpreter or "")), "purity"),
            recall=estimate(covered.get((c.source, c.feature, c.interpreter or "")), "recall"),
            reason=e.reason if e else "not explained",
            category=categories.get((c.source, c.feature, c.interpreter)),
            n_exemplars=n_exemplars.get(c.stored.id, 0) if c.stored else 0,
            top_token=top.tokens_json[top.target] if top else None,
            top_token_context=_context(top.tokens_json, top.target) if top else None,
            promotes=promotes(written.get((c.source, c.feature))),
            **values,
        )
        rows.append(row)
    return rows


def context_of_highest(connection: Connection, run_id: int, source: str, feature: str) -> str | None:
    """The context of a feature's highest exemplar, the target between « and »; None where it has none."""
    f, e = Feature, Exemplar
    top = connection.execute(
        select(e.tokens_json, e.target)
        .join(f, f.id == e.feature_id)
        .where(f.step_id.in_(run_steps(run_id)), f.source == source, f.feature == feature)
        .where(e.quantile.is_(None), e.rank == 0)
        .order_by(e.id.desc())
    ).first()
    return _context(top.tokens_json, top.target) if top else None


def _context(tokens: Sequence[str], target: int) -> str:
    """The tokens round the target, the target between « and »."""
    before = "".join(tokens[max(0, target - CONTEXT_TOKENS) : target])
    after = "".join(tokens[target + 1 : target + 1 + CONTEXT_TOKENS])
    return f"{before}«{tokens[target]}»{after}"


def _blocks(rows: Sequence[FeatureRow]) -> list[Block[FeatureRow]]:
    groups: dict[tuple[str, str | None], list[FeatureRow]] = {}
    for row in rows:
        groups.setdefault((row.source, row.interpreter), []).append(row)
    explained = {source for source, interpreter in groups if interpreter is not None}
    blocks = []
    for (source, interpreter), alike in groups.items():
        if interpreter is None and source in explained:
            continue
        by = f"explained by {interpreter}" if interpreter else "not explained"
        top, first = alike[:TOP_FEATURES], alike[0]
        n = first.n_alike if isinstance(first, TopFeatureRow) else len(alike)
        blocks.append(Block(f"{source}, {by}: {len(top)} of {n} features, by summed activation", top))
    return blocks


def _grade(row: FeatureRow) -> str:
    """The grade, and in brackets the one by the highest contexts alone where it is another."""
    if row.interpreter and row.grade is None and row.grade_top is None:
        return "failed"
    return text(row.grade) if row.grade == row.grade_top else f"{text(row.grade)} ({text(row.grade_top)})"


REPORT = Report[FeatureRow](
    "features",
    "Features",
    features,
    (
        Column("feature", lambda r: r.feature, "left"),
        Column("grade", lambda r: _grade(r)),
        Column("purity", lambda r: inline(r.purity, percent)),
        Column("recall", lambda r: inline(r.recall, percent), leaves=4),
        Column("explanation", lambda r: short(r.explanation or r.reason), "left", wrap=True, ratio=3),
        Column("category", lambda r: short(r.category), "left", wrap=True, ratio=2, leaves=2),
        Column("promotes", lambda r: short(r.promotes), "left", wrap=True, ratio=2, leaves=1),
        Column("density", lambda r: percent(r.density_per_token, 1), leaves=3),
        Column("max", lambda r: significant(r.activation_max), leaves=1),
        Column("strongest context", lambda r: short(r.top_token_context), "left", wrap=True, ratio=4),
    ),
    ("probe", "learn", "interpret"),
    "features",
    order=200,
    legend=(
        "Grade: 0 monosemantic, 1 broad but consistent, 2 polysemantic; in brackets by the highest contexts alone, "
        "where it differs. Purity: share of all its activation on tokens that the explanation covers; recall: share of "
        "the covered tokens on which it is active. Promotes: tokens by the logit lens, or on text where it has none; "
        "with their nulls in write-directions. Density: share of tokens where active."
    ),
    blocks=_blocks,
    preview=top_features,
    before=("grades",),
)
