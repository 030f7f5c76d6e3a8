"""The segments of a document, and the tokens that a KL is averaged over."""

from __future__ import annotations

from typing import Literal, get_args

Segment = Literal["prompt", "think", "answer"]
SEGMENTS: tuple[Segment, ...] = get_args(Segment)

TokensOf = Literal["response", "prompt", "trace", "answer", "all"]
"""Tokens that a KL is averaged over. A token counts with the distribution that follows it."""

TOKENS_OF: dict[TokensOf, tuple[Segment, ...]] = {
    "response": ("think", "answer"),
    "prompt": ("prompt",),
    "trace": ("think",),
    "answer": ("answer",),
    "all": SEGMENTS,
}

HEADLINE: TokensOf = "response"
"""What a KL without further words is averaged over: the tokens that training supervised."""

IN_WORDS: dict[TokensOf, str] = {
    "response": "the response's tokens (trace and answer, what training supervises)",
    "prompt": "the prompt's tokens (training does not supervise them)",
    "trace": "the reasoning trace's tokens",
    "answer": "the answer's tokens",
    "all": "all tokens, the prompt's too (training does not supervise those)",
}
"""The tokens in words, for legends."""


def places(tokens_of: TokensOf = HEADLINE) -> list[int]:
    """Indices into SEGMENTS."""
    return [SEGMENTS.index(segment) for segment in TOKENS_OF[tokens_of]]


def field_of(field: str, tokens_of: TokensOf) -> str:
    """The field of a record that has a number over these tokens; the headline's has no suffix."""
    return field if tokens_of == HEADLINE else f"{field}_{tokens_of}"
