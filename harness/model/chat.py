"""One ChatFormat renders the text of training, capture, ablation and evaluation.

Its hash goes on every artefact, so that "was this read on the text it was trained on?" has an answer. (The paper's
own code used another system prompt and unclosed turns for its interpretation than for its training.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.config import Config, digest
from harness.errors import DataError, ModelError
from harness.records import Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Segment = Literal["prompt", "think", "answer"]
SEGMENTS: tuple[Segment, ...] = ("prompt", "think", "answer")

_CANARY = Trace(id="canary", question="1 + 1 = ?", trace="1 + 1 = 2.", answer="2")


@dataclass(frozen=True)
class Rendered:
    """A trace as one text; `starts` are the character offsets at which think and answer begin."""

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
        segments: `prompt`, `think` or `answer` of each token; control tokens belong to what they open.
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


class ChatFormat(Config):
    """How a question, a trace and an answer become text."""

    template: Literal["tokenizer", "plain", "unclosed"] = "tokenizer"
    """`tokenizer`: the model's own chat template; `plain`: the question and a line break, for models without one;
    `unclosed`: ChatML whose turns are not ended, as the paper's interpretation code renders them."""
    system: str | None = None
    """System prompt; None leaves it to the template (Qwen2.5's inserts its default)."""
    think_header: str = "<|im_start|>think\n"
    """Opens the reasoning trace."""
    answer_header: str = "\n<|im_start|>answer\n"
    """Closes the trace and opens the answer."""
    answer_prefix: str = "Answer: "
    """Before the answer."""
    end: str = "<|im_end|>"
    """Ends the response."""

    def prompt(self, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
        """The text up to and including the assistant header.

        Raises:
            ModelError: the tokenizer has no chat template.
        """
        return self.chat_prompt(tokenizer, [{"role": "user", "content": question}])

    def chat_prompt(self, tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
        """Turns as a prompt; the format's system prompt is put first where it has one."""
        if self.template == "plain":
            return "\n".join(turn["content"] for turn in turns) + "\n"
        if self.template == "unclosed":
            system = [{"role": "system", "content": self.system}] if self.system is not None else []
            opened = [f"<|im_start|>{turn['role']}\n{turn['content']}\n" for turn in [*system, *turns]]
            return "".join(opened) + "<|im_start|>assistant\n"
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
                "set it in the model folder (chat_template.jinja) or use --set chat.template=plain"
            )
        if self.system is not None and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": self.system}, *turns]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def render(self, tokenizer: PreTrainedTokenizerBase, trace: Trace) -> Rendered:
        """The whole text of a trace: prompt, think segment, answer segment."""
        prompt = self.prompt(tokenizer, trace.question)
        think = self.think_header + trace.trace
        answer = self.answer_header + self.answer_prefix + trace.answer + self.end
        return Rendered(prompt + think + answer, len(prompt), len(prompt) + len(think))

    def document(self, tokenizer: PreTrainedTokenizerBase, trace: Trace) -> Document:
        """The rendered trace as tokens with segments.

        Raises:
            DataError: a token spans the border between prompt and response, so that the loss mask would be wrong.
        """
        rendered = self.render(tokenizer, trace)
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
