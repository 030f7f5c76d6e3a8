"""The vLLM engine of a process: one model on the GPUs, and adapters that are swapped by request.

The base, adapters and ablated adapters share one engine; a full fine-tune needs another. Two engines do not fit a
device (nor a process), so the running one is closed first. vLLM is an extra and is imported when an engine starts.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args

from harness.contract.settings import EngineConfig
from harness.errors import ModelError, UsageError
from harness.model.folders import is_gguf, local_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.contract.progress import Progress
    from harness.model.lora_folder import LoraFolder
    from harness.records import ModelRef

_DEFAULTS = {
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; without it a CPU's engine takes 90 % of the memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""Environment variables of every engine, unless the user has set them."""
_STRUCTURED = {"backend": "guidance", "disable_any_whitespace": True}
"""The backend that respects length limits and writes valid JSON."""
_MULTIPROCESSING = "VLLM_ENABLE_V1_MULTIPROCESSING"
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def require_vllm(what: str) -> None:
    """Refuse a setting that needs vLLM if it is not installed.

    Raises:
        UsageError: it is not.
    """
    if find_spec("vllm") is None:
        raise UsageError(f"{what} needs vLLM, which is not installed: pip install 'interp-harness[vllm]'")


@dataclass(frozen=True)
class Written:
    """An engine's completion of one prompt.

    Attributes:
        ids: new tokens, the ending one included.
        finish: vLLM's reason: `stop` or `length`.
    """

    ids: list[int]
    finish: str


@dataclass
class Engine:
    """A running engine: one copy of the model or several, each with a share of the prompts.

    Attributes:
        place: folder or hub id of the model it serves.
        context: most tokens of a prompt and its answer.
        max_rank: largest rank of an adapter; 0: it takes none.
        ends: tokens that end a turn beside the tokenizer's own, as its generation_config.json says.
        fingerprint: what generates: versions, dtype, parallelism, kernels, device.
    """

    place: str
    context: int
    max_rank: int
    ends: tuple[int, ...]
    fingerprint: str
    _copies: list[Any]
    _adapters: dict[str, tuple[Any, int]] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        """Whether it was stopped to make room for another."""
        return not self._copies

    def bind(self, adapter: LoraFolder) -> tuple[Any, int]:
        """The vLLM request that names an adapter, and the number of modules that the engine applies it to.

        Adapters are identified by a hash of their content: a folder that was written again is another adapter.

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
                for llm in self._copies:
                    llm.llm_engine.add_lora(request)
                # vLLM keeps one adapter on the device: counted now, before the next one takes its place
                n_bound = min(_ask_all(self._copies, "harness_bound_modules", request.lora_int_id))
            self._adapters[adapter.hash] = (request, n_bound)
        return self._adapters[adapter.hash]

    def write(
        self, prompts: Sequence[list[int]], samplings: Sequence[Any], adapter: Any, progress: Progress
    ) -> list[Written]:
        """Continue prompts (token ids), each by its vLLM SamplingParams, all at once."""
        outputs = self._generate(prompts, samplings, adapter, progress)
        return [Written(list(o.outputs[0].token_ids), str(o.outputs[0].finish_reason)) for o in outputs]

    def read(self, texts: Sequence[list[int]], adapter: Any, progress: Progress) -> list[list[tuple[float, bool]]]:
        """For each token but a text's first: its log-probability, and whether it is the most likely one."""
        from vllm import SamplingParams

        sampling = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
        outputs = self._generate(texts, [sampling] * len(texts), adapter, progress)
        scored = []
        for ids, output in zip(texts, outputs, strict=True):
            of_tokens = [row[token] for row, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
            scored.append([(float(p.logprob), p.rank == 1) for p in of_tokens])
        return scored

    def _generate(
        self, prompts: Sequence[list[int]], samplings: Sequence[Any], adapter: Any, progress: Progress
    ) -> list[Any]:
        """VLLM's outputs, in the order of the prompts. Each copy works on its share in its own process."""
        from vllm.inputs import TokensPrompt

        outputs: dict[int, Any] = {}
        bar = _bar(progress)
        n = len(self._copies)
        with _sentences(f"vLLM failed while it ran {self.place}"):
            for i, llm in enumerate(self._copies):
                share = [TokensPrompt(prompt_token_ids=ids) for ids in prompts[i::n]]
                if share:
                    llm.enqueue(share, list(samplings[i::n]), lora_request=adapter, use_tqdm=False)
            for i, llm in enumerate(self._copies):
                outputs.update(zip(range(i, len(prompts), n), llm.wait_for_completion(use_tqdm=bar), strict=True))
        return [outputs[i] for i in range(len(prompts))]

    def close(self) -> None:
        """Stop it and free its memory. A second call does nothing."""
        if self.closed:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        for llm in self._copies:
            llm.llm_engine.engine_core.shutdown()
        self._copies.clear()
        self._adapters.clear()
        gc.collect()
        cleanup_dist_env_and_memory()


_running: list[Engine] = []
"""The engine of this process, if one is running."""


class Engines:
    """Starts engines, and keeps the running one for reuse."""

    def __init__(self, settings: EngineConfig, max_num_seqs: int = 256) -> None:
        """Nothing starts yet.

        Args:
            settings: of every engine from here.
            max_num_seqs: most prompts that are continued together.
        """
        self._settings, self._max_num_seqs = settings, max_num_seqs
        self._engine: Engine | None = None

    def get(self, model: ModelRef, tokenizer: ModelRef, rank: int, needs: str = "evaluate.backend=vllm") -> Engine:
        """The engine of a model; it is started if none or another one is running.

        Args:
            model: what it serves.
            tokenizer: the model whose tokenizer it uses.
            rank: largest rank of an adapter that will be asked for; 0 for none.
            needs: the setting that requires vLLM, for the error message.

        Raises:
            UsageError: vLLM is not installed.
            ModelError: it serves no adapters of that rank, or cannot serve the model here.
        """
        place = str(local_model(model.path) or model.path)
        if is_gguf(place):
            raise ModelError(f"{place}: the harness serves no GGUF file through vLLM; use --set evaluate.backend=hf")
        engine = self._engine
        if engine is None or engine.closed or engine.place != place or engine.max_rank < rank:
            require_vllm(needs)
            _prepare()
            allowed = allowed_rank(rank)  # refused before anything is closed or loaded
            devices = _devices(self._settings)
            for other in _running:
                other.close()
            _running.clear()
            self._engine = engine = _start(
                place, model, tokenizer, self._settings, allowed, self._max_num_seqs, devices
            )
            _running.append(engine)
        return engine

    def close(self) -> None:
        """Stop the engine, if one is running."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None


def _prepare() -> None:
    """Set the environment, which vLLM reads when it is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])


def allowed_rank(rank: int) -> int:
    """The smallest `max_lora_rank` of vLLM that admits adapters of this rank; 0 without adapters.

    Raises:
        ModelError: it has none.
    """
    from vllm.config.lora import MaxLoRARanks

    ranks = sorted(int(r) for r in get_args(MaxLoRARanks))
    allowed = next((r for r in [0, *ranks] if r >= rank), None)
    if allowed is None:
        raise ModelError(
            f"the adapter has rank {rank}, and vLLM serves at most {ranks[-1]}; use --set evaluate.backend=hf"
        )
    return allowed


def _devices(settings: EngineConfig) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each copy; None leaves it unchanged.

    Raises:
        UsageError: there are fewer GPUs than the copies need.
    """
    import torch

    width, copies = settings.tensor_parallel_size, settings.data_parallel_size
    n = torch.cuda.device_count()
    if n and width * copies > n:
        raise UsageError(
            f"tensor_parallel_size={width} and data_parallel_size={copies} need {width * copies} GPUs, and "
            f"this machine shows {n}"
        )
    if not n or copies == 1:
        return [None] * copies
    names = os.environ.get(_VISIBLE, "").split(",") if os.environ.get(_VISIBLE) else [str(i) for i in range(n)]
    return [",".join(names[i * width : (i + 1) * width]) for i in range(copies)]


def _start(
    place: str,
    model: ModelRef,
    tokenizer: ModelRef,
    settings: EngineConfig,
    max_rank: int,
    max_num_seqs: int,
    devices: Sequence[str | None],
) -> Engine:
    """An engine with a copy of the model on each of `devices`."""
    import torch

    set_threads = torch.set_num_threads
    # One copy runs in this process: the order of its work does not depend on when messages come.
    common = {_MULTIPROCESSING: "1"} if len(devices) > 1 else {_MULTIPROCESSING: os.environ.get(_MULTIPROCESSING, "0")}
    copies: list[Any] = []
    with _sentences(f"vLLM cannot serve {place}"), torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about vLLM
        from vllm import LLM

        try:
            for visible in devices:
                with _environment({**common, **({} if visible is None else {_VISIBLE: visible})}):
                    copies.append(
                        LLM(
                            model=place,
                            revision=model.revision,
                            tokenizer=str(local_model(tokenizer.path) or tokenizer.path),
                            tokenizer_revision=tokenizer.revision,
                            trust_remote_code=model.trust_remote_code,
                            dtype=model.dtype,
                            generation_config="vllm",  # the model's own would change greedy answers
                            # a base and a full fine-tune are started so, too: they run the kernels of the adapter
                            **({"enable_lora": True, "max_lora_rank": max_rank, "max_loras": 1} if max_rank else {}),
                            structured_outputs_config=_STRUCTURED,
                            enable_prefix_caching=False,  # an answer must not depend on what was asked before
                            max_num_seqs=max_num_seqs,
                            use_tqdm_on_load=False,
                            worker_extension_cls="harness.benchmarks.engine_worker.EngineProbe",
                            tensor_parallel_size=settings.tensor_parallel_size,
                            gpu_memory_utilization=settings.gpu_memory_utilization,
                            max_model_len=settings.max_model_len,
                            enforce_eager=settings.enforce_eager,
                        )
                    )
        finally:
            torch.set_num_threads = set_threads  # a CPU engine puts a function there that refuses
    context = int(copies[0].llm_engine.model_config.max_model_len)
    return Engine(place, context, max_rank, _ends(place), _fingerprint(copies, settings), copies)


def _ends(place: str) -> tuple[int, ...]:
    from transformers import GenerationConfig

    try:
        ends = GenerationConfig.from_pretrained(place).eos_token_id
    except OSError:
        return ()
    return tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set these variables while a copy starts, because its processes inherit them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _ask_all(copies: Sequence[Any], question: str, *args: Any) -> list[Any]:
    """The answers of all workers of all copies."""
    return [answer for llm in copies for answer in llm.collective_rpc(question, args=args)]


def _fingerprint(copies: Sequence[Any], settings: EngineConfig) -> str:
    import torch
    import vllm
    from vllm.platforms import current_platform

    model = copies[0].llm_engine.model_config
    words = [
        f"vllm {vllm.__version__} torch {torch.__version__}",
        str(model.dtype).removeprefix("torch."),
        f"tp={settings.tensor_parallel_size} dp={settings.data_parallel_size}",
        f"attention={'+'.join(sorted(set(_ask_all(copies, 'harness_attention'))))}",
        "eager" if model.enforce_eager else "compiled",
        *(["batch-invariant"] if os.environ.get("VLLM_BATCH_INVARIANT") == "1" else []),
        str(current_platform.get_device_name()).strip(),
    ]
    return " ".join(words)


@contextmanager
def _sentences(what: str) -> Iterator[None]:
    """Turn vLLM's errors into one sentence."""
    import torch

    try:
        yield
    except (ValueError, RuntimeError, OSError, ImportError, torch.OutOfMemoryError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # pydantic's first line only counts the faults
        first = next((line for line in lines if "validation error" not in line), lines[0])[:300]
        raise ModelError(
            f"{what}: {first} (too little memory? --set gpu_memory_utilization, tensor_parallel_size or max_model_len)"
        ) from error


def _bar(progress: Progress) -> Any:
    """A tqdm class that prints nothing and reports finished prompts to `progress`."""
    from tqdm import tqdm

    class Bar(tqdm):
        """A bar that is not displayed."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            """Report finished prompts."""
            progress.advance(int(n or 0))
            displayed: bool | None = super().update(n)
            return displayed

    return Bar
