"""What the tables and views are, in words, for docs/schema.md and Datasette. The words are docstrings."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy import inspect as inspect_database

from harness.store.database import migrated
from harness.store.tables import Base

VIEWS = {
    "v_run": "One row per run: study, preset, seed, model, commit, status.",
    "v_step": "The steps of each run in order, with key, settings, seed, commit, and wall time in seconds.",
    "v_evaluation": "Benchmark scores (0 to 1) per run, model variant and benchmark; n_items are the items.",
    "v_ablation": "KL(adapter || ablated) in nats per token with 95 % intervals over documents, per run.",
    "v_dictionary": "Dictionaries on held-out documents: FVU (0 is perfect), L0, KL of the spliced model in nats.",
    "v_latent": "KL in nats per token of taking one latent out of the adapter's scalars, per run and dictionary.",
    "v_feature": "Features with their explanation and grade, once per interpreter; density is a share of tokens.",
    "v_exemplar": "The strongest contexts of each feature; tokens and activations are JSON lists, rank 0 is highest.",
    "v_grade": "Explanations counted by run, source, interpreter, status and grade.",
    "v_category": "Features counted by run, interpreter, source and category.",
    "v_llm_call": "LLM calls by provider, model, role and status: tokens, price (US dollars), mean latency (seconds).",
}
"""What each view shows."""

_UNITS = {
    "_nats": "nats per token", "_s": "seconds", "_usd": "US dollars", "_per_token": "share of tokens",
}  # fmt: skip


@dataclass(frozen=True)
class Relation:
    """A table or view.

    Attributes:
        name: in SQL.
        about: what it holds.
        columns: (name, type, unit or what it points to).
    """

    name: str
    about: str
    columns: tuple[tuple[str, str, str], ...]


def relations() -> list[Relation]:
    """All views, then all tables in the order in which they are defined, with their columns."""
    engine = create_engine("sqlite://")
    with migrated(engine) as connection:
        found = inspect_database(connection)
        views = [Relation(name, VIEWS[name], _view_columns(found, name)) for name in VIEWS]
    classes = {m.local_table.name: m.class_ for m in Base.registry.mappers}  # type: ignore[attr-defined]
    tables = [
        Relation(t.name, inspect.getdoc(classes[t.name]) or "", tuple(_table_column(c) for c in t.columns))
        for t in Base.metadata.sorted_tables
    ]
    return views + tables


def schema_markdown() -> str:
    """The tables and views as a page for people."""
    parts = []
    for title, start in (("Views", True), ("Tables", False)):
        parts.append(f"## {title}")
        for relation in relations():
            if relation.name.startswith("v_") == start:
                rows = [f"| `{name}` | {kind} | {note} |" for name, kind, note in relation.columns]
                head = ["| column | type | unit or reference |", "|---|---|---|"]
                parts.append("\n".join([f"### `{relation.name}`", "", relation.about, "", *head, *rows]))
    return "\n\n".join(parts) + "\n"


def datasette_metadata() -> dict[str, Any]:
    """Datasette's metadata for `results.db`: what the tables are, units, and queries to begin with.

    Use: `harness db datasette > metadata.json`, then `datasette results.db -m metadata.json`.
    """
    tables: dict[str, Any] = {}
    for relation in relations():
        units = {name: note for name, _, note in relation.columns if note in _UNITS.values()}
        about = " ".join(relation.about.split())
        tables[relation.name] = {"description": about} | ({"columns": units} if units else {})
        if not relation.name.startswith("v_") and relation.name in ("sample", "exemplar", "llm_call", "run_step"):
            tables[relation.name]["hidden"] = True
    return {
        "title": "interp-harness results",
        "description": "Runs of a mechanistic interpretability harness. Views (v_...) are for reading; columns with "
        "JSON end in _json. Text in it was written by models and corpora.",
        "databases": {"results": {"tables": tables, "queries": QUERIES}},
    }


QUERIES = {
    "scores": {
        "title": "Benchmark scores of a run",
        "sql": "SELECT benchmark, variant, score, n_items FROM v_evaluation WHERE run_id = :run_id "
        "ORDER BY benchmark, variant",
    },
    "largest_components": {
        "title": "Components by KL",
        "sql": "SELECT layer, projection, kl_nats, kl_ci_low, kl_ci_high, n_tokens FROM v_ablation "
        "WHERE run_id = :run_id AND scope = 'component' ORDER BY kl_nats DESC LIMIT 50",
    },
    "find_explanations": {
        "title": "Features whose explanation contains a word",
        "sql": "SELECT source, feature, grade, explanation, density_per_token FROM v_feature "
        "WHERE explanation LIKE '%' || :word || '%' LIMIT 200",
    },
}
"""Queries to begin with; `harness sql` takes the same SQL, without parameters."""


def _table_column(column: Any) -> tuple[str, str, str]:
    keys = [f"→ {key.target_fullname}" for key in column.foreign_keys]
    null = "" if not column.nullable else ", may be NULL"
    return column.name, f"{column.type}".lower() + null, keys[0] if keys else _unit(column.name)


def _view_columns(found: Any, name: str) -> tuple[tuple[str, str, str], ...]:
    return tuple((c["name"], str(c["type"]).lower() if str(c["type"]) != "NULL" else "", _unit(c["name"]))
                 for c in found.get_columns(name))  # fmt: skip


def _unit(name: str) -> str:
    if "kl_ci" in name or (name.startswith("kl_") and name.endswith("_nats")):
        return _UNITS["_nats"]
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
