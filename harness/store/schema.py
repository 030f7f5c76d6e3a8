"""The tables, derived from the records: one column per field, one row per thing that a report can name.

A record that a plugin returns gets a `step_id` (the step that made it) and is gone when the step is. Its fields become
columns: a number, text or path as it is; an `Estimate` as three (`flat_names`); a list, mapping or record as JSON in
`NAME_json`; a tuple of `Part`s as a table of its own, whose rows point to the record's. Only portable types: the same
tables serve SQLite and PostgreSQL. A field that is added needs a migration: `make migration`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import to_json, to_jsonable_python
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from harness import records
from harness.paper.claims import Claim
from harness.records.base import Estimate, Flat, Part, Record, References, StoredAs, flat_names
from harness.store import bookkeeping

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Predictable names of constraints, so that migrations can refer to them."""

_TYPES: dict[type, Any] = {str: Text, Path: Text, bool: Boolean, int: Integer, float: Double}


@dataclass(frozen=True)
class StoredField:
    """How one field of a record is stored.

    Attributes:
        name: in the record.
        columns: its columns' names; none for parts.
        json: whether the column holds JSON.
        optional: whether it may be None.
        part: class of its parts, where they are rows of a table of their own.
    """

    name: str
    columns: tuple[str, ...]
    json: bool = False
    optional: bool = False
    part: type[Part] | None = None

    def store(self, value: Any) -> dict[str, Any]:
        """The columns' values."""
        if len(self.columns) == 3:
            ends = (None, None, None) if value is None else (value.value, value.low, value.high)
            return dict(zip(self.columns, ends, strict=True))
        if self.json:
            value = to_jsonable_python(value)
            if isinstance(value, list):  # most activations are 0, and "0" is a third of "0.0"
                value = [0 if type(v) is float and not v else v for v in value]
        return {self.columns[0]: str(value) if isinstance(value, Path) else value}

    def read(self, row: Mapping[str, Any]) -> Any:
        """The field's value from a row."""
        value = row[self.columns[0]]
        if len(self.columns) == 3 and value is not None:
            low, high = (row[name] for name in self.columns[1:])
            return Estimate(value, -math.inf if low is None else low, math.inf if high is None else high)
        return value


class Columns:
    """A table whose columns are attributes, e.g. `Feature.source`; SQLAlchemy takes it where it takes a table."""

    def __init__(self, table: Table, renamed: Mapping[str, str]) -> None:
        """`renamed`: field -> its column, of fields whose column has another name."""
        self.__table__, self.__renamed__ = table, renamed

    def __getattr__(self, name: str) -> Column[Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        column = self.__table__.c.get(self.__renamed__.get(name, name))
        if column is None:
            raise AttributeError(f"table {self.__table__.name} has no column {name}")
        return column

    def __clause_element__(self) -> Any:
        return self.__table__


class RecordTable:
    """How the records of a class are stored.

    Attributes:
        record: the class.
        name: of the table.
        fields: how each field is stored.
        columns: the table.
        parts: class of parts -> how they are stored.
        owner_id: of parts, the column with the id of the record that they belong to.
        owner_fields: of parts, the fields of that record which hold them; of several, column `part` says which.
    """

    def __init__(self, record: type[Record], metadata: MetaData, owner: RecordTable | None = None) -> None:
        """Derive a class's table; parts belong to the record of `owner`.

        Raises:
            TypeError: two fields have the same column, or one has the name of a key.
        """
        self.record, self.name, self.fields = record, table_name(record), tuple(_fields(record))
        self.owner_id = f"{owner.name}_id" if owner else ""
        self.owner_fields = tuple(f.name for f in owner.fields if f.part is record) if owner else ()
        unique = record.UNIQUE
        columns: list[Column[Any]] = []
        if record.PRIMARY_KEY == ("id",):
            columns.append(Column("id", Integer, nullable=False))
        if owner is not None:
            columns.append(Column(self.owner_id, ForeignKey(owner.columns.id, ondelete="CASCADE"), nullable=False))
            if len(self.owner_fields) > 1:
                columns.append(Column("part", Text, nullable=False))
            unique = (self.owner_id, *record.UNIQUE)
        elif "item" in record.model_fields:
            columns.append(Column("step_id", ForeignKey(Step.id, ondelete="CASCADE"), nullable=False))
            unique = ("step_id", "item")
        columns += [c for field in self.fields for c in _columns(record, field)]
        columns += [Column(name, _property_type(record, name), nullable=False) for name in record.PROPERTIES]
        _refuse_doubles(record, [column.name for column in columns])
        constraints = [PrimaryKeyConstraint(*record.PRIMARY_KEY), *([UniqueConstraint(*unique)] if unique else [])]
        table = Table(self.name, metadata, *columns, *constraints)
        for names in record.INDEXES:
            Index(None, *(table.c[name] for name in names))
        self.columns: Columns = Columns(table, {f.name: f.columns[0] for f in self.fields if f.columns})
        parts = dict.fromkeys(f.part for f in self.fields if f.part)
        self.parts: dict[type[Part], RecordTable] = {part: RecordTable(part, metadata, self) for part in parts}

    def tables(self) -> list[str]:
        """Names of the record's table and of its parts'."""
        return [self.name, *(part.name for part in self.parts.values())]

    def values(self, record: Record) -> dict[str, Any]:
        """A record's columns, but for ids and parts."""
        values = {k: v for f in self.fields if f.columns for k, v in f.store(getattr(record, f.name)).items()}
        return values | {name: getattr(record, name) for name in record.PROPERTIES}

    def part_values(self, record: Record) -> Iterator[tuple[RecordTable, list[dict[str, Any]]]]:
        """The columns of a record's parts, but for the record's id: one table after the other."""
        for table in self.parts.values():
            rows = []
            for name in table.owner_fields:
                named = {"part": name} if len(table.owner_fields) > 1 else {}
                rows += [table.values(part) | named for part in getattr(record, name) or ()]
            yield table, rows

    def record_of(self, row: Mapping[str, Any], parts: Mapping[str, Sequence[Record]] = MappingProxyType({})) -> Record:
        """The record of a row, and of its parts by field."""
        # A row that is older than a column has no value for it: the field has its default.
        values = {f.name: f.read(row) for f in self.fields if f.columns and f.columns[0] in row}
        values |= {f.name: tuple(parts.get(f.name, ())) for f in self.fields if f.part}
        return self.record.model_validate(values)

    def owner_field(self, row: Mapping[str, Any]) -> str:
        """The field of the owner that a part's row belongs to."""
        return row["part"] if len(self.owner_fields) > 1 else self.owner_fields[0]


def table_name(record: type[Record]) -> str:
    """The name of a record class's table."""
    named: str | None = record.__dict__.get("TABLE")
    return named or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", record.__name__).lower()


def _fields(record: type[Record]) -> Iterator[StoredField]:
    for name, info in record.model_fields.items():
        inner, optional = _without_none(info.annotation)
        stored_as = next((m.column for m in info.metadata if isinstance(m, StoredAs)), name)
        part = None if issubclass(record, Part) else _part_of(inner)
        if part is not None:
            yield StoredField(name, (), part=part)
        elif inner is Estimate:
            flat = next((m for m in info.metadata if isinstance(m, Flat)), None)
            yield StoredField(name, flat_names(stored_as, flat), optional=optional)
        elif _scalar(inner) is not None:
            yield StoredField(name, (stored_as,), optional=optional)
        else:
            yield StoredField(name, (f"{stored_as}_json",), json=True, optional=optional)


def _columns(record: type[Record], field: StoredField) -> Iterator[Column[Any]]:
    info = record.model_fields[field.name]
    inner, _ = _without_none(info.annotation)
    points_to = next((m for m in info.metadata if isinstance(m, References)), None)
    for name in field.columns:
        if points_to is not None:
            kind: Any = ForeignKey(f"{points_to.table}.id", ondelete=points_to.on_delete)
        elif field.json:
            kind = JSON(none_as_null=True)
        else:
            kind = Double() if inner is Estimate else _sql_type(field.name, inner)
        yield Column(name, kind, nullable=field.optional, server_default=_server_default(info, field))


def _refuse_doubles(record: type[Record], names: Sequence[str]) -> None:
    taken = {"run_id", "step"} if "step_id" in names and "item" in names else set()  # columns of the record's view
    for name in (name.lower() for name in names):
        if name in taken:
            raise TypeError(f"{record.__name__} has two columns {name!r}: give a field another name")
        taken.add(name)


def _server_default(info: FieldInfo, field: StoredField) -> Any:
    """What rows get that are older than the column; None is NULL, or that there is no default."""
    default = info.get_default(call_default_factory=True)
    if info.is_required() or default is None or isinstance(default, Estimate):
        return None
    if field.json:
        return to_json(default).decode()
    return text(str(default).lower()) if isinstance(default, (bool, int, float)) else str(default)


def _sql_type(name: str, annotation: Any) -> Any:
    kind = _scalar(annotation)
    assert kind is not None
    # A count or a seed can exceed 2^31.
    return BigInteger() if kind is int and (name.startswith("n_") or name == "seed") else _TYPES[kind]()


def _property_type(record: type[Record], name: str) -> Any:
    kind = getattr(record, name).fget.__annotations__["return"]
    return _sql_type(name, {t.__name__: t for t in _TYPES}.get(kind, kind))


def _scalar(annotation: Any) -> type | None:
    """The Python type of a field that is one column; None for what is stored as JSON."""
    annotation, _ = _without_none(annotation)
    if get_origin(annotation) is Literal:
        annotation = type(get_args(annotation)[0])
    return annotation if annotation in _TYPES else None


def _part_of(annotation: Any) -> type[Part] | None:
    arguments = get_args(annotation) if get_origin(annotation) is tuple else ()
    first = arguments[0] if arguments else None
    return first if isinstance(first, type) and issubclass(first, Part) else None


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """A type without `Annotated` and `| None`, and whether it had the latter."""
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        others = [a for a in get_args(annotation) if a is not type(None)]
        optional = len(others) < len(get_args(annotation))
        return (_without_none(others[0])[0] if len(others) == 1 else annotation), optional
    return annotation, False


METADATA = MetaData(naming_convention=_NAMING)
"""The tables of this version, which migrations are compared with."""

_TABLES: dict[type[Record], RecordTable] = {}


def _declare(record: type[Record]) -> Columns:
    """Add a class's table to this version's."""
    _TABLES[record] = RecordTable(record, METADATA)
    return _TABLES[record].columns


def all_tables() -> list[RecordTable]:
    """The tables of this version, those of parts after their records'."""
    built_in = [table for record, table in _TABLES.items() if is_built_in(record)]
    return [t for table in built_in for t in (table, *table.parts.values())]


def is_built_in(record: type[Record]) -> bool:
    """Whether a class's table is one of this version's; another is a plugin's, or of nothing that is stored."""
    return record in _TABLES and _TABLES[record].columns.__table__.metadata is METADATA


def table_of(record: type[Record]) -> RecordTable:
    """How a record class is stored, one of a plugin's included.

    Raises:
        TypeError: not a record that has an item.
    """
    if record not in _TABLES:
        if not (isinstance(record, type) and issubclass(record, Record) and "item" in record.model_fields):
            raise TypeError(f"{getattr(record, '__name__', record)} is not a record that the runner stores: no `item`")
        # Metadata of its own: two plugins that are never loaded together may use one name.
        _TABLES[record] = RecordTable(record, MetaData(naming_convention=_NAMING))
    return _TABLES[record]


StudyRun = _declare(bookkeeping.StudyRun)
Step = _declare(bookkeeping.Step)
RunStep = _declare(bookkeeping.RunStep)
RunLock = _declare(bookkeeping.RunLock)
LLMCall = _declare(bookkeeping.LLMCall)
LLMBatch = _declare(bookkeeping.LLMBatch)
PaperClaim = _declare(Claim)

Checkpoint = _declare(records.Checkpoint)
Evaluation = _declare(records.EvaluationResult)
Sample = table_of(records.EvaluationResult).parts[records.Sample].columns
ActivationSet = _declare(records.ActivationSet)
Feature = _declare(records.Feature)
Exemplar = table_of(records.Feature).parts[records.Exemplar].columns
Explanation = _declare(records.Explanation)
Category = _declare(records.Category)
CategoryAssignment = _declare(records.CategoryAssignment)
AblationScore = _declare(records.AblationScore)
Attribution = _declare(records.Attribution)
Divergence = _declare(records.Divergence)
DocumentDivergence = _declare(records.DocumentDivergence)
KindDivergence = _declare(records.KindDivergence)
PartingToken = _declare(records.PartingToken)
ResidualChange = _declare(records.ResidualChange)
SteeringEffect = _declare(records.SteeringEffect)
Dictionary = _declare(records.Dictionary)
DictionaryScore = _declare(records.DictionaryScore)
LatentEffect = _declare(records.LatentEffect)
PlantedFeature = _declare(records.PlantedFeature)
JudgeTrial = _declare(records.JudgeTrial)
ExplanationScore = _declare(records.ExplanationScore)
Enrichment = _declare(records.Enrichment)
EventAssociation = table_of(records.Enrichment).parts[records.EventAssociation].columns
WriteDirection = _declare(records.WriteDirection)
ModuleOverlap = _declare(records.ModuleOverlap)
SharedFeature = _declare(records.SharedFeature)
CategoryTrial = _declare(records.CategoryTrial)
Coverage = _declare(records.Coverage)
AnswerVerdict = _declare(records.AnswerVerdict)

RECORDS: tuple[Columns, ...] = tuple(table.columns for table in _TABLES.values() if "item" in table.record.model_fields)
"""The tables of what steps make: those with `step_id` and `item`."""
