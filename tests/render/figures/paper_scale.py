"""Rows of the paper's size and worse: 64 layers x 7 projections, 8 divided categories, long hostile names."""

from __future__ import annotations

import math
import random

from harness.render.figures.agreement import ConfusionRow
from harness.render.figures.donut import Slice
from harness.render.figures.training import TrainingRow
from harness.reports.categories import CategoryRow
from harness.reports.components import ComponentRow
from harness.reports.dictionaries import DictionaryRow
from harness.reports.recovery import RecoveryRow
from harness.stats import Estimate

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CATEGORIES = (
    "Mathematical operators and syntax", "Procedural markers", "Discourse and reasoning markers", "Numbers and digits",
    "Formatting tokens", "Reasoning control-flow", "Variable and value tracking",
    "Answers & solutions $x_1^2$ </script> \u202e\x1b[31m",
)  # fmt: skip
SOURCES = ("adapter-activations", "mlp-neurons", "batch-topk", "random-directions")


def components(mode: str = "zero", n_layers: int = 64) -> list[ComponentRow]:
    rng = random.Random(1)

    def row(scope: str, layer: int, projection: str | None, kl: float) -> ComponentRow:
        name = f"L{layer}" + (f".{projection}" if projection else "")
        return ComponentRow(
            scope,
            layer,
            projection,
            name,
            mode,
            Estimate(kl, 0.8 * kl, 1.3 * kl),
            None,
            None,
            1,
            32768,
            16,
            "ablate/loo",
        )

    rows = []
    for layer in range(n_layers):
        weight = 0.2 + math.exp(-(((layer - 45) / 8) ** 2)) + (1.4 if layer == n_layers - 2 else 0)
        rows.append(row("layer", layer, None, 4e-3 * weight * (0.7 + 0.6 * rng.random())))
        for i, projection in enumerate(PROJECTIONS):
            rows.append(row("component", layer, projection, 1.2e-3 * weight * rng.random() * (2 if i > 3 else 0.5)))
    return rows


def categories(sources: tuple[str, ...] = SOURCES) -> list[CategoryRow]:
    rng = random.Random(2)
    rows = []
    for source in sources:
        counts = [rng.randint(1, 90) for _ in CATEGORIES]
        total = sum(counts)
        density = [rng.random() ** 2 for _ in CATEGORIES]
        for i, (name, n) in enumerate(zip(CATEGORIES, counts, strict=True)):
            share = n / total
            half = 2 * math.sqrt(share * (1 - share) / total)
            rows.append(
                CategoryRow(
                    source, "judge", f"c{i}", name, "d", n, Estimate(share, max(share - half, 0), share + half),
                    density[i] / sum(density), None,
                )
            )  # fmt: skip
    return rows


def slices() -> list[Slice]:
    rng = random.Random(3)
    made = []
    for i, name in enumerate(CATEGORIES):
        for j in range(3 + i % 4):
            made.append(Slice(f"c{i}", name, rng.random() ** 2, f"Subcategory {j} of {name[:14]}"))
    return made


def recoveries() -> list[RecoveryRow]:
    def row(name: str, n: int, scores: tuple[float, ...], recovery: Estimate | None, paper: float) -> RecoveryRow:
        base, adapter, full = (
            Estimate(s, max(s - 1.96 * math.sqrt(s * (1 - s) / n), 0), min(s + 0.05, 1)) for s in scores
        )
        return RecoveryRow(
            metric="exact_match", p_holm=None,
            benchmark=name, n_items=n, base=base, adapter=adapter, full=full, recovery=recovery,
            denominator="full - base", p_value=0.01, graded_base=None, graded_adapter=None, graded_full=None,
            graded_recovery=None, reason=None, note=None, engines_differ=False, paper_benchmark=name.upper(),
            paper_base=0.2, paper_adapter=0.5, paper_full=0.6, paper_recovery=paper,
        )  # fmt: skip

    unbounded = Estimate(0.9, -math.inf, math.inf)
    return [
        row("aime24_nofigures", 30, (0.2333, 0.5, 0.6), Estimate(0.7273, 0.09, 1.76), 0.7273),
        row("openai_math", 500, (0.834, 0.91, 0.922), Estimate(0.8636, 0.49, 1.35), 0.8636),
        row("gpqa_diamond_openai_with_a_long_name", 198, (0.4899, 0.5808, 0.5909), unbounded, 0.899),
        row("no_gap", 8, (0.5, 0.5, 0.5), None, 0.5),
        row("far", 50, (0.5, 0.9, 0.52), Estimate(19.0, 2.5, 40.0), 0.9),
    ]


def dictionaries(n: int = 14) -> list[DictionaryRow]:
    rows = []
    for i in range(n):
        k = 2 ** (1 + i % 7)
        fvu = 0.5 / k ** (0.5 + 0.1 * (i // 7))
        rows.append(
            DictionaryRow(
                name=f"batch-topk@expansion={4 * (1 + i // 7)},k={k}", k=k, n_latents=3584, n_alive=2000, signed=False,
                fvu=Estimate(fvu, 0.95 * fvu, 1.06 * fvu), l0=Estimate(1.02 * k, k, 1.04 * k), frontier=False,
                kl_splice_nats=None, kl_base_nats=None, kl_recovered=None, stability=None, n_matched=0,
                    stable_share=None, chance_cosine=None, activations="adapter-activations",
                density_histogram=None, n_tokens_alive=0, n_tokens=102400, n_documents=40, n_splice_documents=0,
                reason=None,
            )
        )  # fmt: skip
    return rows


def training(n_dictionaries: int = 12) -> list[TrainingRow]:
    rng = random.Random(4)
    rows = [
        TrainingRow("checkpoint", name, step, 0.4 + scale * math.exp(-step / 60) + 0.02 * rng.random())
        for name, scale in (("rank1-lora", 0.8), ("full-finetune", 1.1))
        for step in range(5, 313, 5)
    ]
    return rows + [
        TrainingRow("dictionary", f"batch-topk[k={2**i}]", step, (5 - i / 4) * math.exp(-step / 900) + 0.02)
        for i in range(n_dictionaries)
        for step in range(100, 20001, 400)
    ]


def confusion() -> list[ConfusionRow]:
    table = {(0, 0): 1204, (0, 1): 88, (0, 2): 12, (1, 0): 60, (1, 1): 431, (1, 2): 75, (2, 1): 40, (2, 2): 160,
             (None, 0): 3, (2, None): 2}  # fmt: skip
    n = sum(table.values())
    return [
        ConfusionRow("batch-topk", "openai:gpt-5-mini", "anthropic:claude-opus-4-1", a, b, count, n)
        for (a, b), count in table.items()
    ]
