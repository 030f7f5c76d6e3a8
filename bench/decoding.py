"""Decoding: greedy answers of a benchmark, against transformers' own generate."""

from __future__ import annotations

import torch

from bench.measure import Ratio, compare
from harness.benchmarks.decode import greedy, make_stop
from harness.model.chat import ChatFormat
from harness.model.subject import load_base, load_tokenizer
from harness.organism import MODEL
from harness.records import ModelRef


def answers() -> Ratio:
    """Greedy answers to 128 prompts, against transformers' generate with the same stop token."""
    base = ModelRef(path=str(MODEL))
    model, tokenizer = load_base(base), load_tokenizer(base)
    prompts = [
        ChatFormat().prompt(tokenizer, f"Let a = {i % 10}; b = a + 3; what is b? Show steps.") for i in range(128)
    ]
    tokenizer.padding_side = "left"
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    stop = make_stop(tokenizer, ["<|im_end|>"])

    def ours() -> None:
        greedy(model, batch["input_ids"], batch["attention_mask"], 64, stop)

    @torch.inference_mode()
    def theirs() -> None:
        model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=64, do_sample=False,
            stop_strings=["<|im_end|>"], tokenizer=tokenizer,
        )  # fmt: skip

    return compare("greedy decoding, 128 prompts", "transformers generate", ours, theirs)


BENCHES = (answers,)
