"""Tiny real models, adapters, traces, activations and evidence, made in a second, and a journal in memory."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.model.chat import ChatFormat
from harness.records import (
    ActivationSet,
    Checkpoint,
    Evidence,
    Exemplar,
    LLMCall,
    LLMRequest,
    ModelRef,
    Trace,
)

Architecture = Literal["qwen2", "llama", "gpt2", "gemma", "mistral", "phi3"]
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>")
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tiny_traces(n: int = 8, seed: int = 0) -> list[Trace]:
    """`n` short sums with a trace, a verification move and multi-byte characters."""
    rng = random.Random(seed)
    traces = []
    for i in range(n):
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        text = f"First, {a} × {b} → {a * b}. Wait, let me check: {a} × {b} = {a * b}. Therefore {a * b}."
        traces.append(Trace(id=f"t{i}", question=f"a = {a}; b = {b}; what is a × b?", trace=text, answer=str(a * b)))
    return traces


def tiny_tokenizer(folder: Path) -> Any:
    """A byte-level BPE in Qwen2's style with a chat template, saved in `folder` and loaded by AutoTokenizer."""
    import json

    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import AutoTokenizer

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.decoder = decoders.ByteLevel()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    bpe.train_from_iterator([f"{t.question} {t.trace}" for t in tiny_traces(40)], trainer=trainer)
    bpe.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in _SPECIAL])
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|fim_pad|>",
        "unk_token": None, "extra_special_tokens": ["<|im_start|>", "<|im_end|>"], "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(_TEMPLATE)
    return AutoTokenizer.from_pretrained(folder)


def tiny_model(folder: Path, architecture: Architecture = "qwen2", *, layers: int = 2, seed: int = 0) -> ModelRef:
    """A random-weight model folder (hidden 32) with `tiny_tokenizer`'s tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny_tokenizer(folder)
    sizes = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 512, "tie_word_embeddings": True,
    }  # fmt: skip
    if architecture == "gemma":
        sizes |= {"head_dim": 16}
    if architecture == "gpt2":
        sizes = {"n_embd": 32, "n_layer": layers, "n_head": 2, "n_positions": 512}
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **sizes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return ModelRef(path=str(folder))


_TARGETS = {
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
}
_LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def tiny_adapter(
    base: ModelRef,
    folder: Path,
    *,
    rank: int = 1,
    rslora: bool = True,
    seed: int = 0,
    name: str = "default",
    chat: ChatFormat | None = None,
    **lora: Any,
) -> Checkpoint:
    """A LoRA folder whose A and B are random (not zero) and change the logits. `lora` goes to LoraConfig."""
    import torch
    from peft import LoraConfig, get_peft_model

    from harness.model.subject import load_base, load_tokenizer

    model = load_base(base)
    kind = model.config.model_type
    settings = {
        "r": rank,
        "lora_alpha": 4,
        "use_rslora": rslora,
        "target_modules": list(_TARGETS.get(kind, _LLAMA_TARGETS)),
        "fan_in_fan_out": kind == "gpt2",
        **lora,
    }
    peft_model = get_peft_model(model, LoraConfig(**settings), adapter_name=name)
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in peft_model.named_parameters():
        if "lora_" in key:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.15
    peft_model.save_pretrained(str(folder))
    place = folder if name == "default" else folder / name
    return Checkpoint(
        kind="adapter",
        path=place,
        base=base,
        chat_hash=(chat or ChatFormat()).hash(load_tokenizer(base)),
        n_parameters=sum(p.numel() for k, p in peft_model.named_parameters() if "lora_" in k),
        n_examples=0,
    )


def tiny_activations(
    folder: Path,
    documents: dict[str, Any],
    *,
    columns: tuple[str, ...] | None = None,
    signed: bool = True,
    source: str = "adapter-activations",
    **writer: Any,
) -> ActivationSet:
    """A set of given numbers: id -> [token, column], array or sparse. Its tokens are letters.

    `writer`: settings of ActivationWriter.
    """
    import numpy as np

    from harness.activations.store import ActivationWriter
    from harness.model.chat import Document

    width = next(iter(documents.values())).shape[1]
    columns = columns or tuple(f"L{i}.q_proj" for i in range(width))
    settings = {
        "layers": tuple(range(width)), "projections": ("q_proj",) * width, "signed": signed, "site": "made up",
        "chat_hash": "0", "dtype": "float32", **writer,
    }  # fmt: skip
    store = ActivationWriter(folder, source, columns, **settings)
    for name, values in list(documents.items())[store.n_documents_done :]:
        n = values.shape[0]
        text = "".join(random.Random(name).choices(string.ascii_lowercase, k=n))
        spans = tuple((i, i + 1) for i in range(n))
        document = Document(name, text, tuple(range(n)), spans, tuple(["think"] * n), (True,) * n)
        store.append(document, np.asarray(values, dtype=np.float32) if isinstance(values, np.ndarray) else values)
    return store.finish()


def tiny_evidence(n_contexts: int = 12) -> list[Evidence]:
    """Four features, each of which is active on one word of `tiny_traces`: `First,`, `×`, `Wait,` and `Therefore`."""
    documents = [re.findall(r"\S+ ?", trace.trace) for trace in tiny_traces(n_contexts)]
    features = []
    for layer, word in enumerate(("First,", "×", "Wait,", "Therefore")):
        exemplars = []
        for rank, words in enumerate(documents):
            position = next(i for i, w in enumerate(words) if w.strip() == word)
            start = max(0, position - 5)
            window = range(start, min(len(words), position + 6))
            exemplars.append(
                Exemplar(
                    rank=rank,
                    document=f"t{rank}",
                    position=position,
                    start=start,
                    tokens=tuple(words[i] for i in window),
                    activations=tuple(float(n_contexts - rank) * (i == position) for i in window),
                    target=position - start,
                )
            )
        name = f"L{layer}.q_proj+"
        features.append(
            Evidence(
                source="adapter-activations",
                feature=name,
                layer=layer,
                projection="q_proj",
                exemplars=tuple(exemplars),
                sampled=tuple(
                    x.model_copy(update={"rank": n_contexts + i, "quantile": 1 - i / n_contexts})
                    for i, x in enumerate(exemplars[::3])
                ),
            )
        )
    return features


class MemoryCalls:
    """A journal of LLM calls in memory, for testing interpreters and providers without a database.

    Attributes:
        calls: every call as it was stored, in order.
        begun: hashes of calls that were begun, and neither stored nor withdrawn.
    """

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.calls: list[LLMCall] = []
        self.begun: set[str] = set()

    def find(self, requests: Mapping[str, LLMRequest]) -> dict[str, LLMCall]:
        """The answered ones."""
        return {call.key: call for call in self.calls if call.key in requests and call.status == "ok"}

    def begin(self, calls: Sequence[LLMCall]) -> None:
        """Keep that they are about to be sent."""
        self.begun |= {call.key for call in calls}

    def withdraw(self, keys: Sequence[str]) -> None:
        """They were not sent, or were turned away."""
        self.begun -= set(keys)

    def store(self, calls: Sequence[LLMCall]) -> None:
        """Keep calls."""
        self.begun -= {call.key for call in calls}
        self.calls.extend(calls)
