"""Base of our lm-eval models: the study's settings override the task's, and every completion is recorded."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.benchmarks.generation import Completion, Sampling, Thinking, Writer, write_within_budget
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.contract.progress import Progress
    from harness.contract.settings import EvaluateConfig
    from harness.model.chat import ChatFormat

_DEFAULT_TOKENS = 256
"""lm-eval's default."""


class Recorder:
    """Answers lm-eval's generation requests through a backend, and records every completion.

    Attributes:
        completions: (document, repeat) -> its completion.
    """

    def __init__(self, writer: Writer, chat: ChatFormat, settings: EvaluateConfig, seed: int) -> None:
        self._writer, self._chat, self._settings, self._seed = writer, chat, settings, seed
        self.completions: dict[tuple[int, int], Completion] = {}

    def answer(self, requests: Sequence[Any]) -> list[str]:
        """Texts in the order of the requests. Repeats of a document are numbered in that order.

        Raises:
            UsageError: the thinking budget leaves no token for the answer.
        """
        seen: Counter[int] = Counter()
        places: list[tuple[int, int]] = []
        groups: dict[Sampling, list[int]] = {}
        for index, request in enumerate(requests):
            places.append((request.doc_id, seen[request.doc_id]))
            seen[request.doc_id] += 1
            groups.setdefault(self._sampling(request.args[1]), []).append(index)
        for sampling, indices in groups.items():
            prompts = [requests[i].args[0] for i in indices]
            seeds = [derived_seed(self._seed, *places[i]) for i in indices]
            for i, completion in zip(indices, self._write(prompts, sampling, seeds), strict=True):
                self.completions[places[i]] = completion
        return [self.completions[place].text for place in places]

    def _write(self, prompts: list[str], sampling: Sampling, seeds: list[int]) -> list[Completion]:
        budget = self._settings.thinking_tokens
        if budget is None:
            return self._writer.write(prompts, sampling, seeds)
        if budget >= sampling.max_tokens:
            raise UsageError(
                f"evaluate.thinking_tokens={budget} leaves no token of {sampling.max_tokens} for the answer; "
                "raise evaluate.max_gen_toks"
            )
        thinking = Thinking(budget, self._settings.thinking_waits)
        return write_within_budget(self._writer, prompts, sampling, seeds, self._chat, thinking)

    def _sampling(self, task: dict[str, Any]) -> Sampling:
        """The task's `generation_kwargs`, overridden by the study's settings."""
        until = task.get("until") or []
        greedy = not task.get("do_sample", float(task.get("temperature") or 0) > 0)
        ours = self._settings
        return Sampling(
            max_tokens=ours.max_gen_toks or int(task.get("max_gen_toks", _DEFAULT_TOKENS)),
            stop=tuple([until] if isinstance(until, str) else until),
            temperature=ours.temperature if ours.temperature is not None
            else 0.0 if greedy else float(task.get("temperature") or 1.0),
            top_p=ours.top_p if ours.top_p is not None else float(task.get("top_p", 1.0)),
        )  # fmt: skip


class RecordingLM:
    """Mixin for lm-eval's models: the study's chat format, and generation through a `Recorder`.

    Prompts are rendered by the chat format and tokenised without further special tokens, as in training. Responses keep
    their special tokens.
    """

    tokenizer: Any
    _chat: ChatFormat
    _recorder: Recorder
    _progress: Progress

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Turns as a prompt. The beginning of an answer (lm-eval's gen_prefix) is appended."""
        if add_generation_prompt:
            return self._chat.chat_prompt(self.tokenizer, chat_history)
        return self._chat.chat_prompt(self.tokenizer, chat_history[:-1]) + chat_history[-1]["content"]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue every request's prompt.

        Raises:
            UsageError: a prompt (with hf: and its answer) does not fit into the model's context.
        """
        self._progress.start(len(requests), "item")
        return self._recorder.answer(requests)

    @property
    def completions(self) -> Mapping[tuple[int, int], Completion]:
        """(document, repeat) -> its completion."""
        return self._recorder.completions


def derived_seed(*parts: int) -> int:
    """A seed below 2^31 from all the parts, so that repeats differ and re-runs do not."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    ends = [text.index(s) for s in stop if s and s in text]
    return text[: min(ends)] if ends else text
