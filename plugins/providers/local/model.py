"""A model in this process: waiting requests are generated as one batch, in a separate thread.

Temperature and penalties in a model's generation_config.json are ignored, so that a greedy answer is greedy. A request
with a temperature is generated alone, with its hash as seed, so that its answer does not depend on other requests.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig

from harness.errors import HarnessError, ProviderError
from harness.llm.errors import Refused, Retryable
from harness.model.batching import context_length
from harness.model.chat import ChatFormat
from harness.model.subject import load_base, load_tokenizer
from harness.records import LLMReply, LLMRequest, ModelRef

from . import LocalConfig
from .constrain import Constraints, Grammars

_GATHER_S = 0.005
"""How long the first request of a batch waits for others."""


@dataclass(frozen=True)
class _Loaded:
    model: Any
    tokenizer: Any
    stops: tuple[int, ...]
    grammars: Grammars | None


@dataclass
class _Pending:
    request: LLMRequest
    answer: asyncio.Future[LLMReply]
    ids: list[int] = field(default_factory=list)


class LocalModel:
    """Answers with transformers. Models stay loaded, one at a time."""

    name = "local"

    def __init__(self, config: LocalConfig) -> None:
        self.config = config
        self._loaded: tuple[str, _Loaded] | None = None
        self._waiting: list[_Pending] = []
        self._worker: asyncio.Task[None] | None = None

    async def complete(self, request: LLMRequest) -> LLMReply:
        """One attempt.

        Raises:
            Refused: the prompt is longer than the model's context.
            Retryable: the device ran out of memory.
            ProviderError: no model is named, or it cannot be loaded.
        """
        if not request.model:
            raise ProviderError(f"{self.name}: no model is named; use --provider {self.name}:FOLDER")
        pending = _Pending(request, asyncio.get_running_loop().create_future())
        self._waiting.append(pending)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await pending.answer

    async def aclose(self) -> None:
        """Wait for the batch that is being generated: a thread cannot be stopped."""
        if self._worker is not None:
            self._waiting.clear()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None

    async def _work(self) -> None:
        await asyncio.sleep(_GATHER_S)
        while self._waiting:
            batch = self._next_batch()
            if batch:
                await self._answer(batch)

    def _next_batch(self) -> list[_Pending]:
        """Remove and return the next batch of waiting requests."""
        self._waiting = [p for p in self._waiting if not p.answer.done()]
        if not self._waiting:
            return []
        together = self._alike(self._waiting)[: self.config.batch_size]
        self._waiting = [p for p in self._waiting if p not in together]
        return together

    def _alike(self, waiting: list[_Pending]) -> list[_Pending]:
        """The waiting requests that can be generated with the first: same model, all greedy; a sampled one is alone."""
        first = waiting[0].request
        if first.temperature:
            return waiting[:1]
        return [p for p in waiting if p.request.model == first.model and not p.request.temperature]

    async def _answer(self, batch: list[_Pending]) -> None:
        try:
            replies = await asyncio.to_thread(self._generate, [p.request for p in batch])
        except torch.OutOfMemoryError:
            replies = [Retryable(f"out of memory with {len(batch)} requests: lower local.batch_size")] * len(batch)
        except HarnessError as error:
            replies = [error] * len(batch)
        for pending, reply in zip(batch, replies, strict=True):
            if pending.answer.done():
                continue  # given up meanwhile
            if isinstance(reply, HarnessError):
                pending.answer.set_exception(reply)
            else:
                pending.answer.set_result(reply)

    def _generate(self, requests: list[LLMRequest]) -> list[LLMReply | HarnessError]:
        loaded = self._load(requests[0].model)
        prompts = [encode(loaded.tokenizer, request) for request in requests]
        longest = context_length(loaded.model)
        replies_by_index: dict[int, LLMReply | HarnessError] = {}
        for i, ids in enumerate(prompts):
            if longest is not None and len(ids) >= longest:
                replies_by_index[i] = Refused(f"the prompt has {len(ids)} tokens, and the model reads {longest}")
        fitting = [i for i in range(len(requests)) if i not in replies_by_index]
        if fitting:
            answers = self._run(loaded, [requests[i] for i in fitting], [prompts[i] for i in fitting], longest)
            replies_by_index.update(zip(fitting, answers, strict=True))
        return [replies_by_index[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _run(
        self, loaded: _Loaded, requests: list[LLMRequest], prompts: list[list[int]], longest: int | None
    ) -> list[LLMReply]:
        width = max(len(ids) for ids in prompts)
        pad = loaded.tokenizer.pad_token_id if loaded.tokenizer.pad_token_id is not None else loaded.stops[0]
        rows = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        most = max(request.max_tokens for request in requests)
        room = most if longest is None else min(most, longest - width)
        temperature = requests[0].temperature
        settings = GenerationConfig(
            max_new_tokens=max(1, room), do_sample=bool(temperature), pad_token_id=pad, eos_token_id=list(loaded.stops),
            **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}),
        )  # fmt: skip
        schemas = [request.json_schema for request in requests]
        constraints = [Constraints(loaded.grammars, schemas)] if loaded.grammars and any(schemas) else []
        seed = seed_of(requests[0])
        device = loaded.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            out = loaded.model.generate(
                input_ids=rows.to(device), attention_mask=mask.to(device), generation_config=settings,
                logits_processor=constraints,
            )  # fmt: skip
        replies = []
        for row, ids, request in zip(out[:, width:].tolist(), prompts, requests, strict=True):
            ends = [i for i, token in enumerate(row) if token in loaded.stops]
            new = row[: ends[0]] if ends else row
            finish = "stop" if ends and ends[0] < request.max_tokens else "length"
            new = new[: request.max_tokens]
            replies.append(
                LLMReply(
                    text=loaded.tokenizer.decode(new, skip_special_tokens=True),
                    finish_reason=finish,
                    model=request.model,
                    input_tokens=len(ids),
                    cached_tokens=0,
                    output_tokens=len(new),
                )
            )
        return replies

    def _load(self, name: str) -> _Loaded:
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # free the previous model first
            base = ModelRef(path=name, dtype=self.config.dtype)
            device = self.config.device
            if device == "auto":
                device = "cuda:0" if torch.cuda.is_available() else "cpu"
            tokenizer = load_tokenizer(base)
            require_chat(tokenizer, name)
            model = load_base(base, device).eval()
            ends = model.generation_config.eos_token_id
            # generate() would take unset values from the model's own config
            model.generation_config = GenerationConfig()
            stops = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
            grammars = Grammars(tokenizer, sorted(stops)) if self.config.structured_output else None
            self._loaded = (name, _Loaded(model, tokenizer, tuple(sorted(stops)), grammars))
        return self._loaded[1]


def encode(tokenizer: Any, request: LLMRequest) -> list[int]:
    """The request as token ids, by the model's chat template."""
    system = [{"role": "system", "content": request.system}] if request.system else []
    messages = [*system, {"role": "user", "content": request.user}]
    text = ChatFormat().chat_prompt(tokenizer, messages)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def seed_of(request: LLMRequest) -> int:
    """A seed that depends on the whole request, its repeat included. Below 2^60."""
    return int(hashlib.sha256(request.model_dump_json().encode()).hexdigest()[:15], 16)


def require_chat(tokenizer: Any, name: str) -> None:
    """Refuse a model that was not trained to chat.

    Raises:
        ProviderError: its tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ProviderError(f"local: {name} has no chat template: name a model that was trained to chat")
