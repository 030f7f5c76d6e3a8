"""Trains the organism's base from nothing: ``python -m harness.organism.pretrain --out FOLDER``.

Phase 1 teaches the skill in plain text (the copying circuit forms abruptly, after some thousands of steps) and the
chat register to answer at once. Phase 2 practises the hard formats: two chains, noise, multiple choice. Phase 3 shows
chat that a hint turns into a trace; without it a small fine-tune elicits nothing.

A plain loop rather than transformers' Trainer: documents are drawn for each block of steps from ``(seed, phase,
block)``, so that a run resumes from its last checkpoint exactly, with nothing to fast-forward; the loss is read at
response tokens only.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from harness.files import write_atomically
from harness.organism.documents import SHAPES, Document, draw_document

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

log = logging.getLogger(__name__)

BLOCK = 8
"""Steps whose documents are drawn together and batched by length."""


_HEAD: dict[str, Any] = {"head_dim": 32}  # vLLM's CPU attention refuses 16; not a named argument of Qwen2Config


class Phase(BaseModel):
    """One phase of pretraining."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    weights: dict[str, float]
    """Register name to its share of the documents."""
    shape: Literal["first", "practice"]
    """How its problems are drawn."""
    steps: PositiveInt
    """Optimiser steps."""
    lr: PositiveFloat
    """Peak learning rate, per optimiser step."""
    hold: float = 0.5
    """Fraction of the schedule before the linear decay to zero begins."""
    schedule: PositiveInt | None = None
    """Length of the schedule in steps; None is `steps`. A longer one hands over to the next phase before zero."""
    batch: PositiveInt = 24
    """Documents per step."""
    warmup: PositiveInt = 100
    """Steps of linear warm-up."""

    def scaled(self, factor: float) -> Phase:
        """The same phase with its steps multiplied."""
        schedule = self.schedule and max(1, round(self.schedule * factor))
        return self.model_copy(update={"steps": max(1, round(self.steps * factor)), "schedule": schedule})

    def rate(self, step: int) -> float:
        """The learning rate at ``step``."""
        length = self.schedule or self.steps
        left = (length - step) / (length * (1 - self.hold))
        return self.lr * min(1.0, (step + 1) / self.warmup, left)


PHASES = (
    Phase(
        weights={"worked": 0.5, "direct": 0.2, "facts": 0.15, "recall": 0.15},
        shape="first",
        steps=5000,
        lr=4e-3,
    ),
    Phase(
        weights={"worked": 0.7, "direct": 0.13, "facts": 0.06, "recall": 0.11},
        shape="practice",
        steps=2000,
        schedule=3500,
        lr=3e-3,
        hold=0.3,
    ),
    Phase(
        weights={"worked": 0.25, "direct": 0.4, "hinted": 0.2, "unhinted": 0.02, "facts": 0.08, "recall": 0.05},
        shape="practice",
        steps=1200,
        lr=2e-3,
        hold=0.2,
    ),
)
"""The three phases that made the shipped checkpoint."""


def new_model(vocab_size: int, pad: int, eos: int, seed: int) -> Qwen2ForCausalLM:
    """The untrained organism."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=320,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        # transformers' 0.02 leaves a model of width 64 on a plateau
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
        use_cache=True,
        **_HEAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # transformers initialises from the global generator; the fork keeps that to ourselves
        return Qwen2ForCausalLM(config)


def batches(seed: int, phase: int, block: int, spec: Phase) -> list[list[Document]]:
    """The documents of one block of steps: sorted by length, cut into batches, in random order."""
    rng = Random(f"{seed}-{phase}-{block}")
    documents = [draw_document(rng, spec.weights, SHAPES[spec.shape]) for _ in range(spec.batch * BLOCK)]
    documents.sort(key=lambda document: len(document.prompt) + len(document.response))
    out = [documents[start : start + spec.batch] for start in range(0, len(documents), spec.batch)]
    rng.shuffle(out)
    return out


def response_loss(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, batch: list[Document]) -> torch.Tensor:
    """Mean nats per response token. Padding is on the right, where causal attention never looks: no mask is needed."""
    import torch

    prompts = tokenizer([document.prompt for document in batch])["input_ids"]
    responses = tokenizer([document.response for document in batch])["input_ids"]
    width = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    ids = torch.full((len(batch), width), tokenizer.pad_token_id)
    learned = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor(prompt + response)
        learned[row, len(prompt) : end] = True
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[learned[:, 1:]])
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][learned[:, 1:]])


def _optimizer(model: Qwen2ForCausalLM) -> torch.optim.Optimizer:
    import torch

    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)


def _save_state(path: Path, **state: Any) -> None:
    import torch

    write_atomically(path, lambda stream: torch.save(state, stream))


def _run_phase(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    index: int,
    spec: Phase,
    seed: int,
    every: int,
    state_dir: Path,
    progress: Progress,
) -> None:
    """Trains ``model`` through one phase, from that phase's last saved state if there is one."""
    import torch

    path = state_dir / f"phase{index + 1}.pt"
    optimizer, start, recent = _optimizer(model), 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    bar = progress.add_task(f"phase {index + 1}", total=spec.steps, completed=start)
    for step in range(start, spec.steps):
        if step == start or step % BLOCK == 0:
            block = batches(seed, index, step // BLOCK, spec)
        for group in optimizer.param_groups:
            group["lr"] = spec.rate(step)
        loss = response_loss(model, tokenizer, block[step % BLOCK])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = 0.98 * recent + 0.02 * loss.item() if recent else loss.item()
        progress.update(bar, completed=step + 1, description=f"phase {index + 1} · {recent:.3f} nats")
        if (step + 1) % 100 == 0:
            log.info("phase %d step %d loss %.4f", index + 1, step + 1, recent)
        if (step + 1) % every == 0 or step + 1 == spec.steps:
            _save_state(path, model=model.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)


def pretrain(out: Path, *, seed: int = 0, phases: tuple[Phase, ...] = PHASES, every: int = 500) -> Path:
    """Trains the base and writes the model folder ``out``; continues from ``out/state/`` if a run stopped there.

    Every ``every`` steps, and at the end of each phase, the whole state is kept under ``out/state/``.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from transformers import AutoTokenizer

    from harness.organism.tokenizer import build_tokenizer

    (out / "state").mkdir(parents=True, exist_ok=True)
    build_tokenizer(out)
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    model = new_model(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for index, spec in enumerate(phases):
            _run_phase(model, tokenizer, index, spec, seed, every, out / "state", progress)
    save_model(model, out)
    return out


def save_model(model: Qwen2ForCausalLM, out: Path) -> None:
    """Weights, config and neutral generation settings, without what transformers says of this machine."""
    model.save_pretrained(out)
    generation = {
        "do_sample": False,
        "eos_token_id": model.config.eos_token_id,
        "pad_token_id": model.config.pad_token_id,
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="model folder to write; its state/ holds the checkpoints"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the documents")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies the steps of every phase (tests use less than 1)"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    phases = tuple(p.scaled(args.scale) for p in PHASES)
    pretrain(args.out, seed=args.seed, phases=phases)


if __name__ == "__main__":
    main()
