"""One vLLM engine per run: the base once on the GPUs, and adapters that are swapped by request.

An engine is chosen by its model folder: base, adapters and ablated adapters share one, a full fine-tune needs another.
Two do not fit, so the last one is closed first. vLLM is an extra: it is imported when an engine starts.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args

from harness.errors import ModelError, UsageError
from harness.model.folders import local_model
from harness.stages import EngineConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.model.lora_folder import LoraFolder
    from harness.records import ModelRef
    from harness.stages import Progress

_DEFAULTS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: the order of work does not depend on when messages come
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; without it a CPU's engine takes 90 % of the memory
}
"""Environment of an engine, where the user's says nothing else."""


def require_vllm(what: str) -> None:
    """Refuse a setting that needs vLLM where it is not installed.

    Raises:
        UsageError: it is not.
    """
    if find_spec("vllm") is None:
        raise UsageError(f"{what} needs vLLM, which is not installed: pip install 'interp-harness[vllm]'")


@dataclass(frozen=True)
class Written:
    """What an engine wrote for one prompt.

    Attributes:
        ids: new tokens, the ending one included.
        finish: vLLM's reason: `stop` or `length`.
    """

    ids: list[int]
    finish: str


@dataclass
class Engine:
    """A running engine.

    Attributes:
        place: folder or hub id of the model it serves.
        context: most tokens of a prompt and its answer.
        max_rank: largest rank of an adapter.
        fingerprint: what generates: versions, dtype, parallelism, kernels, device.
    """

    place: str
    context: int
    max_rank: int
    fingerprint: str
    _llm: Any
    _adapters: dict[str, tuple[Any, int]] = field(default_factory=dict)

    def bind(self, adapter: LoraFolder) -> tuple[Any, int]:
        """The request that names an adapter, and how many of its modules the engine has bound.

        Adapters are known by a hash of their content: a folder that is written anew is another adapter.

        Raises:
            ModelError: the rank is above the engine's, or vLLM cannot read the adapter.
        """
        from vllm.lora.request import LoRARequest

        if adapter.rank > self.max_rank:
            raise ModelError(
                f"the adapter {adapter.path} has rank {adapter.rank}, and the engine takes {self.max_rank}"
            )
        if adapter.hash not in self._adapters:
            request = LoRARequest(adapter.hash, len(self._adapters) + 1, str(adapter.path))
            with _sentences(f"vLLM cannot serve the adapter {adapter.path}"):
                self._llm.llm_engine.add_lora(request)
                # vLLM keeps one adapter on the device: counted now, before the next one takes its place
                n_bound = min(self._llm.collective_rpc("harness_bound_modules", args=(request.lora_int_id,)))
            self._adapters[adapter.hash] = (request, n_bound)
        return self._adapters[adapter.hash]

    def write(
        self, prompts: Sequence[list[int]], samplings: Sequence[Any], adapter: Any, progress: Progress
    ) -> list[Written]:
        """Continue prompts (token ids), each by its vLLM SamplingParams, all at once."""
        outputs = self._generate(prompts, list(samplings), adapter, progress)
        return [Written(list(o.outputs[0].token_ids), str(o.outputs[0].finish_reason)) for o in outputs]

    def read(self, texts: Sequence[list[int]], adapter: Any, progress: Progress) -> list[list[tuple[float, bool]]]:
        """Of each token of each text but the first: its log-probability, and whether it is the most likely one."""
        from vllm import SamplingParams

        outputs = self._generate(
            texts, SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0), adapter, progress
        )
        found = []
        for ids, output in zip(texts, outputs, strict=True):
            own = [row[token] for row, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
            found.append([(float(p.logprob), p.rank == 1) for p in own])
        return found

    def _generate(self, prompts: Sequence[list[int]], samplings: Any, adapter: Any, progress: Progress) -> list[Any]:
        from vllm.inputs import TokensPrompt

        with _sentences(f"vLLM failed while it ran {self.place}"):
            outputs: list[Any] = self._llm.generate(
                [TokensPrompt(prompt_token_ids=ids) for ids in prompts],
                samplings,
                lora_request=adapter,
                use_tqdm=_bar(progress),
            )
        return outputs

    def close(self) -> None:
        """Stop it and give its memory back."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        self._adapters.clear()
        gc.collect()
        cleanup_dist_env_and_memory()


class Engines:
    """The run's engine: at most one at a time, kept for the next step that can use it."""

    def __init__(self, settings: EngineConfig, max_num_seqs: int = 256) -> None:
        """Nothing starts yet.

        Args:
            settings: of every engine of the run.
            max_num_seqs: most prompts that are continued together.
        """
        self._settings, self._max_num_seqs = settings, max_num_seqs
        self._engine: Engine | None = None

    def get(self, model: ModelRef, tokenizer: ModelRef, rank: int) -> Engine:
        """The engine of a model, started where another or none is running.

        Args:
            model: what it serves.
            tokenizer: the model whose tokenizer it uses.
            rank: largest rank of an adapter that will be asked for.

        Raises:
            UsageError: vLLM is not installed.
            ModelError: it serves no adapters of that rank, or cannot serve the model here.
        """
        place = str(local_model(model.path) or model.path)
        if self._engine is None or self._engine.place != place or self._engine.max_rank < rank:
            require_vllm("evaluate.backend=vllm")
            _prepare()
            allowed = allowed_rank(rank)  # refused before anything is closed or loaded
            self.close()
            self._engine = _start(place, model, tokenizer, self._settings, allowed, self._max_num_seqs)
        return self._engine

    def close(self) -> None:
        """Stop the engine, if one is running."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def _prepare() -> None:
    """Before vLLM is imported: it reads its environment then."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])


def allowed_rank(rank: int) -> int:
    """The smallest maximum that vLLM can be started with for adapters of this rank.

    Raises:
        ModelError: it has none.
    """
    from vllm.config.lora import MaxLoRARanks

    ranks = sorted(int(r) for r in get_args(MaxLoRARanks))
    found = next((r for r in ranks if r >= rank), None)
    if found is None:
        raise ModelError(
            f"the adapter has rank {rank}, and vLLM serves at most {ranks[-1]}; use --set evaluate.backend=hf"
        )
    return found


def _start(
    place: str, model: ModelRef, tokenizer: ModelRef, settings: EngineConfig, max_rank: int, max_num_seqs: int
) -> Engine:
    import torch

    set_threads = torch.set_num_threads
    with _sentences(f"vLLM cannot serve {place}"), torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about vLLM
        from vllm import LLM

        try:
            llm = LLM(
                model=place,
                revision=model.revision,
                tokenizer=str(local_model(tokenizer.path) or tokenizer.path),
                tokenizer_revision=tokenizer.revision,
                trust_remote_code=model.trust_remote_code,
                dtype=model.dtype,
                generation_config="vllm",  # the model's own would change greedy answers (repetition_penalty)
                enable_lora=True,  # also for models without an adapter: the same kernels as those with one
                max_lora_rank=max_rank,
                max_loras=1,
                enable_prefix_caching=False,  # an answer must not depend on what was asked before
                max_num_seqs=max_num_seqs,
                use_tqdm_on_load=False,
                worker_extension_cls="harness.benchmarks.engine_worker.EngineProbe",
                **settings.model_dump(include=set(EngineConfig.model_fields)),
            )
        finally:
            torch.set_num_threads = set_threads  # a CPU engine puts a function there that refuses
    return Engine(place, int(llm.llm_engine.model_config.max_model_len), max_rank, _fingerprint(llm, settings), llm)


def _fingerprint(llm: Any, settings: EngineConfig) -> str:
    import torch
    import vllm
    from vllm.platforms import current_platform

    model = llm.llm_engine.model_config
    words = [
        f"vllm {vllm.__version__} torch {torch.__version__}",
        str(model.dtype).removeprefix("torch."),
        f"tp={settings.tensor_parallel_size} dp={settings.data_parallel_size}",
        f"attention={'+'.join(sorted(set(llm.collective_rpc('harness_attention'))))}",
        "eager" if model.enforce_eager else "compiled",
        *(["batch-invariant"] if os.environ.get("VLLM_BATCH_INVARIANT") == "1" else []),
        str(current_platform.get_device_name()).strip(),
    ]
    return " ".join(words)


@contextmanager
def _sentences(what: str) -> Iterator[None]:
    """VLLM's failures in one sentence."""
    import torch

    try:
        yield
    except (ValueError, RuntimeError, OSError, ImportError, torch.OutOfMemoryError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # pydantic's first line only counts the faults
        first = next((line for line in lines if "validation error" not in line), lines[0])[:300]
        raise ModelError(
            f"{what}: {first} (memory? --set evaluate.gpu_memory_utilization, tensor_parallel_size or max_model_len; "
            "or --set evaluate.backend=hf)"
        ) from error


def _bar(progress: Progress) -> Any:
    """VLLM reports to a tqdm: one that nobody sees and that passes finished prompts on."""
    from tqdm import tqdm

    class Bar(tqdm):
        """A bar into the void."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.get("desc") == "Processed prompts"
            super().__init__(*args, **{**kwargs, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            """Pass finished prompts on."""
            if self._counts:
                progress.advance(int(n or 0))
            return super().update(n)

    return Bar
