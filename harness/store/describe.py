"""What the tables and views are, in words, for docs/schema.md and Datasette: docstrings of the records, and comments of
`views.sql`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, create_engine
from sqlalchemy import inspect as inspect_database

from harness.records.base import UNITS, Record
from harness.store.database import migrated
from harness.store.schema import RecordTable, all_tables
from harness.store.views import views


@dataclass(frozen=True)
class Relation:
    """A table or view.

    Attributes:
        name: in SQL.
        about: what it holds.
        columns: (name, type, unit or what it points to, meaning).
    """

    name: str
    about: str
    columns: tuple[tuple[str, str, str, str], ...]


def relations() -> list[Relation]:
    """All views, then all tables in the order in which they are defined, with their columns."""
    with migrated(create_engine("sqlite://")) as connection:
        inspector = inspect_database(connection)
        described = [Relation(v.name, v.about, _view_columns(inspector, v.name)) for v in views()]
    return described + [Relation(t.name, _text(t.record.__doc__), _table_columns(t)) for t in all_tables()]


def field_docs(record: type[Record]) -> dict[str, str]:
    """What each field of a record is: the docstrings below the fields, read from the source when they are asked for.

    Pydantic would read them at import, which takes longer than all the rest of it.
    """
    docs: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if issubclass(base, Record) and base is not Record:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(tree, ast.ClassDef)
            for field, below in zip(tree.body, tree.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    words = below.value if isinstance(below, ast.Expr) else None
                    if isinstance(words, ast.Constant) and isinstance(words.value, str):
                        docs[field.target.id] = _text(words.value)
    return docs


def schema_markdown() -> str:
    """The tables and views as a page for people."""
    parts = []
    for title, start in (("Views", True), ("Tables", False)):
        parts.append(f"## {title}")
        for relation in relations():
            if relation.name.startswith("v_") == start:
                head = ("column", "type", "unit or reference", *([] if start else ["meaning"]))
                lines = [head, ["---"] * len(head), *((f"`{name}`", *rest) for name, *rest in relation.columns)]
                rows = [f"| {' | '.join(line[: len(head)])} |" for line in lines]
                parts.append("\n".join([f"### `{relation.name}`", "", relation.about, "", *rows]))
    return "\n\n".join(parts) + "\n"


def datasette_metadata() -> dict[str, Any]:
    """Datasette's metadata for `results.db`: what the tables are, units, and queries to begin with.

    Use: `harness db datasette > metadata.json`, then `datasette results.db -m metadata.json`.
    """
    tables: dict[str, Any] = {}
    for relation in relations():
        words = {name: note if note in UNITS.values() else about for name, _, note, about in relation.columns}
        columns = {name: about for name, about in words.items() if about}
        tables[relation.name] = {"description": relation.about} | ({"columns": columns} if columns else {})
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


_KEYS = {
    "id": "Key of the row.",
    "step_id": "The step that made it.",
    "part": "The list of the record that it is in.",
}


def _table_columns(table: RecordTable) -> tuple[tuple[str, str, str, str], ...]:
    docs = field_docs(table.record)
    meaning = {name: docs.get(f.name, "") for f in table.fields for name in f.columns[:1]}
    bounds = {name: f"Bound of the 95 % interval of {f.columns[0]}." for f in table.fields for name in f.columns[1:]}
    about = _KEYS | meaning | bounds | {n: _text(getattr(table.record, n).__doc__) for n in table.record.PROPERTIES}
    return tuple((c.name, _type(c), _note(c), about.get(c.name, "")) for c in table.columns.__table__.columns)


def _type(column: Column[Any]) -> str:
    return f"{column.type}".lower() + (", may be NULL" if column.nullable else "")


def _note(column: Column[Any]) -> str:
    return next((f"→ {key.target_fullname}" for key in column.foreign_keys), _unit(column.name))


def _view_columns(inspector: Any, name: str) -> tuple[tuple[str, str, str, str], ...]:
    columns = ((c["name"], str(c["type"]).lower()) for c in inspector.get_columns(name))
    return tuple((column, "" if kind == "null" else kind, _unit(column), "") for column, kind in columns)


def _unit(name: str) -> str:
    if name.startswith("kl_") and "recovered" not in name:
        return UNITS["_nats"]
    return next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")


def _text(docstring: str | None) -> str:
    return " ".join((docstring or "").split())
