"""Evidence as text in the format of appendix B.1: each context in full, then its tokens with strengths from 0 to 10."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from harness.records import Exemplar

from .evidence_presets import EvidenceFormat

MARKS = ("<<", ">>")
"""Round a marked token."""


def activations_text(exemplars: Sequence[Exemplar], form: EvidenceFormat, *, seed: str = "") -> str:
    """The contexts that a format shows, as text.

    Strength is 10 * activation / the largest activation (of the contexts that the format scales by), so the strongest
    token reads 10.00. Only tokens that are active in this feature's own polarity are listed (a negative value is the
    other polarity's), strongest first.

    Args:
        exemplars: contexts of one feature.
        form: what is shown.
        seed: of the order, where it is shuffled.
    """
    ranked = sorted(exemplars, key=lambda e: e.rank)
    contexts = [_cut(e, form.window) for e in ranked[: form.n_contexts]]
    scale = max((a for e in (contexts if form.scale_of == "shown" else ranked) for a in e.activations), default=0.0)
    if form.shuffled:
        random.Random(seed).shuffle(contexts)
    return "\n\n".join(f"Example {i}:\n{_context(e, scale, form)}" for i, e in enumerate(contexts, start=1))


def strengths(exemplar: Exemplar, largest: float) -> list[tuple[int, float]]:
    """(index in the window, strength 0 to 10) of the active tokens, strongest first; ties in text order."""
    if largest <= 0:
        return []
    active = [(i, 10.0 * a / largest) for i, a in enumerate(exemplar.activations) if a > 0]
    return sorted(active, key=lambda pair: (-pair[1], pair[0]))


def marked_text(tokens: Sequence[str], marked: Sequence[int]) -> str:
    """The tokens as one text with << >> round some of them, leading spaces outside; neighbours share their marks.

    A token that holds only part of a character's bytes is empty: the token with the character is marked then.
    """
    chosen = {max((i for i in range(index + 1) if tokens[i]), default=index) for index in marked}
    parts, inside = [], False
    for i, token in enumerate(tokens):
        if not token:
            continue
        if inside and i not in chosen:
            parts.append(MARKS[1])
            inside = False
        if i in chosen and not inside:
            bare = token.lstrip(" ") or token
            parts += [token[: len(token) - len(bare)], MARKS[0], bare]
            inside = True
        else:
            parts.append(token)
    return "".join(parts) + (MARKS[1] if inside else "")


def token_text(tokens: Sequence[str], index: int) -> str:
    """A token on one line: without its leading space, as the paper prints it; quoted where white space would not show.

    A token that holds only part of a character's bytes may be empty; the character it belongs to is shown then.
    """
    token = next((t for t in (*tokens[index::-1], *tokens[index:]) if t), "")
    bare = token[1:] if token.startswith(" ") and len(token) > 1 else token
    plain = bare and bare == bare.strip() and bare.isprintable() and not bare.startswith('"')
    return bare if plain else json.dumps(token, ensure_ascii=not token.isprintable())


def _cut(exemplar: Exemplar, window: int | None) -> Exemplar:
    """The exemplar with at most `window` tokens on either side of its own."""
    if window is None:
        return exemplar
    start = max(0, exemplar.target - window)
    cut = slice(start, exemplar.target + window + 1)
    return exemplar.model_copy(
        update={
            "start": exemplar.start + start,
            "tokens": exemplar.tokens[cut],
            "activations": exemplar.activations[cut],
            "target": exemplar.target - start,
        }
    )


def _context(exemplar: Exemplar, scale: float, form: EvidenceFormat) -> str:
    ranked = strengths(exemplar, scale)
    listed = [pair for pair in ranked if pair[1] >= form.min_strength][: form.tokens_per_context]
    target = next((pair for pair in ranked if pair[0] == exemplar.target), (exemplar.target, 0.0))
    if form.own_token and target not in listed:
        listed = [*listed[: (form.tokens_per_context or len(listed) + 1) - 1], target]
    lines = [f"{token_text(exemplar.tokens, i)} {strength:.2f}" for i, strength in listed]
    marked = [exemplar.target] if form.mark == "own" else [ranked[0][0]] if form.mark and ranked else []
    text = marked_text(exemplar.tokens, marked)
    return "\n".join([text, *lines])
