"""The rows of a benchmark's data: read from local files, with one type per field, and checked one by one.

`datasets` gives every column one type and fills missing fields with nulls. Templates print a null as "None", so that an
item without a gold answer would count as wrong whatever the model says. Here such a row is refused by its number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import DataError
from harness.rows import read_rows

if TYPE_CHECKING:
    from datasets import Dataset

Cell = tuple[str, Any, Any]
"""Where a value stands: its row's place in words, the object or list that holds it, and its key or index there."""

_KINDS = {bool: "true or false", int: "a whole number", float: "a decimal number", str: "a text", list: "a list",
          dict: "an object"}  # fmt: skip
_NUMBERS = {_KINDS[int], _KINDS[float]}


def placed_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a data file, each with its place in words (file and row).

    Raises:
        DataError: see `harness.rows.read_rows`.
    """
    return [(f"{path}: row {number}", row) for number, row in read_rows(path)]


def typed_dataset(rows: Sequence[tuple[str, dict[str, Any]]], what: str) -> Dataset:
    """Rows as a data set whose columns are the fields of all rows. Numbers in a field of texts are read as text.

    Raises:
        DataError: there are no rows, or a field has another type in one row than in the first; both are named.
    """
    from datasets import Dataset
    from pyarrow import ArrowException

    if not rows:
        raise DataError(f"{what} holds no rows")
    fields = list(dict.fromkeys(field for _, row in rows for field in row))
    complete = [(place, {field: row.get(field) for field in fields}) for place, row in rows]
    for field in fields:
        _give_one_type(field, [(place, row, field) for place, row in complete])
    try:
        return Dataset.from_list([row for _, row in complete])
    except (ArrowException, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{what}: its rows do not make a table: {str(error).splitlines()[0]}") from error


def _kind(value: Any) -> str:
    """The type in words. A whole number of more than 64 bits has no column type but text."""
    too_long = type(value) is int and not -(2**63) <= value < 2**63
    return _KINDS[str] if too_long else _KINDS[type(value)]


def _give_one_type(field: str, cells: Sequence[Cell]) -> None:
    """Turn numbers among texts into texts, in place; look into lists and objects.

    Raises:
        DataError: another mixture of types.
    """
    filled = [(place, holder, key) for place, holder, key in cells if holder[key] is not None]
    first_place: dict[str, str] = {}
    for place, holder, key in filled:
        first_place.setdefault(_kind(holder[key]), place)
    if _KINDS[str] in first_place and first_place.keys() <= {_KINDS[str], *_NUMBERS}:
        for _, holder, key in filled:
            holder[key] = str(holder[key])
    elif len(first_place) > 1:
        (kind, place), (other, other_place) = list(first_place.items())[:2]
        raise DataError(
            f"{other_place}: the field {field!r} is {other}, and in {place} it is {kind}; write it in one type (as a "
            "text) in every row"
        )
    elif _KINDS[list] in first_place:
        elements = [(place, holder[key], i) for place, holder, key in filled for i in range(len(holder[key]))]
        _give_one_type(f"{field}[]", elements)
    elif _KINDS[dict] in first_place:
        for name in dict.fromkeys(name for _, holder, key in filled for name in holder[key]):
            members = [(place, holder[key], name) for place, holder, key in filled if name in holder[key]]
            _give_one_type(f"{field}.{name}", members)


def check_documents(task: Any, places: Mapping[str, Sequence[str]]) -> None:
    """Refuse items without a question or gold answer, and gold answers that the task cannot compare.

    Args:
        task: of lm-eval. Of its Python classes only the gold answers are looked at.
        places: split -> where each of its rows stands, in words; documents are counted if it is missing.

    Raises:
        DataError: it names the row and the fields that are null.
    """
    from jinja2 import UndefinedError

    config = task.config
    split = config.test_split or config.validation_split
    of_rows = () if config.process_docs is not None else places.get(split or "", ())
    question, target = (_Part(task, name) for name in ("doc_to_text", "doc_to_target"))
    for index, document in enumerate(getattr(task, "task_docs", None) or task.eval_docs):
        place = of_rows[index] if index < len(of_rows) else f"benchmark {config.task!r}: row {index + 1}"
        try:
            if task.OUTPUT_TYPE != "loglikelihood_rolling":
                question.check(document, place)
            target.check(document, place)
            _check_target(task, document, place)
        except (UndefinedError, TypeError, KeyError, IndexError) as error:
            nulls = [name for name, value in document.items() if value is None]
            cause = f"the field {nulls[0]!r} is missing or null" if nulls else str(error)
            raise DataError(f"{place} cannot be turned into a question and its gold answer: {cause}") from error


class _Part:
    """A task's question or gold answer, as the template that prints it. Functions and constants are not looked at."""

    def __init__(self, task: Any, name: str) -> None:
        from jinja2 import meta
        from lm_eval.utils import env

        spec = getattr(task.config, name)
        self._name = {"doc_to_text": "question", "doc_to_target": "gold answer"}[name]
        self._printed: list[Any] = []
        self._fields: Sequence[str] = ()
        self._print: Callable[[Mapping[str, Any]], str] | None = None
        if not isinstance(spec, str) or getattr(task, "prompt", None) is not None:
            return
        if spec in task.features:
            self._fields = (spec,)
            self._print = lambda document: self._note(document[spec])
        else:
            template = env.overlay(finalize=self._note).from_string(spec)
            self._fields = sorted(meta.find_undeclared_variables(env.parse(spec)))
            self._print = lambda document: template.render(**document)

    def _note(self, value: Any) -> Any:
        self._printed.append(value)
        return value

    def check(self, document: Mapping[str, Any], place: str) -> None:
        """Refuse a document of which a null, or nothing at all, is printed."""
        if self._print is None:
            return
        self._printed.clear()
        text = self._print(document)
        nulls = [field for field in self._fields if document.get(field) is None]
        if any(map(_no_value, self._printed)) or (nulls and str(text).strip() == "None"):
            fields = ", ".join(map(repr, nulls or self._fields))
            raise DataError(f"{place} has no {self._name}: the field {fields} is missing, null or not a finite number")
        if self._printed and all(isinstance(value, str) and not value.strip() for value in self._printed):
            raise DataError(f"{place} has no {self._name}: the field {', '.join(map(repr, self._fields))} is empty")


def _no_value(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _check_target(task: Any, document: Mapping[str, Any], place: str) -> None:
    """Refuse a gold answer that is no choice, or a list where the first row's is none (or the reverse)."""
    target = task.doc_to_target(document)
    if target is None:
        raise DataError(f"{place} has no gold answer")
    multiple = getattr(task, "multiple_target", None)
    if multiple is not None and isinstance(target, list) != bool(multiple):
        kinds = ("a list", "a single value") if isinstance(target, list) else ("a single value", "a list")
        raise DataError(f"{place}: the gold answer {target!r} is {kinds[0]}, and the first row's is {kinds[1]}")
    if getattr(task.config, "doc_to_choice", None) is None or getattr(task, "multiple_input", None):
        return
    choices = task.doc_to_choice(document)
    for gold in target if isinstance(target, list) else [target]:
        if not (0 <= gold < len(choices) if isinstance(gold, int) else gold in choices):
            raise DataError(
                f"{place}: the gold answer {gold!r} is none of its {len(choices)} choices; write the number of one, "
                "counted from 0, or its text"
            )


def splits_of(config: Mapping[str, Any]) -> Iterator[str]:
    """The splits of its data that a task reads."""
    names = [config.get(f"{split}_split") for split in ("training", "validation", "test", "fewshot")]
    names.append((config.get("fewshot_config") or {}).get("split"))
    yield from dict.fromkeys(name for name in names if name)
