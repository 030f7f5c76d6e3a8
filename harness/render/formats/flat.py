"""Rows as flat values: an estimate becomes three keys, by the rule of `harness.records.base.flat_names`."""

from __future__ import annotations

from functools import cache
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from harness.contract.cells import finite
from harness.contract.report import Key
from harness.records.base import Estimate, Flat, flat_names


class _Field(NamedTuple):
    """A field of a row class, and the key (of an estimate: the keys of value and bounds) that it becomes."""

    name: str
    keys: tuple[str, ...]


@cache
def _fields(row_class: Any) -> tuple[_Field, ...]:
    hints = get_type_hints(row_class, include_extras=True)
    names = getattr(row_class, "__dataclass_fields__", None) or row_class.model_fields
    return tuple(_Field(name, _keys(name, hints[name])) for name in names)


def _keys(name: str, hint: Any) -> tuple[str, ...]:
    notes: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        notes = tuple(rest)
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if Estimate in kinds:
        return flat_names(name, next((note for note in notes if isinstance(note, Flat)), None))
    return (next((note.name for note in notes if isinstance(note, Key)), name),)


def flat_keys(row_class: Any) -> list[str]:
    """The keys of a row class (a dataclass or a record), in order."""
    return [key for field in _fields(row_class) for key in field.keys]


def flat_values(row: Any) -> dict[str, Any]:
    """Key -> value; a bound that is not finite is None."""
    values: dict[str, Any] = {}
    row_class: Any = type(row)
    for name, keys in _fields(row_class):
        value = getattr(row, name)
        if len(keys) == 1:
            values[keys[0]] = value
        else:
            numbers = (None, None, None) if value is None else (value.value, finite(value.low), finite(value.high))
            values.update(zip(keys, numbers, strict=True))
    return values
