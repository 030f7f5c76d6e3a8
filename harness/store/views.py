"""The views: of this version's tables from `views.sql`, of a plugin's record from its class."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from sqlalchemy import Connection, inspect, text


@dataclass(frozen=True)
class View:
    """A view.

    Attributes:
        name: begins with `v_`.
        about: what it shows.
        sql: the statement that creates it.
    """

    name: str
    about: str
    sql: str


@cache
def views() -> tuple[View, ...]:
    """The views of this version, in the order of `views.sql`."""
    script = files("harness.store").joinpath("views.sql").read_text(encoding="utf-8")
    return tuple(
        View(name, about.replace("\n-- ", " "), sql)
        for about, sql, name in re.findall(r"^-- ((?:.+\n-- )*.+)\n(CREATE VIEW (\w+)[^;]+);", script, re.M)
    )


def record_view(table: str) -> View:
    """The view of a plugin's record: its columns, with the run and the step that made it."""
    name = f"v_{table}"
    sql = (
        f'CREATE VIEW "{name}" AS SELECT run_step.run_id, step.name AS step, "{table}".* FROM "{table}" '
        f'JOIN step ON step.id = "{table}".step_id JOIN run_step ON run_step.step_id = step.id'
    )
    return View(name, f"The rows of {table} with the run and the step that made them.", sql)


def drop_views(connection: Connection) -> list[str]:
    """Drop all views, for tables that a view reads cannot be altered; returns what creates a plugin's ones again."""
    inspector, of_this_version = inspect(connection), {view.name for view in views()}
    again = []
    for name in inspector.get_view_names():
        if name not in of_this_version:
            definition = inspector.get_view_definition(name)  # SQLite's begins with CREATE VIEW
            again.append(definition if definition.startswith("CREATE") else f'CREATE VIEW "{name}" AS {definition}')
        connection.execute(text(f'DROP VIEW "{name}"'))
    return again


def create_views(connection: Connection, others: list[str]) -> None:
    """Create the views of this version, and others."""
    for sql in [view.sql for view in views()] + others:
        connection.exec_driver_sql(sql)
