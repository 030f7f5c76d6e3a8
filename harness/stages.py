"""The stages' contracts: one Protocol each, what a plugin registers, and what a run hands to it.

A plugin offers `Registration`s; the host picks one by name, validates its config, calls `load()` for the
implementation's class and constructs it with the config. No torch here: plugins import theirs inside `load`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from harness.calls import LLMCall, LLMReply, LLMRequest
from harness.config import Config, ProviderConfig
from harness.executors import Executor, LocalExecutor
from harness.judgements import ScoringAnswer, ScoringTest
from harness.records import (
    AblationScore,
    ActivationSet,
    Category,
    CategoryAssignment,
    Checkpoint,
    Dictionary,
    EvaluationResult,
    Evidence,
    Explanation,
    ModelRef,
    Trace,
)

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from scipy.sparse import csr_array

    from harness.benchmarks.engine import Engines
    from harness.llm.session import Session
    from harness.model.chat import ChatFormat
    from harness.model.subject import Subject

Stage = Literal["trainers", "probes", "dictionaries", "interpreters", "ablations", "providers"]
"""Folder = stage = hook = section of the report."""

STAGES: tuple[Stage, ...] = ("trainers", "probes", "dictionaries", "interpreters", "ablations", "providers")

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Registration(Generic[T_co]):
    """A named implementation that a plugin offers for a stage.

    Attributes:
        name: what users type; unique over all plugins.
        config: the Config class; its docstrings are the reference that `harness plugins show` prints.
        load: imports the implementation and returns a callable `config -> implementation`. Heavy imports belong here.
        summary: one line for `harness plugins`.
        version: part of every step's key: raise it when results change.
        scores: whether an interpreter also answers scoring tests (`Scorer`).
        asks_llm: whether an interpreter asks a provider; `--provider` chooses those that do.
        needs: names of plugins whose output this one reads (a dictionary needs its probe).
        fits: False for a dictionary learner that opens what was fitted elsewhere: there is no second fit.
        baseline: a dictionary that others are judged beside: scored like them, not explained unless asked.
    """

    name: str
    config: type[Config]
    load: Callable[[], Callable[[Any], T_co]]
    summary: str
    version: str = "1"
    needs: tuple[str, ...] = ()
    asks_llm: bool = False
    scores: bool = False
    fits: bool = True
    baseline: bool = False


class Progress(Protocol):
    """Where a step reports how far it is."""

    def start(self, total: int | None, unit: str) -> None:
        """Begin (or begin again) a bar of `total` `unit`s; None where the total is unknown."""

    def advance(self, n: int = 1) -> None:
        """`n` more units are done."""


class SilentProgress:
    """Progress that nobody watches."""

    def start(self, total: int | None, unit: str) -> None:
        """Ignore."""

    def advance(self, n: int = 1) -> None:
        """Ignore."""


class CallStore(Protocol):
    """The journal of LLM calls. The runner writes it; providers and interpreters never see the database."""

    def find(self, requests: Mapping[str, LLMRequest]) -> dict[str, LLMCall]:
        """Those of the calls (hash -> request) that are answered, whichever step asked."""
        ...

    def begin(self, calls: Sequence[LLMCall]) -> None:
        """Store durably that these calls (`begun`) are about to be sent."""
        ...

    def withdraw(self, keys: Sequence[str]) -> None:
        """Undo `begin` for calls that were not sent or were turned away."""
        ...

    def store(self, calls: Sequence[LLMCall]) -> None:
        """Keep calls, durably, all or none, before anything is made of them."""
        ...


class EngineConfig(Config):
    """How a vLLM engine runs. It takes the first GPUs that it sees."""

    tensor_parallel_size: PositiveInt = 1
    """vLLM: GPUs that share every matrix."""
    data_parallel_size: PositiveInt = 1
    """vLLM: copies of the model, each on `tensor_parallel_size` GPUs of its own, that share the items."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """vLLM: share of each GPU's memory that weights and KV cache may take."""
    max_model_len: PositiveInt | None = None
    """vLLM: most tokens of a prompt and its answer; None is the model's own context."""
    enforce_eager: bool = False
    """vLLM: compile nothing: it starts sooner and writes slower."""


class EvaluateConfig(EngineConfig):
    """How benchmarks are run, the same for every model variant. What is None is left to each task."""

    backend: Literal["hf", "vllm"] = "hf"
    """`hf` generates with transformers; `vllm` serves base and adapters from one engine, faster on GPUs. Where the
    context ends before `max_gen_toks` do, hf refuses the prompt and vllm writes up to there."""
    benchmarks: tuple[str, ...] = ()
    """lm-eval task names: the harness's own, those in `task_paths`, or lm-eval's."""
    limit: PositiveInt | None = None
    """First n items of each benchmark; None is all."""
    task_paths: tuple[str, ...] = ()
    """Folders with lm-eval task YAMLs of your own."""
    data: dict[str, str] = Field(default_factory=dict)
    """Benchmark -> local JSON Lines or Parquet file that takes the place of its hub data set (same fields)."""
    batch_size: PositiveInt = 256
    """Most prompts generated together."""
    max_gen_toks: PositiveInt | None = None
    """Most tokens of an answer, its reasoning included."""
    temperature: NonNegativeFloat | None = None
    """0 is greedy."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus of sampled answers."""
    repeats: PositiveInt | None = None
    """Answers per item: the score is avg@k, and pass@j is reported for j up to k. Needs a temperature above 0."""
    thinking_tokens: PositiveInt | None = None
    """Budget forcing: the reasoning trace is closed after so many tokens; None lets the model end it."""
    thinking_waits: NonNegativeInt = 0
    """Budget forcing: how many times a trace that ends before the budget is continued with "Wait"."""

    @model_validator(mode="after")
    def _repeats_differ(self) -> EvaluateConfig:
        if (self.repeats or 1) > 1 and self.temperature == 0:
            raise ValueError("repeats of a greedy answer are copies of it: set evaluate.temperature above 0")
        return self


@dataclass(frozen=True)
class RunContext:
    """What a run hands to a step.

    Attributes:
        out_dir: the step's own folder, kept across interruptions; write nowhere else.
        seed: this step's seed, derived from the run's seed and the step's name.
        device: torch device, e.g. `cpu` or `cuda:0`.
        repeat: index among repetitions of the same work; LLM requests carry it, so that each is answered anew.
        done: items of this step already stored by an attempt that was interrupted; skip them.
        progress: where to report how far the step is.
        calls: journal of LLM calls (interpreters only).
        provider: role (one of `harness.calls.ROLES`) -> (provider, model name); interpreters only.
        roles: roles that the study names an LLM of their own for; `default` answers for the others.
        llm: what all clients of the run share: the budget and what is spent of it; interpreters only.
        evaluate: how the study runs its benchmarks.
        engines: the run's vLLM engine, where `evaluate.backend` is vllm.
        executor: where maps over shards run: captures, sweeps, encoding.
    """

    out_dir: Path
    seed: int
    device: str = "cpu"
    repeat: int = 0
    done: frozenset[str] = frozenset()
    progress: Progress = field(default_factory=SilentProgress)
    calls: CallStore | None = None
    provider: Callable[[str], tuple[Provider, str]] | None = None
    evaluate: EvaluateConfig = field(default_factory=lambda: EvaluateConfig())
    roles: frozenset[str] = frozenset()
    llm: Session | None = None
    engines: Engines | None = None
    executor: Executor = field(default_factory=LocalExecutor)

    def generator(self) -> torch.Generator:
        """A CPU generator seeded with this step's seed."""
        import torch

        return torch.Generator().manual_seed(self.seed)


class Trainer(Protocol):
    """Makes a checkpoint from a base model and traces."""

    def train(self, base: ModelRef, traces: Sequence[Trace], chat: ChatFormat, run: RunContext) -> Checkpoint:
        """Train and return the checkpoint, saved under `run.out_dir`.

        Called again after an interruption, it goes on from its last checkpoint in `run.out_dir`.
        """
        ...


class Probe(Protocol):
    """Reads features over tokens."""

    def read(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> ActivationSet:
        """Run the traces through the model once and write the activations under `run.out_dir`."""
        ...


class Codec(Protocol):
    """A fitted dictionary, ready to encode."""

    def encode(self, x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token n_latents"]:
        """Codes of tokens. A token's code does not depend on its batch."""
        ...

    def encode_sparse(self, x: Float[torch.Tensor, "token d_in"]) -> csr_array:
        """The same codes, [token, n_latents] float32, holding only what is not 0."""
        ...

    def decode(self, z: Float[torch.Tensor, "token n_latents"]) -> Float[torch.Tensor, "token d_in"]:
        """Reconstruction from codes."""
        ...


class DictionaryLearner(Protocol):
    """Fits a dictionary on an activation set."""

    def fit(self, activations: ActivationSet, run: RunContext) -> Dictionary:
        """Fit on the training documents of the set, save under `run.out_dir`."""
        ...

    def load(self, dictionary: Dictionary) -> Codec:
        """Open a fitted dictionary."""
        ...


class Interpreter(Protocol):
    """Explains, grades and categorises features from their evidence."""

    def explain(self, evidence: Sequence[Evidence], run: RunContext) -> Iterator[Explanation]:
        """One Explanation per feature, also for those that fail (with a reason)."""
        ...

    def categorise(
        self, explained: Sequence[tuple[Explanation, Evidence]], run: RunContext
    ) -> Iterator[Category | CategoryAssignment]:
        """Categories first, then one assignment per feature."""
        ...


class Scorer(Protocol):
    """What an interpreter can do besides: say which contexts an explanation fits (`Registration.scores`)."""

    def answer(self, tests: Sequence[tuple[Explanation, ScoringTest]], run: RunContext) -> Iterator[ScoringAnswer]:
        """One answer per test, in any order, also for those that fail (with a reason)."""
        ...


class Ablation(Protocol):
    """Measures what parts of an adapter do, by switching them off through the tap."""

    def measure(
        self, subject: Subject, traces: Sequence[Trace], run: RunContext
    ) -> Iterator[AblationScore | EvaluationResult]:
        """Yield each cell as soon as it is measured; skip items in `run.done`."""
        ...


class Provider(Protocol):
    """Sends one request to an LLM. Knows its vendor's wire format and nothing else."""

    name: str
    """`openai`, `anthropic`, ...; part of the journal's hash."""

    @property
    def config(self) -> ProviderConfig:
        """Its settings. `config.identity()` is part of the journal's hash; the others say how fast it may be asked."""
        ...

    async def complete(self, request: LLMRequest) -> LLMReply:
        """One attempt, without retries of its own.

        Raises:
            harness.llm.errors.CallFailed: with what the client needs to decide about another attempt.
        """
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


AnyImplementation = Trainer | Probe | DictionaryLearner | Interpreter | Ablation | Provider

__all__ = [
    "STAGES",
    "Ablation",
    "AnyImplementation",
    "CallStore",
    "Codec",
    "DictionaryLearner",
    "Interpreter",
    "Probe",
    "Progress",
    "Provider",
    "Registration",
    "RunContext",
    "Scorer",
    "SilentProgress",
    "Stage",
    "Trainer",
]
