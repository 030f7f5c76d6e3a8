"""lm-eval's HF backend over a subject, with the study's chat format and our greedy decoding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM

from harness.benchmarks.decode import Stop, greedy, make_stop, supports_greedy
from harness.benchmarks.generation import Completion, Sampling, Writer
from harness.benchmarks.recording import Recorder, RecordingLM, cut_at
from harness.contract.progress import Progress, SilentProgress
from harness.contract.settings import EvaluateConfig
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.model.subject import Subject
    from harness.model.taps import RowGates

_NEUTRAL: dict[str, Any] = {"repetition_penalty": 1.0, "top_p": 1.0, "top_k": 0}
"""Passed to `generate`, because a model's generation_config.json could change greedy answers (repetition_penalty)."""


class SubjectLM(RecordingLM, HFLM):
    """lm-eval's HF backend over a model in memory."""

    def __init__(
        self,
        subject: Subject,
        *,
        settings: EvaluateConfig,
        seed: int = 0,
        tokens_per_batch: int = 65536,
        progress: Progress | None = None,
        gates: RowGates | None = None,
        writer: Callable[[SubjectLM], Writer] | None = None,
    ) -> None:
        """Wrap a subject whose components are tapped by `gates`; `writer` makes the writer to use in its place."""
        self._chat = subject.chat
        self._progress = progress or SilentProgress()
        self._gates = gates
        self._recorder = Recorder(self if writer is None else writer(self), subject.chat, settings, seed)
        batch_size = self._most = settings.batch_size
        self._tokens_per_batch = tokens_per_batch
        with quiet():
            super().__init__(
                pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=batch_size, add_bos_token=False
            )
        generation = getattr(subject.model, "generation_config", None)
        ends = getattr(generation, "eos_token_id", None)
        self._extra_ends = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)

    def write(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """One continuation per prompt, in order."""
        return self.write_gated(prompts, sampling, seeds, None)

    def write_gated(
        self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int], gates: torch.Tensor | None
    ) -> list[Completion]:
        """Continue prompts, the longest first, in batches. Sampled batches are seeded by their first prompt.

        Args:
            prompts: what to continue.
            sampling: of all prompts.
            seeds: one per prompt.
            gates: [prompt, component], for each prompt, in place of the tap's; None keeps the tap's.

        Raises:
            UsageError: a prompt and its answer do not fit into the model's context.
        """
        lengths = self._lengths(prompts)
        size = self._rows_at_once(lengths, sampling)
        order = sorted(range(len(prompts)), key=lambda i: (-lengths[i], i))
        stop = make_stop(self.tokenizer, sampling.stop, self._extra_ends)
        written: dict[int, Completion] = {}
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            torch.manual_seed(seeds[batch[0]])
            ids, mask = self.tok_batch_encode([prompts[i] for i in batch])
            with self._gated(gates, batch):
                rows = self._continue(ids.to(self.device), mask.to(self.device), sampling, stop)
            written.update({i: self._completed(row, sampling, stop) for i, row in zip(batch, rows, strict=True)})
            self._progress.advance(len(batch))
        return [written[i] for i in range(len(prompts))]

    def rows_at_once(self, prompts: Sequence[str], sampling: Sampling) -> int:
        """Number of these prompts that fit into one batch.

        Raises:
            UsageError: a prompt and its answer do not fit into the model's context.
        """
        return self._rows_at_once(self._lengths(prompts), sampling)

    def _lengths(self, prompts: Sequence[str]) -> list[int]:
        length = {p: len(self.tok_encode(p)) for p in dict.fromkeys(prompts)}
        return [length[p] for p in prompts]

    def _rows_at_once(self, lengths: Sequence[int], sampling: Sampling) -> int:
        longest = max(lengths, default=0) + sampling.max_tokens
        if longest > self.max_length:
            raise UsageError(
                f"a prompt of {max(lengths)} tokens and {sampling.max_tokens} new ones do not fit into the model's "
                f"{self.max_length} tokens; lower evaluate.max_gen_toks (it is {sampling.max_tokens})"
            )
        return max(1, min(self._most, self._tokens_per_batch // max(longest, 1)))

    @contextmanager
    def _gated(self, gates: torch.Tensor | None, batch: list[int]) -> Iterator[None]:
        if gates is None or self._gates is None:
            yield
            return
        gates_of_tap = self._gates.gates
        self._gates.gates = gates[batch].to(self.device)
        try:
            yield
        finally:
            self._gates.gates = gates_of_tap

    def _continue(self, ids: torch.Tensor, mask: torch.Tensor, sampling: Sampling, stop: Stop) -> list[list[int]]:
        """New tokens of left-padded contexts. A row may have tokens after its end."""
        if sampling.temperature == 0 and supports_greedy(self.model):
            leave = None if self._gates is None else self._gates.keep
            return greedy(self.model, ids, mask, sampling.max_tokens, stop, leave).tolist()
        chosen: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            chosen = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        with torch.inference_mode():
            whole = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=sampling.max_tokens,
                eos_token_id=list(stop.ids),
                pad_token_id=stop.ids[0] if stop.ids else 0,
                stop_strings=list(stop.strings) or None,
                tokenizer=self.tokenizer,
                **{**_NEUTRAL, **chosen},
            )
        return whole[:, ids.shape[1] :].tolist()

    def _completed(self, tokens: list[int], sampling: Sampling, stop: Stop) -> Completion:
        """A row of new tokens up to its end: the end-of-turn token, or the first stop string."""
        n = next((i for i, t in enumerate(tokens) if t in stop.ids), len(tokens))
        text = str(self.tokenizer.decode(tokens[:n], skip_special_tokens=False))
        cut = cut_at(text, sampling.stop)
        by_text = len(cut) < len(text)  # tokens after such an end are padding, not an end token of the row
        stopped = n < len(tokens) or by_text or len(tokens) < sampling.max_tokens
        return Completion(cut, "stop" if stopped else "length", n if by_text else min(n + 1, len(tokens)))

    def expect(self, n: int) -> None:
        """Restart the progress bar at 0 of `n` items."""
        self._progress.start(n, "item")

    def advance(self, n: int) -> None:
        """Report `n` more items as done."""
        self._progress.advance(n)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of every request's continuation."""
        self.batch_size_per_gpu = max(1, min(self._most, 32))
        self._progress.start(len(requests), "item")
        result = super().loglikelihood(requests, disable_tqdm=True)
        self._progress.advance(len(requests))
        return result


@contextmanager
def quiet() -> Iterator[None]:
    """Hide lm-eval's progress bars and its warnings about settings that are chosen on purpose."""
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
