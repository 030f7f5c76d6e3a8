"""One ChatFormat renders the text of training, capture, ablation and evaluation.

Its hash is stored with every artefact and says whether two of them used the same text. (The paper's code used another
system prompt and unclosed turns for its interpretation than for its training.)
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from harness.config import Config, digest
from harness.errors import DataError, ModelError
from harness.files import half_pair, printable, reason_of
from harness.records import Trace
from harness.records.segments import HEADLINE, SEGMENTS, TOKENS_OF, Segment, TokensOf

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_DATE = datetime.date(2024, 7, 26)
"""What a chat template with a clock is told: the date that Llama 3's templates themselves use without a clock."""
_STRFTIME_CODES = ("-d", "-m", "-H", "-I", "-M", "-S", "-j", "-y", *"aAbBcdDeFGHIjmMpSTuUVwWxXyYzZ", "%")

_CANARY = Trace(id="canary", question="1 + 1 = ?", trace="1 + 1 = 2.", answer="2")


@dataclass(frozen=True)
class Rendered:
    """A trace as one text, with the characters at which its response (the think segment) and its answer begin."""

    text: str
    response_start: int
    answer_start: int


@dataclass(frozen=True)
class Document:
    """A rendered trace as tokens.

    Attributes:
        id: trace id.
        text: the rendered text.
        ids: token ids.
        offsets: (start, end) characters of each token in `text`; tokens of one multi-byte character share a span.
        segments: `prompt`, `think` or `answer` of each token; a header belongs to the segment that it opens.
        special: whether each token is a special token.
    """

    id: str
    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    segments: tuple[Segment, ...]
    special: tuple[bool, ...]

    @property
    def response_token(self) -> int:
        """Index of the first token after the assistant header."""
        return next(i for i, s in enumerate(self.segments) if s != "prompt")

    def by_segment(self, values: Sequence[float]) -> list[float]:
        """Sums over the tokens of each segment; what follows the document's tokens is not read."""
        return [sum(v for v, s in zip(values, self.segments, strict=False) if s == name) for name in SEGMENTS]

    def n_tokens(self, tokens_of: TokensOf = HEADLINE) -> int:
        """How many tokens a KL over this document is averaged over."""
        return sum(s in TOKENS_OF[tokens_of] for s in self.segments)


class ChatFormat(Config):
    """How a question, a trace and an answer become text.

    Where the tokenizer puts a BOS before every text, the rendered text begins with it, exactly once, in every template.
    All rendered text is therefore tokenised with `add_special_tokens=False`.
    """

    template: Literal["tokenizer", "plain", "unclosed"] = "tokenizer"
    """`tokenizer`: the model's own chat template; `plain`: the question and a line break, for models without one;
    `unclosed`: ChatML whose turns are not ended, as the paper's interpretation code renders them."""
    system: str | None = None
    """System prompt; None leaves it to the template (Qwen2.5's inserts its default). An empty one is left out where the
    template refuses system turns."""
    date: datetime.date | None = None
    """Date (YYYY-MM-DD) that a chat template writes as today's, by `strftime_now` or `date_string`. It is fixed, so
    that a study can be continued on another day. None: 2024-07-26, and the template's own `date_string`."""
    think_header: str = "<|im_start|>think\n"
    """Opens the reasoning trace."""
    answer_header: str = "\n<|im_start|>answer\n"
    """Closes the trace and opens the answer."""
    answer_prefix: str = "Answer: "
    """Before the answer."""
    end: str = "<|im_end|>"
    """Ends the response."""

    @model_serializer(mode="wrap")
    def _dump(self, dump_fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All fields, `date` only where it is set: keys and hashes of formats without one stay what they were."""
        values: dict[str, Any] = dump_fields(self)
        return values | {"date": str(self.date)} if self.date else {k: v for k, v in values.items() if k != "date"}

    def prompt(self, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
        """The text up to and including the assistant header.

        Raises:
            ModelError: see `chat_prompt`.
        """
        return self.chat_prompt(tokenizer, [{"role": "user", "content": question}])

    def chat_prompt(self, tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
        """Turns as a prompt; the format's system prompt is put first where the turns have none.

        Raises:
            ModelError: the tokenizer has no chat template, or its template fails on the turns or ignores one of them.
        """
        if self.system is not None and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": self.system}, *turns]
        if self.template == "plain":
            text = "\n".join(turn["content"] for turn in turns) + "\n"
        elif self.template == "unclosed":
            text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}\n" for turn in turns)
            text += "<|im_start|>assistant\n"
        else:
            text = self._by_template(tokenizer, turns)
        return with_bos(tokenizer, text)

    def _by_template(self, tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
        """Render the turns by the tokenizer's chat template.

        Where the template refuses or ignores a system turn, an empty turn is left out, and a benchmark's description is
        put before the first question. The format's own system prompt is an error there.
        """
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
                "set it in the model folder (chat_template.jinja) or use --set chat.template=plain"
            )
        try:
            return self._apply_template(tokenizer, turns)
        except Exception as error:  # a template is a program and can raise anything
            cure = "write another chat_template.jinja into the model folder or use --set chat.template=plain"
            if turns[0]["role"] == "system" and len(turns) > 1:
                if not self.system or turns[0]["content"] != self.system:
                    return self._by_template(tokenizer, _without_system_turn(turns))
                cure = f"leave the system prompt out (--set chat.system=null), {cure}"
            roles = ", ".join(turn["role"] for turn in turns)
            name = tokenizer.name_or_path
            sentence = f"the chat template of {name!r} cannot write the turns {roles}: {reason_of(error)}; {cure}"
            raise ModelError(printable(sentence)) from error

    def _apply_template(self, tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
        template = tokenizer.get_chat_template()
        variables: dict[str, Any] = {}
        if "strftime_now" in template:
            template = _fixed_clock(self.date or DEFAULT_DATE) + template
        if self.date is not None:
            variables["date_string"] = self.date.strftime("%d %b %Y")

        def apply(turns: list[dict[str, str]]) -> str:
            return str(
                tokenizer.apply_chat_template(
                    turns, chat_template=template, tokenize=False, add_generation_prompt=True, **variables
                )
            )

        text = apply(turns)
        words = "".join(text.split())
        for i, turn in enumerate(turns):
            # A template may trim or reformat a turn. If other content gives the same text, it ignores the turn.
            if turn["role"] == "assistant" or "".join(turn["content"].split()) in words:
                continue
            if apply([*turns[:i], {**turn, "content": "another content"}, *turns[i + 1 :]]) == text:
                raise ValueError(f"it ignores what the {turn['role']} says")
        return text

    def render(self, tokenizer: PreTrainedTokenizerBase, trace: Trace) -> Rendered:
        """The whole text of a trace: prompt, think segment, answer segment."""
        prompt = self.prompt(tokenizer, trace.question)
        think = self.think_header + trace.trace
        answer = self.answer_header + self.answer_prefix + trace.answer + self.end
        return Rendered(prompt + think + answer, len(prompt), len(prompt) + len(think))

    def document(self, tokenizer: PreTrainedTokenizerBase, trace: Trace) -> Document:
        """The rendered trace as tokens with segments.

        Raises:
            DataError: a token spans the border between prompt and response, so that the loss mask would be wrong; or
                the text holds half of a surrogate pair.
            ModelError: see `chat_prompt`.
        """
        rendered = self.render(tokenizer, trace)
        if half := half_pair(rendered.text):
            raise DataError(f"trace {trace.id!r} holds half of a surrogate pair ({half}); remove that character")
        encoded = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = tuple((int(a), int(b)) for a, b in encoded["offset_mapping"])
        borders = (rendered.response_start, rendered.answer_start)
        if not any(a == rendered.response_start for a, _ in offsets):
            raise DataError(
                f"trace {trace.id!r}: no token begins at the assistant's turn; end the prompt with a line break"
            )
        special_ids = set(tokenizer.all_special_ids)
        return Document(
            id=trace.id,
            text=rendered.text,
            ids=tuple(encoded["input_ids"]),
            offsets=offsets,
            segments=tuple(SEGMENTS[(a >= borders[0]) + (a >= borders[1])] for a, _ in offsets),
            special=tuple(i in special_ids for i in encoded["input_ids"]),
        )

    def hash(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """sha256 of the format, and of what it makes of a fixed example with this tokenizer (text and ids)."""
        document = self.document(tokenizer, _CANARY)
        return digest([self.model_dump(mode="json"), document.text, list(document.ids)])


def _without_system_turn(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """The turns after the system turn; its text, if any, is put before the first question."""
    text, first = turns[0]["content"], turns[1]
    if text.strip():
        first = {**first, "content": f"{text}\n\n{first['content']}"}
    return [first, *turns[2:]]


def with_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Put the tokenizer's BOS (the special tokens that it puts before every text) before a text that lacks it.

    The result, tokenised without special tokens, has the same ids as the text tokenised with them.
    """
    sample = "a"
    bare, complete = tokenizer(sample, add_special_tokens=False)["input_ids"], tokenizer(sample)["input_ids"]
    n_leading = next((i for i in range(len(complete)) if complete[i : i + len(bare)] == bare), 0)
    bos = "".join(tokenizer.convert_ids_to_tokens(complete[:n_leading]))
    if text.lstrip().startswith(bos):
        return text
    # SentencePiece tokenizers put a space before a text, but not between a special token and what follows it.
    spaced = tokenizer(f"{bos} {sample}", add_special_tokens=False)["input_ids"] == complete[: n_leading + len(bare)]
    return f"{bos} {text}" if spaced and not text.startswith(" ") else bos + text


@functools.cache
def _fixed_clock(date: datetime.date) -> str:
    """A prefix for chat templates, in which `strftime_now` formats midnight of the date instead of the current time."""
    midnight = datetime.datetime.combine(date, datetime.time())
    replaced = "".join(f"|replace({'%' + c!r}, {midnight.strftime('%' + c)!r})" for c in _STRFTIME_CODES)
    # transformers removes one line break after a block: it is to remove this one, not one of the template's.
    return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n"
