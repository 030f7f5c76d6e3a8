"""A model variant that the run's vLLM engine serves, and the lm-eval model over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM

from harness.benchmarks.answerer import canary, idle
from harness.benchmarks.decode import Stop, make_stop
from harness.benchmarks.engine import Engines
from harness.benchmarks.generation import Completion, Sampling
from harness.benchmarks.recording import Recorder, RecordingLM, cut_at
from harness.benchmarks.trace_loss import NO_LOSS
from harness.config import digest
from harness.contract.progress import SilentProgress
from harness.errors import ModelError, UsageError
from harness.model.lora_folder import LoraFolder, read_lora, write_without
from harness.model.subject import checked_chat_hash, load_tokenizer, weights_of

if TYPE_CHECKING:
    from harness.benchmarks.engine import Engine
    from harness.contract.context import RunContext
    from harness.contract.progress import Progress
    from harness.contract.settings import EvaluateConfig
    from harness.model.chat import ChatFormat
    from harness.model.components import Component
    from harness.model.loss import Loss
    from harness.model.subject import Subject
    from harness.records import Checkpoint, ModelRef, Trace


def serve(
    engines: Engines,
    base: ModelRef,
    chat: ChatFormat,
    checkpoint: Checkpoint | None = None,
    *,
    rank: int = 1,
    probe: bool = True,
) -> Served:
    """A variant behind the run's engine, which is restarted if it serves another model.

    Args:
        engines: of the run.
        base: the base model.
        chat: format of its prompts.
        checkpoint: an adapter, which the engine loads by request, or a full fine-tune.
        rank: largest rank of the adapters that this engine will serve.
        probe: whether the adapter must change the model's output.

    Raises:
        UsageError: vLLM is not installed.
        ModelError: vLLM cannot serve it, or the checkpoint was trained on another chat format.
    """
    tokenizer = load_tokenizer(base)
    chat_hash = checked_chat_hash(chat, tokenizer, checkpoint)
    adapter = read_lora(checkpoint.path) if checkpoint is not None and checkpoint.kind == "adapter" else None
    engine = engines.get(weights_of(base, checkpoint), base, max(rank, adapter.rank if adapter else 1))
    return Served(engine, chat.resolved(tokenizer), chat_hash, tokenizer, adapter, probe)


def serve_subject(subject: Subject, run: RunContext, off: Sequence[Component]) -> Served:
    """A loaded subject with components off, as a PEFT folder in the step's folder. Its weights leave the GPU.

    Raises:
        ModelError: vLLM cannot serve it.
    """
    if not isinstance(run.engines, Engines):
        raise UsageError("evaluate.backend=vllm needs the run's engines (RunContext.engines)")
    if subject.device != "cpu":
        subject.model.to("cpu")
        torch.cuda.empty_cache()
    checkpoint = subject.checkpoint
    if checkpoint is not None and off:
        out = run.out_dir / f"without-{digest(sorted(c.name for c in off))[:12]}"
        out = write_without(checkpoint.path, subject.components, off, out)
        checkpoint = checkpoint.model_copy(update={"path": out})
    names = {c.name for c in off}
    left = any(c.write_norm * c.a_norm > 0 for c in subject.components if c.name not in names)
    return serve(run.engines, subject.base, subject.chat, checkpoint, probe=left)


@dataclass
class Served:
    """A variant that an engine serves.

    Attributes:
        chat: format of its prompts.
        chat_hash: hash of its chat format.
    """

    _engine: Engine
    chat: ChatFormat
    chat_hash: str
    _tokenizer: Any
    _adapter: LoraFolder | None
    _probe: bool

    @property
    def engine(self) -> str:
        """The engine's fingerprint."""
        return self._engine.fingerprint

    def losses(self, traces: Sequence[Trace], progress: Progress) -> list[Loss]:
        """Not through vLLM.

        Raises:
            UsageError: always.
        """
        raise UsageError(NO_LOSS)

    def check(self) -> int | None:
        """Number of modules that the engine applies the adapter to; None without an adapter.

        Raises:
            ModelError: it is not the adapter's number, or the log-probabilities of a prompt equal the base model's.
        """
        if self._adapter is None:
            return None
        request, n_bound = self._engine.bind(self._adapter)
        n = len(self._adapter.modules)
        if n_bound != n:
            raise ModelError(
                f"the adapter {self._adapter.path} has {n} modules and vLLM binds {n_bound} of them: it would measure "
                "another model; use --set evaluate.backend=hf"
            )
        if self._probe:
            prompt = [self._tokenizer.encode(canary(self.chat, self._tokenizer), add_special_tokens=False)]
            on, off = (self._engine.read(prompt, adapter, SilentProgress()) for adapter in (request, None))
            if on == off:
                raise ModelError(idle(str(self._adapter.path), n_bound))
        return n_bound

    @contextmanager
    def answering(self, settings: EvaluateConfig, seed: int, progress: Progress) -> Iterator[EngineLM]:
        """The lm-eval model over the engine."""
        adapter = self._engine.bind(self._adapter)[0] if self._adapter else None
        yield EngineLM(self._engine, adapter, self.chat, self._tokenizer, settings, seed, progress)


class EngineLM(RecordingLM, TemplateLM):
    """An lm-eval model over an engine. All prompts are sent at once, each with its own seed."""

    def __init__(
        self,
        engine: Engine,
        adapter: Any,
        chat: ChatFormat,
        tokenizer: Any,
        settings: EvaluateConfig,
        seed: int,
        progress: Progress,
    ) -> None:
        """Store what it needs; `adapter` is the engine's request for it."""
        super().__init__()
        self.tokenizer = tokenizer
        self._engine, self._adapter, self._chat, self._progress = engine, adapter, chat, progress
        self._recorder = Recorder(self, chat, settings, seed)

    @property
    def tokenizer_name(self) -> str:
        """Part of lm-eval's cache key of prompts."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        """The token that replaces an empty context."""
        return int(self.tokenizer.eos_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids, without further special tokens."""
        return list(self.tokenizer.encode(string, add_special_tokens=False))

    def write(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """Continue prompts by up to `max_tokens`, or up to the end of the context if that comes first.

        Raises:
            UsageError: a prompt leaves no room for an answer.
        """
        from vllm import SamplingParams

        encoded = [self.tok_encode(p) for p in prompts]
        self._refuse_long(encoded)
        stop = make_stop(self.tokenizer, sampling.stop, self._engine.ends)
        common = {
            "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0, "repetition_penalty": 1.0,
            "stop": list(stop.strings) or None, "stop_token_ids": list(stop.ids), "ignore_eos": True,  # ends are ours
            "detokenize": bool(stop.strings), "skip_special_tokens": False,
        }  # fmt: skip
        samplings = [
            SamplingParams(
                max_tokens=min(sampling.max_tokens, self._engine.context - len(ids)),
                seed=seed if sampling.temperature > 0 else None,
                **common,
            )
            for ids, seed in zip(encoded, seeds, strict=True)
        ]
        written = self._engine.write(encoded, samplings, self._adapter, self._progress)
        return [self._completed(w.ids, w.finish, sampling, stop) for w in written]

    def _completed(self, ids: list[int], finish: str, sampling: Sampling, stop: Stop) -> Completion:
        if finish not in ("stop", "length"):
            raise ModelError(f"vLLM ended an answer with {finish!r}")
        without_end = ids[:-1] if ids and ids[-1] in stop.ids else ids
        text = cut_at(str(self.tokenizer.decode(without_end, skip_special_tokens=False)), sampling.stop)
        return Completion(text, "length" if finish == "length" else "stop", len(ids))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of every request's continuation."""
        results: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return results

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """For each (context, continuation): the log-likelihood, and whether greedy decoding would write it."""
        self._progress.start(len(requests), "item")
        self._refuse_long([context + continuation for _, context, continuation in requests])
        read = self._engine.read([c + d for _, c, d in requests], self._adapter, self._progress)
        ends = [tokens[len(tokens) - len(d) :] for tokens, (_, _, d) in zip(read, requests, strict=True)]
        return [(sum(log for log, _ in tokens), all(best for _, best in tokens)) for tokens in ends]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Refuse perplexity of whole documents, which is not read through vLLM.

        Raises:
            UsageError: always.
        """
        raise UsageError("tasks of whole documents' perplexity (loglikelihood_rolling) need --set evaluate.backend=hf")

    def _refuse_long(self, encoded: Sequence[list[int]]) -> None:
        longest = max((len(ids) for ids in encoded), default=0)
        if longest >= self._engine.context:
            raise UsageError(
                f"a prompt of {longest} tokens leaves no room in the engine's {self._engine.context}; raise "
                "evaluate.max_model_len where the model reads more"
            )
