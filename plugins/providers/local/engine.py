"""A model in this process through vLLM: waiting requests are generated together, constrained to their schemas."""

from __future__ import annotations

import weakref
from typing import Any

from harness.benchmarks.engine import Engine, Engines, Written
from harness.contract.progress import SilentProgress
from harness.errors import HarnessError
from harness.llm.errors import Refused
from harness.model.subject import load_tokenizer
from harness.records import LLMReply, LLMRequest, ModelRef

from . import LocalConfig
from .model import LocalModel, _Pending, encode, require_chat, seed_of


class EngineModel(LocalModel):
    """Answers with vLLM. The engine is closed when another one starts, and started again when it is asked."""

    def __init__(self, config: LocalConfig) -> None:
        super().__init__(config)
        self._engines = Engines(config, config.batch_size)
        self._tokenizers: dict[str, Any] = {}
        weakref.finalize(self, self._engines.close)

    def _alike(self, waiting: list[_Pending]) -> list[_Pending]:
        """The waiting requests for the same model; sampled ones too, since each has its own seed."""
        return [p for p in waiting if p.request.model == waiting[0].request.model]

    def _generate(self, requests: list[LLMRequest]) -> list[LLMReply | HarnessError]:
        engine, tokenizer = self._open(requests[0].model)
        prompts = [encode(tokenizer, request) for request in requests]
        fits = [len(ids) < engine.context for ids in prompts]
        ends = [tokenizer.eos_token_id, *engine.ends]
        samplings = [
            self._sampling(r, engine.context - len(p), ends)
            for r, p, ok in zip(requests, prompts, fits, strict=True)
            if ok
        ]
        written = iter(
            engine.write([p for p, ok in zip(prompts, fits, strict=True) if ok], samplings, None, SilentProgress())
        )
        return [
            _reply(request, ids, next(written), tokenizer, ends)
            if ok
            else Refused(f"the prompt has {len(ids)} tokens, and the model reads {engine.context}")
            for request, ids, ok in zip(requests, prompts, fits, strict=True)
        ]

    def _open(self, name: str) -> tuple[Engine, Any]:
        base = ModelRef(path=name, dtype=self.config.dtype)
        if name not in self._tokenizers:
            tokenizer = load_tokenizer(base)
            require_chat(tokenizer, name)
            self._tokenizers[name] = tokenizer
        return self._engines.get(base, base, 0, "local.engine=vllm"), self._tokenizers[name]

    def _sampling(self, request: LLMRequest, room: int, ends: list[int]) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        constrained = self.config.structured_output is not False and request.json_schema is not None
        return SamplingParams(
            max_tokens=min(request.max_tokens, room),
            temperature=request.temperature or 0.0,
            top_k=0,
            seed=seed_of(request) if request.temperature else None,
            stop_token_ids=ends,
            detokenize=False,
            structured_outputs=StructuredOutputsParams(json=request.json_schema) if constrained else None,
        )


def _reply(request: LLMRequest, prompt: list[int], written: Written, tokenizer: Any, ends: list[int]) -> LLMReply:
    new = written.ids[:-1] if written.ids and written.ids[-1] in ends else written.ids
    return LLMReply(
        text=tokenizer.decode(new, skip_special_tokens=True),
        finish_reason=written.finish,
        model=request.model,
        input_tokens=len(prompt),
        cached_tokens=0,
        output_tokens=len(new),
    )
