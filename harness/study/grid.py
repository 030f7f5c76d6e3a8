"""Grids: a list given for a field of a plugin that takes one value makes one cell per element.

`--set batch-topk.k=[8,16] --set batch-topk.expansion=[4,8]` makes four cells. A field that takes a list itself is left
alone. Only dictionaries are swept: everything else in a study exists once.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from harness.config import Config
from harness.errors import UsageError
from harness.study.manager import Manager

_SCALARS = {"integer", "number", "string", "boolean", "null"}


@dataclass(frozen=True)
class Cell:
    """One cell of a grid.

    Attributes:
        label: the swept fields' values, e.g. `k=8,expansion=4`, in the config's order; empty where nothing is swept.
        config: validated.
    """

    label: str
    config: Config


def cells(manager: Manager, name: str, layers: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """All combinations of the swept fields, the last field fastest; one cell where nothing is swept.

    Raises:
        UsageError: an empty list, or a value that is out of range or of the wrong type.
    """
    swept = swept_fields(manager, name, layers)
    by_label: dict[str, Cell] = {}
    for values in itertools.product(*swept.values()):
        chosen = dict(zip(swept, values, strict=True))
        config = manager.config(name, *layers, chosen)
        label = ",".join(f"{key}={_text(getattr(config, key))}" for key in swept)
        by_label.setdefault(label, Cell(label, config))
    return list(by_label.values())


def swept_fields(manager: Manager, name: str, layers: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Field -> its values, for fields that take one value and were given a list, in the config's order.

    Raises:
        UsageError: an empty list.
    """
    offer = manager.offer(name)
    values: dict[str, Any] = dict(offer.row_config)
    for layer in layers:
        values.update(layer)
    fields = offer.registration.config.model_fields
    swept = {key: values[key] for key in fields if isinstance(values.get(key), list) and _takes_one_value(fields[key])}
    for key, given in swept.items():
        if not given:
            raise UsageError(f"{name}.{key}=[]: a grid over no values; give at least one")
    return swept


def refuse_grid(manager: Manager, name: str, layers: Sequence[Mapping[str, Any]], stage: str) -> None:
    """Refuse a grid over a plugin of a stage that is not swept.

    Raises:
        UsageError: a list for a field that takes one value.
    """
    for key, given in swept_fields(manager, name, layers).items():
        raise UsageError(
            f"{name}.{key}={given}: a list makes a grid, and only dictionaries are swept, not {stage}; "
            "run once per value"
        )


def _takes_one_value(field: FieldInfo) -> bool:
    kind: Any = field.annotation
    schema = TypeAdapter(kind).json_schema()
    return all(one.get("type") in _SCALARS or "enum" in one for one in schema.get("anyOf", [schema]))


def _text(value: object) -> str:
    """A value as part of a name: of steps, folders and sources."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^\w.+-]", "-", text)
