"""Preparation of our tasks' data sets before the first question (lm-eval's `process_docs`)."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from harness.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_FIGURE = re.compile(r"\s*\[asy\].*?\[/asy\]\s*", re.DOTALL)
_LETTERS = "ABCD"
_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def require_fields(columns: Collection[str], wanted: Iterable[str], what: str) -> None:
    """Refuse data that lack a field.

    Raises:
        DataError: it names the fields that are missing, and those that are there.
    """
    missing = sorted(set(wanted) - set(columns))
    if missing:
        fields = f"field{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}"
        raise DataError(f"{what}: its rows lack the {fields} (they have: {', '.join(columns) or 'nothing'})")


def require_values(documents: Dataset, fields: Iterable[str], what: str) -> None:
    """Refuse documents that lack a field, or one of which has nothing in it.

    Raises:
        DataError: it names the first such row and the field.
    """
    fields = list(fields)
    require_fields(documents.column_names, fields, what)
    for field in fields:
        for number, value in enumerate(documents[field], start=1):
            if value is None or not str(value).strip():
                raise DataError(f"{what}: row {number} has nothing in the field {field!r} (missing, null or empty)")


def without_figures(documents: Dataset) -> Dataset:
    """Problems without the code of their figures (AIME "nofigures")."""
    require_values(documents, ["problem", "answer"], "benchmark 'aime24_nofigures'")
    return documents.map(lambda row: {"problem": _FIGURE.sub("\n", row["problem"]).strip()}, load_from_cache_file=False)


def with_shuffled_options(documents: Dataset) -> Dataset:
    """GPQA's rows as a question with options A to D and the gold `letter`.

    The order is derived from a hash of the question. It is the same for every model and run. In the data set the
    correct answer always comes first.
    """
    require_values(documents, ["Question", *_OPTIONS], "benchmark 'gpqa_diamond'")
    return documents.map(_asked, load_from_cache_file=False)


def _asked(row: dict[str, Any]) -> dict[str, str]:
    question = str(row["Question"]).strip()
    names = list(_OPTIONS)
    seed = int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big")
    random.Random(seed).shuffle(names)
    options = "\n".join(f"{letter}) {str(row[name]).strip()}" for letter, name in zip(_LETTERS, names, strict=True))
    text = f"{question}\n\n{options}\n\nAnswer with the letter of the correct option: put it within \\boxed{{}}."
    return {"question": text, "letter": _LETTERS[names.index("Correct Answer")]}
