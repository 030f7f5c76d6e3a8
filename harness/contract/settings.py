"""Settings of a study that plugins see: how benchmarks are run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from harness.config import Config

TRACE_LOSS = "trace_loss"
"""Benchmark: cross-entropy of held-out traces' responses."""
OPENS_TRACE = "opens_trace"
"""Benchmark: share of answers that open a reasoning trace."""
OF_TRACES = (TRACE_LOSS, OPENS_TRACE)
"""Benchmarks that read the study's held-out traces, and measure no accuracy."""


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
    """lm-eval task names: the harness's own, those in `task_paths`, or lm-eval's. `trace_loss` is the cross-entropy of
    held-out traces' responses, `opens_trace` the share of answers to their questions that open a reasoning trace."""
    limit: PositiveInt | None = None
    """First n items of each benchmark; None is all."""
    task_paths: tuple[str, ...] = ()
    """Folders with lm-eval task YAMLs of your own."""
    data: dict[str, str] = Field(default_factory=dict)
    """Benchmark -> local JSON Lines or Parquet file that takes the place of its hub data set (same fields). For
    `trace_loss` and `opens_trace` it takes the place of the held-out traces, and all traces are trained on."""
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

    @property
    def reads_held_out(self) -> bool:
        """Whether a benchmark reads the study's held-out traces, which no trainer may then read."""
        return any(name in OF_TRACES and name not in self.data for name in self.benchmarks)
