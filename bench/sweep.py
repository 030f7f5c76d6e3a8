"""Ablations: every component's KL by reusing the layers below it, and by Fisher probes, against the paper's loop.

The models are random Qwen2s whose logits are peaked and whose components' strengths are log-normal, so that KLs span
five decades, as those of trained adapters do. The paper's loop, written from its description: for each component scan
the modules, zero its A and B, run the whole model, softmax of all logits and kl_div, restore.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from bench.measure import MATRICES, Ratio, compare
from harness.model.chat import ChatFormat, Document
from harness.model.components import Component, find_components
from harness.model.subject import Subject
from harness.records import ModelRef
from harness.stats import spearman
from harness_plugins.ablations.cells import Cell
from harness_plugins.ablations.config import KLConfig
from harness_plugins.ablations.divergence import Divergence
from harness_plugins.ablations.documents import texts_of
from harness_plugins.ablations.fisher import Probes, gathered, pieces, probe

Numerics = Literal["modules", "in-place"]


def toy(layers: int, hidden: int, vocabulary: int = 4096, dtype: torch.dtype = torch.float32) -> Subject:
    """A random Qwen2 with a rank-1 rsLoRA on all seven matrices of every layer."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 32, num_key_value_heads=hidden // 64, max_position_embeddings=2048,
        tie_word_embeddings=False, initializer_range=0.05,
    )  # fmt: skip
    base = Qwen2ForCausalLM(config).eval()
    base.lm_head.weight.data *= 6 / (0.05 * hidden**0.5)  # logits with a standard deviation of 6
    model = get_peft_model(base, LoraConfig(r=1, lora_alpha=16, use_rslora=True, target_modules=MATRICES)).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
        if "lora_B" in name:
            strength = 0.01 * float(torch.exp(1.5 * torch.randn((), generator=generator)))
            parameter.data = torch.randn(parameter.shape, generator=generator) * strength
    model.to(dtype)
    place: Any = None  # no tokenizer: documents are made of ids
    return Subject(model, place, ChatFormat(), "", ModelRef(path="toy"), None, find_components(model))


def documents(n: int, tokens: int, vocabulary: int = 4096) -> list[Document]:
    """Random ids."""
    ids = torch.randint(0, vocabulary, (n, tokens), generator=torch.Generator().manual_seed(2)).tolist()
    labels = ((0, 1),) * tokens, ("think",) * tokens, (True,) * tokens
    return [Document(str(i), "", tuple(own), *labels) for i, own in enumerate(ids)]  # type: ignore[arg-type]


def divergence(subject: Subject, texts: Sequence[Document], numerics: Numerics = "modules") -> Divergence:
    """One document per pass, as at paper scale; no null floor, which the loop has not either."""
    config = KLConfig(batch_size=1, floor_documents=0, numerics=numerics)
    return Divergence(subject, texts_of(texts, config, 0), config, seed=0)


def single(components: Sequence[Component]) -> list[Cell]:
    """A cell for each."""
    return [Cell(c.name, "component", (c,)) for c in components]


@torch.no_grad()
def papers_loop(model: Any, texts: Sequence[Document], components: Sequence[Component]) -> list[float]:
    """KL per token of each component."""
    inputs = [torch.tensor([d.ids]) for d in texts]
    full = [F.softmax(model(input_ids=ids, use_cache=False).logits, -1) for ids in inputs]
    found = []
    for c in components:
        kept = []
        for name, module in model.named_modules():
            if name == c.module:
                for weight in (module.lora_A[c.adapter].weight, module.lora_B[c.adapter].weight):
                    kept.append((weight, weight.data.clone()))
                    weight.data.zero_()
        total = []
        for ids, p in zip(inputs, full, strict=True):
            q = F.softmax(model(input_ids=ids, use_cache=False).logits, -1)
            total.append(F.kl_div(q.log(), p, reduction="none").sum(-1).mean())
        for weight, data in kept:
            weight.data.copy_(data)
        found.append(float(torch.stack(total).mean()))
    return found


def _some(subject: Subject, n_layers: int) -> list[Component]:
    """All components of layers spread evenly, whose mean depth is that of all layers."""
    depth = 1 + max(c.layer or 0 for c in subject.components)
    step = depth // n_layers
    # Alternating ends of the stretches, so that the mean start is (depth - 1) / 2.
    layers = {i * step + (step // 4 if i % 2 else step - 1 - step // 4) for i in range(n_layers)}
    return [c for c in subject.components if c.layer in layers]


def _exact(layers: int, hidden: int, tokens: int, n_layers: int, numerics: Numerics = "modules") -> Ratio:
    subject, texts = toy(layers, hidden), documents(1, tokens)
    some = _some(subject, n_layers)
    kept: dict[str, list[float]] = {}

    def ours() -> None:
        found = divergence(subject, texts, numerics).sweep(single(some))
        kept["ours"] = [float(sums.kl_nats.sum()) / tokens for _, sums in found]

    def theirs() -> None:
        kept["theirs"] = papers_loop(subject.model, texts, some)

    size = f"{layers} layers, hidden {hidden}, {tokens} tokens, {len(some)} of {7 * layers} cells"
    made = compare(f"exact sweep ({numerics}), {size}", "paper's loop", ours, theirs, rounds=2, warm=False)
    apart = np.abs(np.array(kept["ours"]) / np.array(kept["theirs"]) - 1)
    span = f"KL {min(kept['ours']):.0e} to {max(kept['ours']):.0e}"
    return made.noting(f"{span}; loop differs by {np.median(apart):.0e} (median), {apart.max():.0e} (worst)")


def exact_16() -> Ratio:
    """Every cell."""
    return _exact(16, 256, 512, 16)


def exact_64() -> Ratio:
    """Every cell of a quarter of the layers. Layers alone limit an exact method to 2 * 64 / 65 = 1.97 times."""
    return _exact(64, 128, 256, 16)


def exact_64_in_place() -> Ratio:
    """The same without PEFT's temporaries."""
    return _exact(64, 128, 256, 16, "in-place")


def fisher() -> Ratio:
    """All 448 cells from 4 probes of 4 documents; the loop's time is that of 28 cells and one document, times 64.

    All cells share the probes' signs, so their errors move together: what one set of probes says is shown for five.
    """
    subject, texts = toy(64, 128), documents(4, 256)
    some = _some(subject, 4)

    def estimates(seed: int) -> Probes:
        found = divergence(subject, texts)
        gradients = ((piece, probe(found, subject.components, piece, 4, seed)) for piece in pieces(found.texts))
        return gathered(gradients, subject.components, found.texts, 4)

    made = compare(
        "", "", lambda: estimates(0), lambda: papers_loop(subject.model, texts[:1], some), rounds=3, warm=False
    )
    scale = len(subject.components) / len(some) * len(texts)
    exact = divergence(subject, texts, "in-place").sweep(single(subject.components))
    truth = {cell.item: float(sums.kl_nats.sum()) / 1024 for cell, sums in exact}
    true = [truth[c.name] for c in subject.components]
    guesses = [[probes.estimate([c]).value for c in subject.components] for probes in map(estimates, range(5))]
    ranks = [spearman(guess, true) for guess in guesses]
    ratios = [float(np.median(np.array(guess) / np.array(true))) for guess in guesses]
    return Ratio(
        "Fisher probes, 4 x 4 documents, 64 layers, 448 cells", f"paper's loop ({len(some)} cells, scaled)",
        made.ours_s, made.rival_s * scale, made.ratio * scale, made.ratio_low * scale, made.ratio_high * scale,
        made.n_rounds,
        f"KL {min(true):.0e} to {max(true):.0e}, 5 seeds: Spearman {np.median(ranks):.3f} ({min(ranks):.3f} to "
        f"{max(ranks):.3f}), median estimate / exact {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
    )  # fmt: skip


def accuracy() -> Ratio:
    """Worst relative error of a cell's KL against a float64 head on the same hidden states; time against the loop's."""
    return _accuracy(torch.float32)


def accuracy_bf16() -> Ratio:
    """The same with a bfloat16 model and head."""
    return _accuracy(torch.bfloat16)


def _accuracy(dtype: torch.dtype) -> Ratio:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8192, 256, generator=generator) * (6 / 16)
    hidden = torch.randn(512, 256, generator=generator).to(dtype)
    sizes = torch.logspace(-3.5, 0, 40)
    others = [(hidden + s * torch.randn(512, 256, generator=generator)).to(dtype) for s in sizes]
    head = torch.nn.Linear(256, 8192, bias=False)
    head.weight.data = weight
    head.to(dtype)
    truth = [_oracle(hidden, other, head.weight) for other in others]
    kept: dict[str, list[float]] = {}
    return _timed_accuracy(dtype, head, hidden, others, truth, kept)


@torch.no_grad()
def _oracle(hidden: torch.Tensor, other: torch.Tensor, weight: torch.Tensor) -> float:
    p, q = (torch.log_softmax(h.double() @ weight.double().T, -1) for h in (hidden, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


def _timed_accuracy(
    dtype: torch.dtype, head: torch.nn.Linear, hidden: torch.Tensor, others: Sequence[torch.Tensor],
    truth: Sequence[float], kept: dict[str, list[float]],
) -> Ratio:  # fmt: skip
    from types import SimpleNamespace

    from harness.model.kl import Reference
    from harness.model.kl import compare as compare_logits
    from harness.model.readout import Readout

    readout = Readout(SimpleNamespace(get_output_embeddings=lambda: head, config=SimpleNamespace()))

    @torch.no_grad()
    def ours() -> None:
        reference = Reference.of(readout.precise_logits(hidden))
        changes = (readout.difference(hidden, o) for o in others)
        kept["ours"] = [float(compare_logits(reference, d).kl_nats.double().mean()) for d in changes]

    @torch.no_grad()
    def theirs() -> None:
        p = F.softmax(head(hidden), -1)
        kept["theirs"] = [
            float(F.kl_div(F.softmax(head(o), -1).log(), p, reduction="none").sum(-1).mean()) for o in others
        ]

    made = compare(f"KL of 40 cells, {str(dtype)[6:]} head, 512 x 8192", "softmax, kl_div", ours, theirs, rounds=3)
    floor = 1e-6 if dtype == torch.float32 else 1e-4
    worst = {who: max(abs(a / b - 1) for a, b in zip(kept[who], truth, strict=True) if b >= floor) for who in kept}
    return made.noting(f"worst error above {floor:.0e} nats: {worst['ours']:.0e}, rival's {worst['theirs']:.0e}")


BENCHES: tuple[Callable[[], Ratio], ...] = (exact_16, exact_64, exact_64_in_place, fisher, accuracy, accuracy_bf16)
