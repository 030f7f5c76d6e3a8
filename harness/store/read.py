"""Reads stored records back as they were written, their parts included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, Select, inspect, select

from harness.records.base import Record
from harness.store.schema import METADATA, RecordTable, RunStep, table_of

R = TypeVar("R", bound=Record)


def records_of(
    connection: Connection, record_class: type[R], *, run_id: int | None = None, step_id: int | None = None
) -> list[R]:
    """The stored records of a class, in the order of the plan and then in the order in which they were stored.

    Args:
        connection: to a results database.
        record_class: a class that steps return, one of a plugin's included.
        run_id: only what the steps of this run made, reused ones included.
        step_id: only what this step made.

    Returns:
        The records; none where the class was never stored.

    Raises:
        TypeError: the class is not stored.
    """
    stored = table_of(record_class)
    columns = _present(connection, stored)
    if not columns:
        return []
    rows = list(_rows(connection, _of(select(*columns), stored, run_id, step_id)))
    parts: defaultdict[int, defaultdict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for part in stored.parts.values():
        owner_id = getattr(part.columns, part.owner_id)
        joined = select(*_present(connection, part)).join(stored.columns, stored.columns.id == owner_id)
        for row in _rows(connection, _of(joined, stored, run_id, step_id).order_by(part.columns.id)):
            parts[row[part.owner_id]][part.owner_field(row)].append(part.record_of(row))
    return [stored.record_of(row, parts[row["id"]]) for row in rows]  # type: ignore[misc]


def _rows(connection: Connection, statement: Select[Any]) -> Iterator[dict[str, Any]]:
    result = connection.execute(statement)
    names = tuple(result.keys())
    return (dict(zip(names, row, strict=True)) for row in result)  # ten lookups in a dict are faster than in a row


def _of(statement: Select[Any], stored: RecordTable, run_id: int | None, step_id: int | None) -> Select[Any]:
    """Limit a statement to a run or a step, and sort it."""
    table = stored.columns
    if step_id is not None:
        statement = statement.where(table.step_id == step_id)
    if run_id is not None:
        statement = statement.join(RunStep, RunStep.step_id == table.step_id).where(RunStep.run_id == run_id)
        statement = statement.order_by(RunStep.position)
    return statement.order_by(table.id)


def _present(connection: Connection, stored: RecordTable) -> list[Column[Any]]:
    """The columns that the database has: a plugin's table may not be there yet, or be older than its class."""
    table = stored.columns.__table__
    if stored.name in METADATA.tables:
        return list(table.columns)
    inspector = inspect(connection)
    there = {c["name"] for c in inspector.get_columns(stored.name)} if inspector.has_table(stored.name) else set()
    return [column for column in table.columns if column.name in there]
