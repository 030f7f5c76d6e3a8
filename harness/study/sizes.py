"""How big things are, by arithmetic: parameters, adapters, FLOPs, GPU-hours, bytes. Nothing is loaded.

Formulas: a forward pass is 2 FLOP per parameter and token (Kaplan et al. 2020, section 2.1). Training an adapter is 4
(forward, and the backward pass through the activations alone), a full fine-tune 6; recomputing activations adds 2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from harness.model.folders import is_gguf

EFFECTIVE_TFLOPS = 400.0
"""What one H200 does in bfloat16 on long sequences, half of its peak: training, capture, sweeps."""
DECODE_TFLOPS = 40.0
"""The same while generating in batches: bound by memory, about a tenth."""
CONTEXT_TOKEN_BYTES = 20.0
"""Of a token of a stored context, with its activation."""
CHARACTERS_PER_TOKEN = 3.0
"""Mathematical English under Qwen2.5's tokenizer gives 2.9 to 3.3."""


@dataclass(frozen=True)
class ModelSize:
    """A decoder's shape.

    Attributes:
        n_layers: blocks.
        hidden: width of the residual stream.
        intermediate: neurons per MLP.
        query: width of the queries of all heads.
        key: width of the keys (or values) of all heads.
        vocab: rows of the embedding.
        tied: whether the output matrix is the embedding.
        bias: whether q, k and v have biases.
        context: tokens that it takes; None where the config does not say.
    """

    n_layers: int
    hidden: int
    intermediate: int
    query: int
    key: int
    vocab: int
    tied: bool
    bias: bool
    context: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelSize:
        """The shape in a Hugging Face config of the Llama family (Qwen2, Llama, Mistral, ...) or of GPT-2.

        Raises:
            KeyError: the config lacks a field; the family is another one.
        """
        if config.get("model_type") == "gpt2":
            width = int(config["n_embd"])
            # Two matrices of 4 x width make GPT-2's MLP, three make Llama's: 8/3 of the width gives equal counts.
            return cls(int(config["n_layer"]), width, round(width * 8 / 3), width, width, int(config["vocab_size"]),
                       True, False, config.get("n_positions"))  # fmt: skip
        heads = int(config["num_attention_heads"])
        head = int(config.get("head_dim") or config["hidden_size"] // heads)
        return cls(
            n_layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            query=heads * head,
            key=int(config.get("num_key_value_heads") or heads) * head,
            vocab=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            bias=bool(config.get("attention_bias", config.get("model_type") == "qwen2")),
            context=config.get("max_position_embeddings"),
        )

    @classmethod
    def from_gguf(cls, file: Path) -> ModelSize:
        """The shape in the header of a GGUF file: widths are those of the first block's matrices, [inputs, outputs].

        Raises:
            KeyError: a matrix of the Llama family is not there; the family is another one.
            ValueError: the file is no GGUF file.
        """
        from gguf import GGUFReader

        reader = GGUFReader(file)
        shapes = {tensor.name: [int(n) for n in tensor.shape] for tensor in reader.tensors}
        architecture = reader.fields["general.architecture"].contents()
        context = reader.get_field(f"{architecture}.context_length")
        return cls(
            n_layers=int(reader.fields[f"{architecture}.block_count"].contents()),
            hidden=shapes["token_embd.weight"][0],
            intermediate=shapes["blk.0.ffn_up.weight"][1],
            query=shapes["blk.0.attn_q.weight"][1],
            key=shapes["blk.0.attn_k.weight"][1],
            vocab=shapes["token_embd.weight"][1],
            tied="output.weight" not in shapes,
            bias="blk.0.attn_q.bias" in shapes,
            context=None if context is None else int(context.contents()),
        )

    @property
    def n_parameters(self) -> int:
        """All weights."""
        bias = self.query + 2 * self.key if self.bias else 0
        attention = 2 * self.hidden * self.query + 2 * self.hidden * self.key + bias
        block = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.vocab * self.hidden * (1 if self.tied else 2) + self.n_layers * block + self.hidden

    def adapter_parameters(self, rank: int, modules: Sequence[str], n_layers: int | None = None) -> int:
        """Weights of a LoRA on these projections: rank x (inputs + outputs) of each matrix."""
        h, i, q, k = self.hidden, self.intermediate, self.query, self.key
        widths = {
            "q_proj": h + q, "k_proj": h + k, "v_proj": h + k, "o_proj": q + h,
            "gate_proj": h + i, "up_proj": h + i, "down_proj": i + h,
        }  # fmt: skip
        return rank * sum(widths.get(m, 0) for m in modules) * (self.n_layers if n_layers is None else n_layers)


def model_size(path: str, folder: Path) -> ModelSize | None:
    """The shape of a model: from its folder or GGUF file, the hub's local cache or `known_sizes.yaml`; None if none
    has it, or the package that reads a GGUF file is not installed."""
    if is_gguf(folder) and folder.is_file():
        return _gguf_size(folder, folder.stat().st_mtime_ns) if find_spec("gguf") else None
    config = folder / "config.json"
    if not config.is_file():
        config = _cached_config(path) or config
    try:
        if config.is_file():
            return ModelSize.from_config(json.loads(config.read_text(encoding="utf-8")))
        written_down = _known_sizes()["models"].get(path)
        return ModelSize.from_config(written_down) if written_down else None
    except (KeyError, ValueError, TypeError):
        return None


def data_tokens(path: str) -> tuple[int, int] | None:
    """(traces, tokens) of a data set, from `known_sizes.yaml`; None if it does not name it."""
    row = _known_sizes()["datasets"].get(path)
    return (int(row["n_traces"]), int(row["n_tokens"])) if row else None


def benchmark_items(name: str) -> int | None:
    """Items of a benchmark, from `known_sizes.yaml`; None if it does not name it."""
    n = _known_sizes()["benchmarks"].get(name)
    return None if n is None else int(n)


def forward_flops(n_parameters: int, n_tokens: float) -> float:
    """Of reading tokens."""
    return 2.0 * n_parameters * n_tokens


def training_flops(n_parameters: int, n_tokens: float, *, adapter: bool, recompute: bool = False) -> float:
    """Of training on tokens (all epochs counted)."""
    return (4.0 if adapter else 6.0) * n_parameters * n_tokens + (2.0 * n_parameters * n_tokens if recompute else 0.0)


def gpu_hours(flops: float, *, decoding: bool = False) -> float:
    """Hours of one H200 at the rate that is assumed above."""
    return flops / ((DECODE_TFLOPS if decoding else EFFECTIVE_TFLOPS) * 1e12) / 3600


def training_bytes(size: ModelSize, n_tokens: float) -> float:
    """Of what a backward pass in float32 needs of a batch: norms, projections, MLP, and logits with their gradient."""
    per_layer = 16 * size.hidden + 2 * (size.query + 2 * size.key) + 5 * size.intermediate
    return 4.0 * n_tokens * (size.n_layers * per_layer + 3 * size.vocab)


def activation_bytes(n_columns: int, n_tokens: float, dtype: str = "float16") -> float:
    """Of dense shards (paper-spec 1.2: 448 columns in float16 are 896 bytes a token)."""
    return n_columns * n_tokens * (2 if dtype == "float16" else 4)


def memory_bytes(n_parameters: int, dtype: str, *, trained: int = 0) -> float:
    """Of weights, and of the float32 weights, gradients and AdamW moments of `trained` parameters. No activations."""
    return n_parameters * {"float32": 4, "float16": 2, "bfloat16": 2}.get(dtype, 4) + 16.0 * trained


@cache
def _gguf_size(file: Path, _: int) -> ModelSize | None:
    """Read once: the header has the tokenizer's words, which takes seconds. A file may change: `_` is its time."""
    try:
        return ModelSize.from_gguf(file)
    except (KeyError, ValueError):
        return None


@cache
def _known_sizes() -> dict[str, dict[str, Any]]:
    text = files("harness.study").joinpath("known_sizes.yaml").read_text(encoding="utf-8")
    sizes: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return sizes


def _cached_config(path: str) -> Path | None:
    """config.json in the hub's local cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(path, "config.json")
    except (HFValidationError, OSError):
        return None
    return Path(file) if isinstance(file, str) else None
