"""The table of a plugin's record: made when it is first stored, given what a later version of the class adds."""

from __future__ import annotations

import pytest
from sqlalchemy import inspect, text

from harness import Part, Record, hookimpl
from harness.errors import ResultsError, UsageError
from harness.store.database import schema_sql
from harness.store.read import records_of
from harness.store.schema import table_of
from harness.store.writer import Store
from harness.study.manager import Manager
from harness.study.registry import Registry
from tests.store import synthetic


class Word(Part):
    """A word of a reading."""

    UNIQUE = ("word",)

    word: str
    """The word."""


class Reading(Record):
    """The first version of a plugin's record."""

    item: str
    """Name within the step."""
    first: tuple[Word, ...] = ()
    """Words that came first."""
    later: tuple[Word, ...] = ()
    """Words that came later."""


class NextReading(Reading):
    """The next version: a field with a default, and one that may be None."""

    TABLE = "reading"

    mood: str = "it's calm"
    """Mood."""
    depth: float | None = None
    """Depth."""


class BadReading(Reading):
    """A version with a field that older rows have no value for."""

    TABLE = "reading"

    size: int
    """Size."""


class Group(Record):
    """A record whose table has the name of a word of SQL."""

    item: str
    """Name within the step."""


@pytest.fixture
def step(store: Store) -> int:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    return store.begin_step(run, 0, **synthetic.step_values("ablate/x"))[0]  # type: ignore[arg-type]


def test_it_is_made_with_its_parts_when_a_record_is_first_stored(store: Store, step: int) -> None:
    store.accept([Reading])
    made = Reading(item="a", first=(Word(word="so"), Word(word="hm")), later=(Word(word="wait"),))
    with store.engine.connect() as connection:
        assert records_of(connection, Reading) == []
        assert not inspect(connection).has_table("reading")
    store.write(step, made)
    assert store.records(step, Reading) == [made]
    with store.engine.execution_options(write=True).begin() as connection:
        connection.execute(text("DELETE FROM step"))
        assert [connection.execute(text(f"SELECT count(*) FROM {t}")).scalar() for t in ("reading", "word")] == [0, 0]


def test_a_failed_write_leaves_no_table(store: Store, step: int) -> None:
    store.accept([Reading])
    with pytest.raises(ResultsError, match="not in the database any more"):
        store.write(step + 1, Reading(item="a"))
    with store.engine.connect() as connection:
        assert not inspect(connection).has_table("reading")
    store.write(step, Reading(item="a"))


def test_a_field_that_a_later_version_adds_becomes_a_column(store: Store, step: int) -> None:
    store.accept([Reading])
    store.write(step, Reading(item="old"))
    with store.engine.connect() as connection:
        assert records_of(connection, NextReading) == [NextReading(item="old")], "read before anything is written"
    store.accept([NextReading])
    made = NextReading(item="new", mood="x", depth=1.5)
    store.write(step, made)
    assert store.records(step, NextReading) == [NextReading(item="old"), made]
    with store.engine.connect() as connection:
        moods = connection.execute(text("SELECT item, mood, depth FROM v_reading ORDER BY item")).all()
    assert moods == [("new", "x", 1.5), ("old", "it's calm", None)]


def test_a_field_without_a_value_for_older_rows_is_refused(store: Store, step: int) -> None:
    store.accept([Reading])
    store.write(step, Reading(item="old"))
    store.accept([BadReading])
    with pytest.raises(ResultsError, match=r"BadReading.size is new.*give the field a default"):
        store.write(step, BadReading(item="new", size=3))
    assert store.records(step, Reading) == [Reading(item="old")]


def test_a_word_of_sql_can_be_a_tables_name(store: Store, step: int) -> None:
    store.accept([Group])
    store.write(step, Group(item="g"))
    assert store.records(step, Group) == [Group(item="g")]


def manager_of(*records: type[Record]) -> Manager:
    study = {"summary": "s", "model": {"path": "m"}, "data": {"path": "d"}, "adapter": "x"}
    registry = {"version": 1, "default_study": "s", "plugins": [], "studies": {"s": study}}
    manager = Manager(Registry.model_validate(registry))
    for i, record in enumerate(records):

        class Plugin:
            @hookimpl
            def harness_records(self, record: type[Record] = record) -> list[type[Record]]:
                return [record]

        manager.pm.register(Plugin(), name=f"plugin-{i}")
    return manager


def test_two_plugins_with_one_table_and_a_builtin_name_are_refused() -> None:
    assert manager_of(Reading, Group).records(load=False) == [Reading, Group]
    with pytest.raises(UsageError, match=r"table 'reading', of plugin-0 and plugin-1: set TABLE"):
        manager_of(Reading, NextReading).records(load=False)

    class Feature(Record):
        """Has the name of the harness's own."""

        item: str

    with pytest.raises(UsageError, match="table 'feature', of the harness and plugin-0"):
        manager_of(Feature).records(load=False)
    with pytest.raises(UsageError, match="plugin-0: harness_records: Word is not a record"):
        manager_of(Word).records(load=False)


def test_a_field_with_the_name_of_a_key_is_refused() -> None:
    class Odd(Record):
        """Its field would be a second `step_id`."""

        item: str
        step_id: int

    with pytest.raises(UsageError, match="plugin-0: harness_records: Odd has two columns 'step_id'"):
        manager_of(Odd).records(load=False)


def test_the_printed_schema_has_them() -> None:
    sql = schema_sql([Reading])
    assert "CREATE TABLE reading" in sql
    assert 'CREATE VIEW "v_reading"' in sql
    assert table_of(Reading).tables() == ["reading", "word"]
