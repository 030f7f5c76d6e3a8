"""A subject as lm-eval sees it: its own HF backend, with our one chat format and our greedy decoding."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM

from harness.benchmarks.decode import greedy, make_stop, supports_greedy
from harness.errors import UsageError
from harness.stages import Progress, SilentProgress

if TYPE_CHECKING:
    from harness.model.subject import Subject

_NEUTRAL: dict[str, Any] = {"repetition_penalty": 1.0, "top_p": 1.0, "top_k": 0}
"""Given explicitly: a model's generation_config.json would otherwise change greedy answers (repetition_penalty)."""
_IGNORED_BY_GREEDY = {"do_sample", "temperature", "top_p", "top_k"}


class SubjectLM(HFLM):
    """lm-eval's HF backend over a model in memory.

    Prompts are rendered by the subject's ChatFormat and tokenised without further special tokens, as in training.
    Responses keep their special tokens, as with lm-eval's vLLM backend.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        batch_size: int = 256,
        tokens_per_batch: int = 65536,
        progress: Progress | None = None,
    ) -> None:
        self._subject = subject
        self._progress = progress or SilentProgress()
        self._most = batch_size
        self._tokens_per_batch = tokens_per_batch
        with quiet():
            super().__init__(
                pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=batch_size, add_bos_token=False
            )
        generation = getattr(subject.model, "generation_config", None)
        ends = getattr(generation, "eos_token_id", None)
        self._extra_ends = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
        self._ends = frozenset(make_stop(self.tokenizer, (), self._extra_ends).ids)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The subject's ChatFormat; a begun answer (lm-eval's gen_prefix) is put behind it."""
        if add_generation_prompt:
            return self._subject.chat.chat_prompt(self.tokenizer, chat_history)
        return self._subject.chat.chat_prompt(self.tokenizer, chat_history[:-1]) + chat_history[-1]["content"]

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        """Text of a response up to the end of its turn, special tokens included."""
        if isinstance(tokens, list):
            end = next((i for i, t in enumerate(tokens) if t in self._ends), len(tokens))
            tokens = tokens[:end]
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue every request's prompt.

        Raises:
            UsageError: a prompt and its answer do not fit into the model's context.
        """
        longest = 1
        for prompt, settings in (r.args for r in requests):
            new = int(settings.get("max_gen_toks", self.max_gen_toks))
            needed = len(self.tok_encode(prompt)) + new
            if needed > self.max_length:
                raise UsageError(
                    f"a prompt of {needed - new} tokens and max_gen_toks={new} do not fit into the model's "
                    f"{self.max_length} tokens; lower max_gen_toks in the task"
                )
            longest = max(longest, needed)
        self.batch_size_per_gpu = max(1, min(self._most, self._tokens_per_batch // longest))
        self._progress.start(len(requests), "item")
        return super().generate_until(requests, disable_tqdm=True)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of every request's continuation."""
        self.batch_size_per_gpu = max(1, min(self._most, 32))
        self._progress.start(len(requests), "item")
        result = super().loglikelihood(requests, disable_tqdm=True)
        self._progress.advance(len(requests))
        return result

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **settings: Any) -> Any:
        mask = settings.pop("attention_mask")
        for key, value in _NEUTRAL.items():
            settings.setdefault(key, value)
        penalised = set(settings) - _IGNORED_BY_GREEDY - {k for k, v in _NEUTRAL.items() if settings[k] == v}
        if settings.get("do_sample") or penalised or not supports_greedy(self.model):
            written = super()._model_generate(context, max_length, stop, attention_mask=mask, **settings)
        else:
            rule = make_stop(self.tokenizer, stop, self._extra_ends)
            new = greedy(self.model, context, mask, max_length - context.shape[1], rule)
            written = torch.cat([context, new], dim=1)
        self._progress.advance(context.shape[0])
        return written


@contextmanager
def quiet() -> Iterator[None]:
    """lm-eval's bars and its remarks about what we do on purpose are not shown."""
    import lm_eval.api.task as tasks

    names: Sequence[str] = ("lm_eval", "transformers", "datasets")
    before = [(logging.getLogger(n), logging.getLogger(n).level) for n in names]
    bar = tasks.tqdm
    try:
        for logger, _ in before:
            logger.setLevel(logging.ERROR)
        tasks.tqdm = lambda items, **_: items
        yield
    finally:
        tasks.tqdm = bar
        for logger, level in before:
            logger.setLevel(level)
