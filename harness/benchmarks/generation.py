"""Requests and results of generation for all backends, and generation within a thinking budget.

lm-eval passes text only. A `Completion` also says whether the answer was finished and how many tokens it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from harness.model.chat import ChatFormat

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt.

    Attributes:
        max_tokens: most tokens to write.
        stop: texts that end the answer (the end-of-turn token always does).
        temperature: 0 is greedy.
        top_p: nucleus; 1 is all.
    """

    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Completion:
    """A continuation.

    Attributes:
        text: without the stop string.
        finish: `length` if the token limit ended it.
        n_tokens: tokens written, the ending one included.
    """

    text: str
    finish: Finish
    n_tokens: int


class Writer(Protocol):
    """A backend that continues prompts."""

    def write(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """One continuation per prompt, in order. `seeds`: one per prompt, for backends that sample by request."""
        ...


@dataclass(frozen=True)
class Thinking:
    """Budget forcing (s1, section 3): a maximum length, and how often an earlier end is refused.

    Attributes:
        max_tokens: most tokens of the trace; then it is closed and the answer begins.
        waits: how many times a trace that ends earlier is continued with "Wait".
    """

    max_tokens: int
    waits: int = 0


def write_within_budget(
    writer: Writer, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int], chat: ChatFormat, budget: Thinking
) -> list[Completion]:
    """Continue prompts with a trace of at most `budget.max_tokens` tokens, then the answer.

    The trace begins with `chat.think_header` (the format is resolved), is ended by the model or by the budget, and is
    followed by `chat.answer_header`. A trace that was cut is followed by "Final Answer:", as in s1. The answer gets the
    rest of `sampling.max_tokens`.
    """
    marks = chat.own_marks
    close = marks.answer_header.strip()
    stop = tuple(dict.fromkeys(filter(None, [*sampling.stop, close, marks.end])))
    texts = [marks.think_header] * len(prompts)
    spent = [0] * len(prompts)
    cut = [False] * len(prompts)
    for attempt in range(budget.waits + 1):
        open_rows = [i for i in range(len(prompts)) if not cut[i]]
        if attempt:
            for i in open_rows:
                texts[i] += "\nWait"
        for room in sorted({budget.max_tokens - spent[i] for i in open_rows}, reverse=True):
            rows = [i for i in open_rows if budget.max_tokens - spent[i] == room]
            if room < 1:
                continue
            limits = replace(sampling, max_tokens=room, stop=stop)
            written = writer.write([prompts[i] + texts[i] for i in rows], limits, [seeds[i] for i in rows])
            for i, part in zip(rows, written, strict=True):
                texts[i] += part.text
                spent[i] += part.n_tokens
                cut[i] = part.finish == "length"
    answers = [
        text.rstrip() + marks.answer_header + ("Final Answer:" if stopped else "")
        for text, stopped in zip(texts, cut, strict=True)
    ]
    last = replace(sampling, max_tokens=max(1, sampling.max_tokens - budget.max_tokens))
    ends = writer.write([p + a for p, a in zip(prompts, answers, strict=True)], last, seeds)
    return [
        Completion(a + end.text, end.finish, n + end.n_tokens) for a, end, n in zip(answers, ends, spent, strict=True)
    ]
