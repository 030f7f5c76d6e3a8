"""Tokens coloured by a number each, as HTML that needs no network and escapes everything: what notebooks show."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

_VISIBLE = {"\n": "↵", "\t": "⇥", "\r": "␍"}
_POSITIVE, _NEGATIVE = "217, 95, 2", "31, 120, 180"


def coloured_tokens(
    tokens: Sequence[str], values: Sequence[float], *, scale: float | None = None, target: int | None = None
) -> str:
    """A line of tokens, each with its value as background and tooltip.

    Args:
        tokens: their texts, from a model or a corpus: escaped here.
        values: [token]; above 0 orange, below 0 blue, 0 or not finite without colour.
        scale: the value of full colour; the largest absolute one if not given.
        target: index of a token that is underlined.
    """
    scale = scale or max((abs(v) for v in values if math.isfinite(v)), default=0.0) or 1.0
    return "".join(_token(t, v, scale, i == target) for i, (t, v) in enumerate(zip(tokens, values, strict=True)))


def _token(token: str, value: float, scale: float, underlined: bool) -> str:
    share = min(1.0, abs(value) / scale) if math.isfinite(value) else 0.0
    style = f"background: rgba({_POSITIVE if value > 0 else _NEGATIVE}, {share:.2f}); " if share else ""
    style += "text-decoration: underline; " if underlined else ""
    text = html.escape("".join(_VISIBLE.get(c, c) for c in token)).replace(" ", "&nbsp;")
    broken = "<br>" if "\n" in token else ""
    return f'<span title="{value:.4g}" style="{style.strip()}">{text}</span>{broken}<wbr>'


def page(inner: str) -> str:
    """A block of such lines, in type of one width that breaks between tokens."""
    return f'<div style="font-family: monospace; line-height: 1.7">{inner}</div>'
