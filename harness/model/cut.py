"""Shorten traces at paragraphs, so that long ones fit into a training example: `data.cut`.

Of a long row stay the question, whole paragraphs of the trace in a row from a place that is drawn by the row's id, and
the last paragraphs of the answer. The place is drawn with the same seed in every run: all runs of a study, and both of
its trainers, see the same examples.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import DataError
from harness.model.chat import ChatFormat
from harness.records import Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANSWER_SHARE = 4
"""The end of the answer gets at most one token in this many, but its last paragraph at least."""
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_LINE = re.compile(r"\n\s*")


@dataclass(frozen=True)
class Cut:
    """What a cut made of the traces.

    Attributes:
        traces: those that fit now, in order.
        n_cut: how many are shorter now.
        n_too_long: how many are left out: their question or each of their lines takes the room.
        n_tokens: tokens of the examples as they are now, the template's included.
        n_tokens_before: of all whole examples.
    """

    traces: tuple[Trace, ...]
    n_cut: int
    n_too_long: int
    n_tokens: int
    n_tokens_before: int

    @property
    def kept_share(self) -> float:
        """Share of the tokens that is left."""
        return self.n_tokens / max(self.n_tokens_before, 1)


def cut_traces(traces: Sequence[Trace], chat: ChatFormat, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Cut:
    """Cut every trace whose example is longer than `max_length` tokens, and leave out those that stay longer.

    Raises:
        DataError: more than half stay longer; see `ChatFormat.document`.
        ModelError: likewise.
    """
    chat = chat.resolved(tokenizer)
    made: list[Trace] = []
    n_cut = n_too_long = after = before = 0
    for trace in traces:
        whole = n_tokens = len(chat.document(tokenizer, trace).ids)
        if whole > max_length and (shorter := _fitting(trace, chat, tokenizer, max_length)):
            trace, n_tokens = shorter[0].model_copy(update={"n_tokens_whole": whole}), shorter[1]
            n_cut += 1
        before += whole
        if n_tokens > max_length:
            n_too_long += 1  # whole it would outweigh all others wherever tokens are read
            continue
        made.append(trace)
        after += n_tokens
    refuse_most_left_out(n_too_long, len(traces), max_length)
    return Cut(tuple(made), n_cut, n_too_long, after, before)


def refuse_most_left_out(n_left_out: int, n: int, max_length: int) -> None:
    """More examples left out than trained on are another data set than the one that was named.

    Raises:
        DataError: more than half of the examples are longer than `max_length` tokens.
    """
    if 2 * n_left_out > n:
        raise DataError(
            f"{n_left_out} of {n} examples are longer than max_length={max_length} tokens and would be left out; "
            "shorten them at paragraphs (--set data.cut=paragraphs), or raise the trainer's max_length"
        )


def _fitting(
    trace: Trace, chat: ChatFormat, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Trace, int] | None:
    """A shorter trace and the tokens of its example; None where no paragraph and no line of it fits."""

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    bare = trace.model_copy(update={"trace": "", "answer": ""})
    room = max_length - len(chat.document(tokenizer, bare).ids)
    draw = random.Random(trace.id)
    for border in (_PARAGRAPH, _LINE):
        pieces = [(start, end, length(trace.answer[start:end]) + 1) for start, end in _spans(trace.answer, border)]
        first = max(len(pieces) - 1, 0)  # the last paragraph stays
        answer_room = max(room // _ANSWER_SHARE, 1)
        while first and sum(n for *_, n in pieces[first - 1 :]) <= answer_room:
            first -= 1
        answer_start = pieces[first][0]
        left = room - sum(n for *_, n in pieces[first:])
        window = _window([(*s, length(trace.trace[slice(*s)]) + 1) for s in _spans(trace.trace, border)], left, draw)
        while window:  # pieces together may have a token more than apart
            start, end = window[0][0], window[-1][1]
            shorter = _part_of(trace, start, end, answer_start)
            n_tokens = len(chat.document(tokenizer, shorter).ids)
            if n_tokens <= max_length:
                return shorter, n_tokens
            window = window[:-1]
    return None


def _window(pieces: list[tuple[int, int, int]], room: int, draw: random.Random) -> list[tuple[int, int, int]]:
    """Pieces (start, end, tokens) in a row that fit, from a drawn one on; of the starts, those that fill the room."""
    windows = []
    for first in range(len(pieces)):
        used, stop = 0, first
        while stop < len(pieces) and used + pieces[stop][2] <= room:
            used += pieces[stop][2]
            stop += 1
        if stop > first:
            windows.append((used, pieces[first:stop]))
    full = [pieces for used, pieces in windows if 2 * used >= room] or [p for _, p in windows]
    return draw.choice(full) if full else []


def _spans(text: str, border: re.Pattern[str]) -> list[tuple[int, int]]:
    """(start, end) of the pieces between borders, without empty ones."""
    starts, ends = [0], []
    for found in border.finditer(text):
        ends.append(found.start())
        starts.append(found.end())
    return [(a, b) for a, b in zip(starts, [*ends, len(text)], strict=True) if text[a:b].strip()]


def _part_of(trace: Trace, start: int, end: int, answer_start: int) -> Trace:
    """The trace with less of its text; spans of what is left move along."""
    limits = {"trace": (start, end), "answer": (answer_start, len(trace.answer))}
    spans = {
        part: tuple((a - lo, b - lo, name) for a, b, name in ranges if lo <= a and b <= hi)
        for part, ranges in trace.spans.items()
        for lo, hi in [limits.get(part, (0, len(trace.question)))]
    }
    return trace.model_copy(
        update={"trace": trace.trace[start:end], "answer": trace.answer[answer_start:], "spans": spans}
    )
