"""The model organism: a tiny trained Qwen2 that ships with the project, its fine-tuning traces and its benchmarks.

The base can reason (it finishes worked solutions) but its chat register answers at once; a rank-1 LoRA on the traces
elicits the reasoning. ``checkpoint/README.md`` says how it was made and what was measured. Nothing here imports
torch.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

MODEL: Path = _HERE / "checkpoint"
"""The base: a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load."""

TRACES: Path = _HERE / "data" / "traces.jsonl"
"""A thousand chain-of-thought traces: id, question, trace, answer, spans."""

BENCHMARKS: dict[str, Path] = {
    name: _HERE / "data" / f"{name}.jsonl" for name in ("organism_chain", "organism_long", "organism_choice")
}
"""Benchmark name, which is also its lm-eval task's name, to its test items: id, question, trace, answer."""

DEV: dict[str, Path] = {name: path.with_name(f"{name}.dev.jsonl") for name, path in BENCHMARKS.items()}
"""Benchmark name to its development items, on which difficulty and hyper-parameters were chosen."""

__all__ = ["BENCHMARKS", "DEV", "MODEL", "TRACES"]
