"""Where the data sets that people train on keep question, trace and answer: known by the fields of a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Reader = Callable[[Row], tuple[Any, Any]]
"""Of a row, its trace and its answer; None for what cannot be found."""

_THOUGHT = re.compile(
    r"\s*(?:<think>|<\|begin_of_thought\|>)\s*(?P<trace>.*?)\s*(?:</think>|<\|end_of_thought\|>)\s*"
    r"(?:<\|begin_of_solution\|>)?\s*(?P<answer>.*?)\s*(?:<\|end_of_solution\|>)?\s*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Layout:
    """The fields of a data set; `read` where trace and answer are not simply the texts of two fields."""

    question: str
    trace: str
    answer: str
    read: Reader | None = None
    question_of: Callable[[Row], Any] | None = None

    @property
    def fields(self) -> set[str]:
        """What a row of this layout has."""
        return {self.question, self.trace, self.answer}


def _thought(text: Any) -> tuple[Any, Any]:
    found = _THOUGHT.fullmatch(text) if isinstance(text, str) else None
    return (found["trace"], found["answer"]) if found else (None, None)


def _turn(row: Row, *roles: str) -> Any:
    """What the first of these roles says in `conversations`."""
    turns = row.get("conversations")
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, Mapping) and turn.get("from", turn.get("role")) in roles:
            return turn.get("value", turn.get("content"))
    return None


def _verified(row: Row) -> tuple[Any, Any]:
    """Of several generations, the first that was verified, else the first that is complete."""
    texts = row.get("generations")
    texts = texts if isinstance(texts, list) else [texts]
    verified = row.get("correctness_math_verify")
    right = [t for t, ok in zip(texts, verified, strict=False) if ok] if isinstance(verified, list) else []
    for text in (*right, *texts):
        trace, answer = _thought(text)
        if trace:
            return trace, answer or row.get("solution")
    return None, row.get("solution")


def _first(row: Row) -> tuple[Any, Any]:
    texts = row.get("thinking_trajectories")
    return (texts[0] if isinstance(texts, list) and texts else texts), row.get("attempt")


LAYOUTS = {
    "s1K-1.1": Layout("question", "deepseek_thinking_trajectory", "deepseek_attempt"),
    "own": Layout("question", "trace", "answer"),
    "s1K": Layout("question", "thinking_trajectories", "attempt", _first),
    "OpenThoughts, metadata": Layout("problem", "deepseek_reasoning", "deepseek_solution"),
    "OpenR1-Math": Layout("problem", "generations", "solution", _verified),
    "OpenThoughts": Layout("conversations", "conversations", "conversations",
                           lambda row: _thought(_turn(row, "assistant", "gpt")),
                           lambda row: _turn(row, "user", "human")),
    "LIMO": Layout("question", "solution", "answer"),
}  # fmt: skip
"""Data set -> its fields. The first whose fields a row has is taken; a row with most fields of one is of that one."""


def parts_of(row: Row, named: Mapping[str, str]) -> dict[str, tuple[str, Any]] | None:
    """Part (question, trace, answer) -> the field it is in and what was found there; None where no layout fits.

    Args:
        row: a row of a data file.
        named: part -> field, for those that the user names.
    """
    asked = [part for part in ("question", "trace", "answer") if part not in named]
    wanted = {name: {getattr(layout, part) for part in asked} for name, layout in LAYOUTS.items()}
    present = {name: len(fields & set(row)) / max(len(fields), 1) for name, fields in wanted.items()}
    best = max(present, key=lambda name: present[name])
    if len(asked) > 1 and present[best] < 0.5:
        return None
    layout = LAYOUTS[best]
    found = {
        "question": (layout.question, layout.question_of(row) if layout.question_of else row.get(layout.question)),
        "trace": (layout.trace, row.get(layout.trace)),
        "answer": (layout.answer, row.get(layout.answer)),
    }
    if layout.read is not None:
        trace, answer = layout.read(row)
        found |= {"trace": (layout.trace, trace), "answer": (layout.answer, answer)}
    for part, field in named.items():
        # Rows of a file that name a part by its own word are read, too.
        field = field if field in row or part not in row else part
        found[part] = field, row.get(field)
    return found
