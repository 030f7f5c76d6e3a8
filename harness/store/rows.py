"""From records to rows: which table a record goes to, and its columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness import records
from harness import records as judgements
from harness.store import tables, tables_ablations, tables_dictionaries, tables_judgements


@dataclass(frozen=True)
class Row:
    """A record as it is stored.

    Attributes:
        table: where it goes.
        values: its columns, `step_id` and `item` apart.
        identity: columns that must be equal for a row of the same item to be the same thing.
        child_table: where its parts go.
        parent_column: the parts' column that points to it.
        children: the parts' columns.
    """

    table: type[Any]
    values: dict[str, Any]
    identity: tuple[str, ...] = ()
    child_table: type[Any] = tables.Sample
    parent_column: str = ""
    children: list[dict[str, Any]] = field(default_factory=list)


def row_of(record: judgements.StoredRecord) -> Row:
    """The row of a record.

    Raises:
        TypeError: not a record that is stored.
    """
    make = _ROWS.get(type(record))
    if make is None:
        raise TypeError(f"{type(record).__name__} is not a record that the runner stores")
    return make(record)


def _plain(record: records.Record, *leave_out: str) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude={"item", *leave_out})


def _checkpoint(record: records.Checkpoint) -> Row:
    values = _plain(record, "base", "losses")
    values["base_json"] = record.base.model_dump(mode="json")
    values["losses_json"] = [list(point) for point in record.losses]
    return Row(tables.Checkpoint, values)


def _evaluation(record: records.EvaluationResult) -> Row:
    return Row(
        tables.Evaluation,
        _plain(record, "samples"),
        identity=("variant", "benchmark"),
        child_table=tables.Sample,
        parent_column="evaluation_id",
        children=[sample.model_dump() for sample in record.samples],
    )


def _activation_set(record: records.ActivationSet) -> Row:
    lists = ("columns", "layers", "projections", "quantiles")
    values = _plain(record, *lists)
    values |= {f"{name}_json": list(getattr(record, name)) for name in lists}
    values["n_columns"] = len(record.columns)
    return Row(tables.ActivationSet, values, identity=("source",))


def _dictionary(record: records.Dictionary) -> Row:
    values = _plain(record, "columns", "losses")
    values |= {"columns_json": list(record.columns), "losses_json": [list(point) for point in record.losses]}
    return Row(tables_dictionaries.Dictionary, values, identity=("name",))


def _dictionary_score(record: records.DictionaryScore) -> Row:
    values = record.model_dump(exclude={"item", "density_histogram"})
    values["density_histogram_json"] = list(record.density_histogram)
    return Row(tables_dictionaries.DictionaryScore, values, identity=("name",))


def _feature(record: records.Feature) -> Row:
    children = []
    for exemplar in (*record.exemplars, *record.sampled):
        child = exemplar.model_dump(exclude={"tokens", "activations"})
        child |= {"tokens_json": list(exemplar.tokens), "activations_json": list(exemplar.activations)}
        children.append(child)
    return Row(
        tables.Feature,
        _plain(record, "exemplars", "sampled"),
        identity=("source", "feature"),
        child_table=tables.Exemplar,
        parent_column="feature_id",
        children=children,
    )


def _category(record: records.Category) -> Row:
    values = _plain(record, "examples")
    values["examples_json"] = list(record.examples)
    return Row(tables.Category, values, identity=("category",))


def _planted(record: judgements.PlantedFeature) -> Row:
    values = _plain(record, "concepts")
    values["concepts_json"] = list(record.concepts)
    return Row(tables_judgements.PlantedFeature, values, identity=("source", "feature"))


def _score(record: judgements.ExplanationScore) -> Row:
    values = _plain(record, "contexts")
    values["contexts_json"] = [context.model_dump() for context in record.contexts]
    return Row(tables_judgements.ExplanationScore, values, identity=("source", "feature", "kind"))


def _enrichment(record: judgements.Enrichment) -> Row:
    return Row(
        tables_judgements.Enrichment,
        _plain(record, "events"),
        identity=("source", "feature"),
        child_table=tables_judgements.EventAssociation,
        parent_column="enrichment_id",
        children=[event.model_dump() for event in record.events],
    )


def _ablation_score(record: records.AblationScore) -> Row:
    lists = ("document_kl_nats", "document_n_tokens")
    values = record.model_dump(exclude={"item", *lists})
    values |= {f"{name}_json": None if (v := getattr(record, name)) is None else list(v) for name in lists}
    return Row(tables_ablations.AblationScore, values, identity=("scope",))


_ROWS: dict[type[records.Record], Callable[[Any], Row]] = {
    records.Checkpoint: _checkpoint,
    records.EvaluationResult: _evaluation,
    records.ActivationSet: _activation_set,
    records.Dictionary: _dictionary,
    records.DictionaryScore: _dictionary_score,
    records.LatentEffect: lambda r: Row(tables_dictionaries.LatentEffect, _plain(r), identity=("source", "latent")),
    records.Feature: _feature,
    records.Explanation: lambda r: Row(tables.Explanation, _plain(r), identity=("source", "feature")),
    records.Category: _category,
    records.CategoryAssignment: lambda r: Row(tables.CategoryAssignment, _plain(r), identity=("source", "feature")),
    judgements.PlantedFeature: _planted,
    judgements.JudgeTrial: lambda r: Row(tables_judgements.JudgeTrial, _plain(r), identity=("source", "feature")),
    judgements.ExplanationScore: _score,
    judgements.Enrichment: _enrichment,
    judgements.CategoryTrial: lambda r: Row(tables_judgements.CategoryTrial, _plain(r), identity=("source", "feature")),
    judgements.AnswerVerdict: lambda r: Row(tables_judgements.AnswerVerdict, _plain(r)),
    records.AblationScore: _ablation_score,
}
