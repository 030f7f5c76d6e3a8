"""What the dashboard shows of each feature, read a few features at a time to bound memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, select

from harness.records.base import Estimate
from harness.reports.common.features import (
    CategoryName,
    FeatureName,
    category_assignments,
    coverages,
    stored_categories,
)
from harness.reports.common.rows import plan_order, row_from, run_steps
from harness.store.schema import (
    ActivationSet,
    Checkpoint,
    Dictionary,
    Enrichment,
    EventAssociation,
    Exemplar,
    Explanation,
    ExplanationScore,
    Feature,
    Step,
)


@dataclass(frozen=True)
class CatalogueRow:
    """A feature's numbers, without its contexts."""

    feature_id: int
    source: str
    feature: str
    layer: int | None
    projection: str | None
    density_per_token: float
    activation_sum: float
    activation_max: float
    n_tokens: int


@dataclass(frozen=True)
class ContextRow:
    """One activating context; rank 0 is the highest activation. `activations` are of the feature's polarity.

    `quantile` is null for the highest ones; sampled contexts have the share of active tokens that are lower.
    """

    rank: int
    n_identical: int
    quantile: float | None
    document: str
    position: int
    start: int
    target: int
    tokens: list[str]
    activations: list[float]


@dataclass(frozen=True)
class ExplanationRow:
    """What an interpreter made of a feature; `grade` and `explanation` are null where it failed, `reason` says why.

    `coverage` is what the explanation is worth over all activation: the columns of that table.
    """

    interpreter: str
    explanation: str | None
    grade: int | None
    grade_top: int | None
    reason: str
    reason_top: str | None
    raw: str | None
    n_exemplars: int
    category: str | None
    category_name: str | None
    category_reason: str | None
    coverage: dict[str, Any] | None


@dataclass(frozen=True)
class ScoreRow:
    """How well an explanation predicts on contexts that it was not made from.

    `ratings` are (truth, rating or null) per context; 0.5 and above says yes.
    """

    interpreter: str
    kind: str
    balanced_accuracy: float | None
    auc: float | None
    n_positive: int
    n_negative: int
    n_unanswered: int
    reason: str | None
    ratings: list[tuple[bool, float | None]]
    correlation: Estimate | None = None


@dataclass(frozen=True)
class EventRow:
    """How a feature's activity goes with one kind of token; 95 % interval, documents as clusters."""

    family: str
    event: str
    n_event: int
    n_both: int
    activation_share: float | None
    odds_ratio: float
    ci_low: float | None
    ci_high: float | None
    q_value: float | None


@dataclass(frozen=True)
class StoredFolder:
    """An artefact as its record says: `artifact` is the step's folder, `path` where it lay when it was made."""

    name: str
    artifact: str | None
    path: str

    def within(self, artifacts: Path) -> Path | None:
        """The folder under `artifacts`; None where it is not there. A path from the database never leaves it."""
        if not self.artifact:
            return None
        parts = Path(self.path).parts
        inner = parts[parts.index(self.artifact) + 1 :] if self.artifact in parts else parts[-1:]
        root = artifacts.resolve()
        folder = (root / self.artifact / Path(*inner)).resolve()
        return folder if folder.is_relative_to(root) and folder.is_dir() else None


@dataclass(frozen=True)
class DictionaryFolder(StoredFolder):
    """A dictionary on disk, and the columns it was fitted on, in order."""

    columns: list[str]


def catalogue(connection: Connection, run_id: int) -> list[CatalogueRow]:
    """All features of the run in the order in which they were stored; the newest of each name."""
    f = Feature
    columns = (f.id, f.source, f.feature, f.layer, f.projection, f.density_per_token, f.activation_sum,
               f.activation_max, f.n_tokens)  # fmt: skip
    rows = connection.execute(select(*columns).where(f.step_id.in_(run_steps(run_id))).order_by(*plan_order(run_id, f)))
    return list({(r.source, r.feature): CatalogueRow(*r) for r in rows}.values())


def contexts(connection: Connection, feature_ids: Sequence[int]) -> dict[int, list[ContextRow]]:
    """feature_id -> its contexts, highest activation first. Ask for some tens of features at a time."""
    e = Exemplar
    columns = (e.feature_id, e.rank, e.n_identical, e.quantile, e.document, e.position, e.start, e.target,
               e.tokens_json, e.activations_json)  # fmt: skip
    stored = connection.execute(select(*columns).where(e.feature_id.in_(feature_ids)).order_by(e.feature_id, e.rank))
    rows: dict[int, list[ContextRow]] = defaultdict(list)
    for feature_id, *context in stored:
        rows[feature_id].append(ContextRow(*context))
    return rows


def explanations(connection: Connection, run_id: int) -> dict[FeatureName, list[ExplanationRow]]:
    """(source, feature) -> the newest explanation by each interpreter, with the category it was given."""
    names = stored_categories(connection, run_id)
    categories: dict[tuple[str, str, str | None], tuple[str, str, str | None]] = {}
    for a in category_assignments(connection, run_id):
        category = names.get(CategoryName(a.step_id, None, a.category))
        name = category.name if category else a.category
        categories[a.source, a.feature, a.plugin] = (a.category, name, a.reason)
    covered = coverages(connection, run_id)
    e = Explanation
    columns = (e.source, e.feature, e.interpreter, e.explanation, e.grade, e.grade_top, e.reason, e.reason_top,
               e.raw, e.n_exemplars)  # fmt: skip
    stored = connection.execute(select(*columns).where(e.step_id.in_(run_steps(run_id))).order_by(e.id))
    newest = {(r.source, r.feature, r.interpreter): r for r in stored}
    rows: dict[FeatureName, list[ExplanationRow]] = defaultdict(list)
    for key, r in newest.items():
        category, name, why = categories.get(key, (None, None, None))
        row = row_from(ExplanationRow, r, category=category, category_name=name, category_reason=why,
                       coverage=_shown(covered.get(key)))  # fmt: skip
        rows[r.source, r.feature].append(row)
    return rows


def _shown(coverage: Any | None) -> dict[str, Any] | None:
    """A Coverage without what the feature's row says already."""
    if coverage is None:
        return None
    hidden = ("id", "step_id", "item", "source", "feature", "interpreter")
    return {name: value for name, value in coverage._mapping.items() if name not in hidden}


def scores(connection: Connection, run_id: int) -> dict[FeatureName, list[ScoreRow]]:
    """(source, feature) -> the newest score of each kind and interpreter."""
    s = ExplanationScore
    columns = (s.source, s.feature, s.interpreter, s.kind, s.balanced_accuracy, s.auc, s.n_positive, s.n_negative,
               s.n_unanswered, s.reason, s.contexts_json, s.correlation, s.correlation_ci_low,
               s.correlation_ci_high)  # fmt: skip
    stored = connection.execute(select(*columns).where(s.step_id.in_(run_steps(run_id))).order_by(s.id))
    newest = {(r.source, r.feature, r.interpreter, r.kind): r for r in stored}
    rows: dict[FeatureName, list[ScoreRow]] = defaultdict(list)
    for r in newest.values():
        ratings = [(bool(c["label"]), c["rating"]) for c in r.contexts_json]
        rows[r.source, r.feature].append(row_from(ScoreRow, r, ratings=ratings))
    return rows


def events(connection: Connection, run_id: int, names: Sequence[str]) -> dict[FeatureName, list[EventRow]]:
    """(source, feature) -> what it goes with, the surest first, for features of these names. Ask for some tens."""
    e, a = Enrichment, EventAssociation
    columns = (e.source, e.feature, a.family, a.event, a.n_event, a.n_both, a.activation_share, a.odds_ratio, a.ci_low,
               a.ci_high, a.q_value)  # fmt: skip
    stored = connection.execute(
        select(*columns)
        .join(e, e.id == a.enrichment_id)
        .where(e.step_id.in_(run_steps(run_id)), e.feature.in_(set(names)), a.odds_ratio.is_not(None))
        .order_by(a.q_value.is_(None), a.q_value, a.id)
    )
    rows: dict[FeatureName, list[EventRow]] = defaultdict(list)
    for source, feature, *event in stored:
        rows[source, feature].append(EventRow(*event))
    return rows


def activation_sets(connection: Connection, run_id: int) -> list[StoredFolder]:
    """The run's activation sets; the newest of each source."""
    rows = connection.execute(_folders(run_id, ActivationSet, ActivationSet.source))
    return list({r.source: StoredFolder(*r) for r in rows}.values())


def dictionary_folders(connection: Connection, run_id: int) -> list[DictionaryFolder]:
    """The run's dictionaries; the newest of each name."""
    rows = connection.execute(_folders(run_id, Dictionary, Dictionary.name, Dictionary.columns_json))
    return list({r.name: DictionaryFolder(*r) for r in rows}.values())


def adapter_folder(connection: Connection, run_id: int) -> StoredFolder | None:
    """The run's adapter: the first checkpoint of that kind."""
    adapter = connection.execute(_folders(run_id, Checkpoint, Step.name).where(Checkpoint.kind == "adapter")).first()
    return StoredFolder(*adapter) if adapter else None


def _folders(run_id: int, table: Any, name: Any, *more: Any) -> Select[Any]:
    """Name, step's folder and path of the artefacts of a kind, in the order of the plan."""
    query = select(name, Step.artifact, table.path, *more).join(Step, Step.id == table.step_id)
    return query.where(table.step_id.in_(run_steps(run_id))).order_by(*plan_order(run_id, table))
