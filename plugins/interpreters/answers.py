"""What the LLM must answer: to appendix B.1 (an explanation and a grade) and B.2 (categories, one category)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

_GRADE = re.compile(
    r"[\s\"'<(\[]*(?:class|classification|grade)?\s*[:=]?\s*([012])(?:\.0+)?[\s\"'>)\].]*", re.IGNORECASE
)
_GRADE_AND_WORDS = re.compile(r"([012])\s*[:(–—-]\s*[^0-9]*")


def _grade(value: object) -> object:
    """0, 1 or 2, also as `0.0`, `"0"`, `"Class 0"` or `"0: monosemantic"`; two numbers are no grade."""
    if isinstance(value, bool):
        raise ValueError("a classification is 0, 1 or 2, not true or false")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        match = _GRADE.fullmatch(value) or _GRADE_AND_WORDS.fullmatch(value.strip())
        if match is None:
            raise ValueError("a classification is 0, 1 or 2")
        return int(match.group(1))
    return value


def _one_line(value: object) -> object:
    return " ".join(value.split()) if isinstance(value, str) else value


def _snake_case(value: object) -> object:
    return re.sub(r"[^a-z0-9]+", "_", value.casefold()).strip("_") if isinstance(value, str) else value


Line = Annotated[str, BeforeValidator(_one_line), Field(min_length=1)]


class Grade(BaseModel):
    """A judge's answer."""

    classification: Annotated[Literal[0, 1, 2], BeforeValidator(_grade)]
    classification_reasoning: Annotated[str, BeforeValidator(_one_line)] = ""


class Judgement(Grade):
    """The answer to appendix B.1."""

    explanation: Line


class CategoryAnswer(BaseModel):
    """One category of the answer to appendix B.2, step 1."""

    string_id: Annotated[str, BeforeValidator(_snake_case), Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=80)]
    name: Line
    definition: Line
    examples: tuple[Annotated[str, BeforeValidator(_one_line)], ...] = ()


class CategoriesAnswer(BaseModel):
    """The answer to appendix B.2, step 1: 5 to 8 categories."""

    categories: Annotated[tuple[CategoryAnswer, ...], Field(min_length=5, max_length=8)]
    summary: str = ""

    @model_validator(mode="after")
    def _distinct(self) -> CategoriesAnswer:
        ids = [c.string_id for c in self.categories]
        if len(set(ids)) < len(ids) or "uncategorised" in ids:
            raise ValueError("string_ids must be distinct, and `uncategorised` is taken")
        return self


class SubcategoriesAnswer(CategoriesAnswer):
    """Subcategories of one category: 2 to 8."""

    categories: Annotated[tuple[CategoryAnswer, ...], Field(min_length=2, max_length=8)]


class RatingsAnswer(BaseModel):
    """One rating per example, 0 to 10."""

    ratings: tuple[Annotated[float, Field(ge=0, le=10)], ...]


def chosen_id(text: str, ids: Collection[str]) -> str | None:
    """The string_id that a reply names; None where it names none or more than one."""
    named = {word for word in re.findall(r"[a-z0-9_]+", text.casefold()) if word in ids}
    return named.pop() if len(named) == 1 else None


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _text(longest: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": longest}


_CLASSIFICATION: dict[str, Any] = {
    "classification": {"type": "integer", "enum": [0, 1, 2]},
    "classification_reasoning": _text(1000),
}

JUDGEMENT_SCHEMA: dict[str, Any] = _object(explanation=_text(200), **_CLASSIFICATION)
"""For providers that constrain the reply. Every string is bounded: some servers never end an unbounded one."""

GRADE_SCHEMA: dict[str, Any] = _object(**_CLASSIFICATION)
"""For providers that constrain the reply."""

CATEGORIES_SCHEMA: dict[str, Any] = _object(
    categories={
        "type": "array",
        "items": _object(
            string_id=_text(80),
            name=_text(100),
            definition=_text(500),
            examples={"type": "array", "items": _text(200)},
        ),
    },
    summary=_text(2000),
)
"""For providers that constrain the reply."""

RATINGS_SCHEMA: dict[str, Any] = _object(
    ratings={"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 10}},
)
"""For providers that constrain the reply."""
