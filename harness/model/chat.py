"""One ChatFormat renders the text of training, capture, ablation and evaluation.

Its hash is stored with every artefact and says whether two of them used the same text. (The paper's code used another
system prompt and unclosed turns for its interpretation than for its training.)
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from harness.config import Config, digest
from harness.errors import DataError, ModelError
from harness.files import half_pair, printable, reason_of
from harness.model.marks import CHATML, Marks, has_chatml, marks_of_template, written_out
from harness.records import Trace
from harness.records.segments import HEADLINE, SEGMENTS, TOKENS_OF, Segment, TokensOf

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Written = Literal["question", "trace", "answer"]
WRITTEN: tuple[Written, ...] = ("question", "trace", "answer")
"""What somebody wrote. The rest of a rendered text is the template's: the system prompt, headers, marks, `Answer: `."""

DEFAULT_DATE = datetime.date(2024, 7, 26)
"""What a chat template with a clock is told: the date that Llama 3's templates themselves use without a clock."""
_STRFTIME_CODES = ("-d", "-m", "-H", "-I", "-M", "-S", "-j", "-y", *"aAbBcdDeFGHIjmMpSTuUVwWxXyYzZ", "%")

_PROBE = "a question that nobody asks"
_CANARY = Trace(id="canary", question="1 + 1 = ?", trace="1 + 1 = 2.", answer="2")


@dataclass(frozen=True)
class Rendered:
    """A trace as one text.

    Attributes:
        text: all of it.
        response_start: character at which the response (the think segment) begins.
        answer_start: character at which the answer segment begins.
        written: (start, end) characters of what was written, without anything of the template.
    """

    text: str
    response_start: int
    answer_start: int
    written: Mapping[Written, tuple[int, int]]


@dataclass(frozen=True)
class Document:
    """A rendered trace as tokens.

    Attributes:
        id: trace id.
        text: the rendered text.
        ids: token ids.
        offsets: (start, end) characters of each token in `text`; tokens of one multi-byte character share a span.
        segments: `prompt`, `think` or `answer` of each token; a header belongs to the segment that it opens.
        ranked: whether each token counts as an activating token: it lies wholly within what was written, and is no
            special token. A token that holds any character of the template is the template's.
    """

    id: str
    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    segments: tuple[Segment, ...]
    ranked: tuple[bool, ...]

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
    think_header: str | None = None
    """Opens the reasoning trace. None: as the chat template opens a turn; in ChatML `<|im_start|>think` and a line
    break, as s1; `<think>` where the template names no roles (see `harness.model.marks`)."""
    answer_header: str | None = None
    """Closes the trace and opens the answer. None: likewise, with `answer` for `think`; or `</think>`."""
    answer_prefix: str = "Answer: "
    """Before the answer."""
    end: str | None = None
    """Ends the response. None: what the chat template writes behind an answer; without a template, the tokenizer's
    end of text."""

    @model_serializer(mode="wrap")
    def _dump(self, dump_fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All fields, `date` only where it is set: keys and hashes of formats without one stay what they were."""
        values: dict[str, Any] = dump_fields(self)
        return values | {"date": str(self.date)} if self.date else {k: v for k, v in values.items() if k != "date"}

    def marks(self, tokenizer: PreTrainedTokenizerBase) -> Marks:
        """What stands round trace and answer with this tokenizer: what is set, and what its format gives.

        Raises:
            ModelError: see `chat_prompt`.
        """
        if self.think_header is not None and self.answer_header is not None and self.end is not None:
            return Marks(self.think_header, self.answer_header, self.end)
        if self.template == "unclosed" or (self.template == "plain" and has_chatml(tokenizer)):
            found = CHATML
        elif self.template == "plain":
            found = written_out(str(tokenizer.eos_token or ""))
        else:
            found = marks_of_template(tokenizer, partial(self._by_template, tokenizer))
        return replace(found, **{k: v for k in vars(found) if (v := getattr(self, k)) is not None})

    @property
    def own_marks(self) -> Marks:
        """The marks of a resolved format.

        Raises:
            ModelError: the format leaves them to a tokenizer.
        """
        if self.think_header is None or self.answer_header is None or self.end is None:
            raise ModelError("the chat format leaves its marks to the tokenizer; use ChatFormat.resolved(tokenizer)")
        return Marks(self.think_header, self.answer_header, self.end)

    def resolved(self, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
        """The same format with its marks written down: nothing is left to the tokenizer but the template."""
        return self.model_copy(update=vars(self.marks(tokenizer)))

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

    def _by_template(
        self, tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], open_turn: bool = True
    ) -> str:
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
            return self._apply_template(tokenizer, turns, open_turn)
        except Exception as error:  # a template is a program and can raise anything
            cure = "write another chat_template.jinja into the model folder or use --set chat.template=plain"
            if turns[0]["role"] == "system" and len(turns) > 1:
                if not self.system or turns[0]["content"] != self.system:
                    return self._by_template(tokenizer, _without_system_turn(turns), open_turn)
                cure = f"leave the system prompt out (--set chat.system=null), {cure}"
            roles = ", ".join(turn["role"] for turn in turns)
            name = tokenizer.name_or_path
            sentence = f"the chat template of {name!r} cannot write the turns {roles}: {reason_of(error)}; {cure}"
            raise ModelError(printable(sentence)) from error

    def _apply_template(self, tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], open_turn: bool) -> str:
        template = tokenizer.get_chat_template()
        variables: dict[str, Any] = {}
        if "strftime_now" in template:
            template = _fixed_clock(self.date or DEFAULT_DATE) + template
        if self.date is not None:
            variables["date_string"] = self.date.strftime("%d %b %Y")

        def apply(turns: list[dict[str, str]]) -> str:
            return str(
                tokenizer.apply_chat_template(
                    turns, chat_template=template, tokenize=False, add_generation_prompt=open_turn, **variables
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
        marks = self.marks(tokenizer)
        prompt = self.prompt(tokenizer, trace.question)
        think = prompt + marks.think_header + trace.trace
        answer = think + marks.answer_header + self.answer_prefix + trace.answer
        written: dict[Written, tuple[int, int]] = {
            "question": self._question_span(tokenizer, prompt),
            "trace": (len(think) - len(trace.trace), len(think)),
            "answer": (len(answer) - len(trace.answer), len(answer)),
        }
        return Rendered(answer + marks.end, len(prompt), len(think), written)

    def _question_span(self, tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[int, int]:
        """(start, end) of the question in its prompt: between what surrounds another question, whatever it is."""
        before, _, after = self.prompt(tokenizer, _PROBE).rpartition(_PROBE)
        if not (prompt.startswith(before) and prompt.endswith(after)):
            return 0, 0  # the template writes other words round this question: none of them is known to be its
        return len(before), len(prompt) - len(after)

    def document(
        self, tokenizer: PreTrainedTokenizerBase, trace: Trace, *, ranked: Collection[Written] = WRITTEN
    ) -> Document:
        """The rendered trace as tokens with segments. Tokens of the parts in `ranked` count.

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
        spans = [rendered.written[part] for part in ranked]
        return Document(
            id=trace.id,
            text=rendered.text,
            ids=tuple(encoded["input_ids"]),
            offsets=offsets,
            segments=tuple(SEGMENTS[(a >= borders[0]) + (a >= borders[1])] for a, _ in offsets),
            ranked=tuple(
                i not in special_ids and any(start <= a < b <= end for start, end in spans)
                for i, (a, b) in zip(encoded["input_ids"], offsets, strict=True)
            ),
        )

    def hash(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """sha256 of the format, and of what it makes of a fixed example with this tokenizer (text and ids)."""
        chat = self.resolved(tokenizer)
        document = chat.document(tokenizer, _CANARY)
        return digest([chat.model_dump(mode="json"), document.text, list(document.ids)])


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
