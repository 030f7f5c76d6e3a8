"""Marks of a reasoning trace and an answer in a model's own format, found by rendering probes.

s1's format opens the trace as a turn of its own (`<|im_start|>think`), in the way in which the chat template opens the
assistant's turn. Here that way is read off the template: what it writes between a question and an answer, and behind an
answer. Llama 3 gives `<|start_header_id|>think<|end_header_id|>`, Gemma `<start_of_turn>think`. A template whose header
names no role as a word (Phi-3's `<|assistant|>`, Mistral's `[/INST]`) gives `<think>` and `</think>`, as in R1's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = list[dict[str, str]]
_QUESTION, _ANSWER = "a question that nobody asks", "an answer that nobody gives"
_MARK = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Marks:
    """What stands round the trace and the answer."""

    think_header: str
    answer_header: str
    end: str


CHATML = Marks("<|im_start|>think\n", "\n<|im_start|>answer\n", "<|im_end|>")


def written_out(end: str) -> Marks:
    """R1's marks, for formats that name no roles."""
    return Marks("<think>\n", "\n</think>\n\n", end)


def marks_of_template(tokenizer: PreTrainedTokenizerBase, render: Callable[[Turns, bool], str]) -> Marks:
    """The marks that fit a chat template.

    Args:
        tokenizer: whose added tokens are marks.
        render: turns, and whether the assistant's header follows -> text.
    """
    question, answer = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
    after_answer = _pieces(tokenizer, render([question, answer], False).rpartition(_ANSWER)[2])
    header = _pieces(tokenizer, render([question], True).rpartition(_QUESTION)[2])
    n_end = next((i for i, piece in enumerate(after_answer) if _is_mark(tokenizer, piece)), None)
    end = str(tokenizer.eos_token or "") if n_end is None else "".join(after_answer[: n_end + 1]).lstrip()
    shared = 0
    while header[shared : shared + 1] == after_answer[shared : shared + 1] != []:
        shared += 1
    own = header[shared:]
    words = [i for i, piece in enumerate(own) if not _is_mark(tokenizer, piece) and _WORD.search(piece)]
    if len(words) != 1 or len(_WORD.findall(own[words[0]])) != 1 or not _is_mark(tokenizer, own[0].strip()):
        return written_out(end)
    think, reply = ("".join([*own[: words[0]], _WORD.sub(role, own[words[0]]), *own[words[0] + 1 :]])
                    for role in ("think", "answer"))  # fmt: skip
    return Marks(think, "\n" + reply, end)


def no_single_tokens(tokenizer: PreTrainedTokenizerBase, marks: Marks) -> str | None:
    """A sentence about marks that are several ordinary tokens of this tokenizer; None where all are single ones."""
    text = marks.think_header + marks.answer_header + marks.end
    counts = {m: len(tokenizer(m, add_special_tokens=False)["input_ids"]) for m in _MARK.findall(text)}
    split = ", ".join(f"{mark} ({n} tokens)" for mark, n in counts.items() if n > 1 and not _is_added(tokenizer, mark))
    if not split:
        return None
    return (
        f"the tokenizer of {tokenizer.name_or_path!r} has no single token for {split}: such marks are trained on as "
        "ordinary text (none of it is ranked); name others with --set chat.think_header=TEXT, "
        "--set chat.answer_header=TEXT, --set chat.end=TEXT"
    )


def has_chatml(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the marks of ChatML are tokens of the tokenizer."""
    return all(_is_added(tokenizer, mark) for mark in ("<|im_start|>", "<|im_end|>"))


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """A text cut at its marks."""
    added = sorted((t for t in tokenizer.get_added_vocab() if t.strip()), key=len, reverse=True)
    marks = "|".join([*map(re.escape, added), _MARK.pattern])
    return [piece for piece in re.split(f"({marks})", text) if piece]


def _is_mark(tokenizer: PreTrainedTokenizerBase, piece: str) -> bool:
    return _is_added(tokenizer, piece) or _MARK.fullmatch(piece) is not None


def _is_added(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    return text in tokenizer.get_added_vocab()
