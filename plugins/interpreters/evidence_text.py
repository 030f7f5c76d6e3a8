"""Evidence as text in the format of appendix B.1: each context in full, then its tokens with strengths from 0 to 10."""

from __future__ import annotations

import json
from collections.abc import Sequence

from harness.records import Exemplar


def activations_text(exemplars: Sequence[Exemplar], *, max_tokens: int = 10, min_strength: float = 0.5) -> str:
    """All contexts, strongest first.

    Strength is 10 * activation / the largest activation in the contexts shown, so the strongest token reads 10.00.
    Only tokens that are active in this feature's own polarity are listed (a negative value is the other polarity's).

    Args:
        exemplars: contexts of one feature.
        max_tokens: most tokens listed per context.
        min_strength: weakest token listed; the exemplar's own token is listed whatever its strength.
    """
    shown = sorted(exemplars, key=lambda e: e.rank)
    largest = max((a for e in shown for a in e.activations), default=0.0)
    return "\n\n".join(
        f"Example {i}:\n{_context(e, largest, max_tokens, min_strength)}" for i, e in enumerate(shown, start=1)
    )


def strengths(exemplar: Exemplar, largest: float) -> list[tuple[int, float]]:
    """(index in the window, strength 0 to 10) of the active tokens, strongest first; ties in text order."""
    if largest <= 0:
        return []
    active = [(i, 10.0 * a / largest) for i, a in enumerate(exemplar.activations) if a > 0]
    return sorted(active, key=lambda pair: (-pair[1], pair[0]))


def token_text(tokens: Sequence[str], index: int) -> str:
    """A token on one line: without its leading space, as the paper prints it; quoted where white space would not show.

    A token that holds only part of a character's bytes may be empty; the character it belongs to is shown then.
    """
    token = next((t for t in (*tokens[index::-1], *tokens[index:]) if t), "")
    bare = token[1:] if token.startswith(" ") and len(token) > 1 else token
    plain = bare and bare == bare.strip() and bare.isprintable() and not bare.startswith('"')
    return bare if plain else json.dumps(token, ensure_ascii=not token.isprintable())


def _context(exemplar: Exemplar, largest: float, max_tokens: int, min_strength: float) -> str:
    ranked = strengths(exemplar, largest)
    listed = [pair for pair in ranked if pair[1] >= min_strength][:max_tokens]
    own = next((pair for pair in ranked if pair[0] == exemplar.target), (exemplar.target, 0.0))
    if own not in listed:
        listed = [*listed[: max_tokens - 1], own]
    lines = [f"{token_text(exemplar.tokens, i)} {strength:.2f}" for i, strength in listed]
    return "\n".join(["".join(exemplar.tokens), *lines])
