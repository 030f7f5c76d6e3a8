"""Tables of plugins' records: created when a record is first stored, given a new column when one is first used."""

from __future__ import annotations

from sqlalchemy import Connection, Table, inspect
from sqlalchemy.schema import CreateColumn

from harness.errors import ResultsError
from harness.records.base import Record
from harness.store.schema import METADATA, RecordTable, table_of
from harness.store.views import record_view


def bring_up_to_date(connection: Connection, record: type[Record]) -> None:
    """Create the tables and the view of a plugin's record, or add the columns that they lack.

    Raises:
        ResultsError: a field was added that older rows cannot have a value for.
    """
    stored = table_of(record)
    if stored.name in METADATA.tables:
        return
    inspector = inspect(connection)
    changed = [_update(connection, inspector.has_table(t.name), t) for t in (stored, *stored.parts.values())]
    view = record_view(stored.name)
    there = view.name in inspector.get_view_names()
    if there and changed[0]:
        connection.exec_driver_sql(f'DROP VIEW "{view.name}"')
    if changed[0] or not there:
        connection.exec_driver_sql(view.sql)


def _update(connection: Connection, exists: bool, stored: RecordTable) -> bool:
    """Create one table or add its new columns; whether there was something to do."""
    table: Table = stored.columns.__table__
    if not exists:
        table.create(connection)
        return True
    present = {column["name"] for column in inspect(connection).get_columns(table.name)}
    new = [column for column in table.columns if column.name not in present]
    for column in new:
        if not column.nullable and column.server_default is None:
            raise ResultsError(
                f"{stored.record.__name__}.{column.name} is new, and rows of {table.name} that were stored before have "
                "no value for it: give the field a default, or let it be None"
            )
        definition = CreateColumn(column).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f'ALTER TABLE "{table.name}" ADD COLUMN {definition}')
    return bool(new)
