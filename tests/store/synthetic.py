"""A results database of plausible synthetic records, hostile text included."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.config import digest
from harness.records import (
    PLANTED,
    AblationScore,
    ActivationSet,
    AnswerVerdict,
    Attribution,
    Category,
    CategoryAssignment,
    CategoryTrial,
    Checkpoint,
    Coverage,
    Dictionary,
    DictionaryScore,
    Divergence,
    DocumentDivergence,
    Enrichment,
    Estimate,
    EvaluationResult,
    EventAssociation,
    Exemplar,
    Explanation,
    ExplanationScore,
    Feature,
    JudgeTrial,
    KindDivergence,
    LatentEffect,
    LLMCall,
    LLMReply,
    LLMRequest,
    ModelRef,
    ModuleOverlap,
    PartingToken,
    PlantedFeature,
    RatedContext,
    Record,
    ResidualChange,
    Sample,
    SharedFeature,
    SteeringEffect,
    WriteDirection,
)
from harness.store.writer import Store

HOSTILE = '[red]a[/red] </script> b\u2028c | d % e \\f {g} $h$ & _i_ `j` "k" \x1b[31m \n l'
"""Text as a model could write it: markup, HTML, line separators, escapes of terminals."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class FakeProvenance:
    git_sha: str | None = "0123456789abcdef"
    git_dirty: bool | None = True
    versions: dict[str, str] = field(default_factory=lambda: {"python": "3.11.7", "torch": "2.13.0"})
    argv: tuple[str, ...] = ("harness", "run", "--plugin", "rank1-lora")


PROVENANCE = FakeProvenance()


def step_values(name: str, stage: str = "probe", plugin: str | None = "adapter-activations") -> dict[str, object]:
    """Arguments of `begin_step`."""
    return {
        "key": digest(name),
        "name": name,
        "stage": stage,
        "kind": stage,
        "plugin": plugin,
        "plugin_version": "1",
        "config": {"k": 4},
        "inputs": [],
        "seed": 7,
        "provenance": PROVENANCE,
        "device": "cpu",
        "artifact": name.replace("/", "-"),
    }


def evaluation(
    variant: str, benchmark: str, scores: list[int], *, engine: str = "hf fp32", repeats: int = 1
) -> EvaluationResult:
    """One item's repeats follow each other in `scores`. Every ninth answer was cut, every fourth of these loops."""
    samples = tuple(
        Sample(
            doc_id=i // repeats, repeat=i % repeats, prompt="p", prompt_hash="h", response=HOSTILE,
            extracted=None if i % 9 == 8 else str(s), target="1", score=s, finish="length" if i % 9 == 8 else "stop",
            n_tokens=120 if i % 9 == 8 else 40 + i % 7, loops=i % 36 == 35,
        )
        for i, s in enumerate(scores)
    )  # fmt: skip
    return EvaluationResult(
        item=f"{variant}/{benchmark}",
        variant=variant,
        benchmark=benchmark,
        metric="exact_match",
        n_items=len(scores) // repeats,
        score=sum(scores) / len(scores),
        samples=samples,
        chat_hash="c",
        engine=engine,
    )


def ablation(scope: str, kl: float, **where: object) -> AblationScore:
    name = "/".join([scope, *(str(v) for v in where.values())])
    return AblationScore.model_validate(
        {
            "item": name, "scope": scope, "kl_nats": Estimate(kl, kl * 0.8, kl * 1.3),
            "n_tokens": 20480, "n_documents": 16, "n_components": 1 if scope == "component" else 7, **where,
        }
    )  # fmt: skip


def feature(source: str, name: str, layer: int | None, projection: str | None, weight: float) -> Feature:
    tokens = (" so", " a", " =", " 3", ";", " Wait", ",", HOSTILE, " ×", " b", "\n")
    exemplars = tuple(
        Exemplar(
            rank=rank,
            document=f"trace-{rank}",
            position=20 + rank,
            start=15,
            tokens=tokens,
            activations=tuple(weight if i == 5 else 0.0 for i in range(len(tokens))),
            target=5,
        )
        for rank in range(2)
    )
    return Feature(
        item=name,
        source=source,
        feature=name,
        layer=layer,
        projection=projection,
        density_per_token=0.037,
        activation_sum=100 * weight,
        activation_max=weight,
        n_tokens=20480,
        exemplars=exemplars,
        sampled=(exemplars[0].model_copy(update={"rank": 2, "quantile": 0.5}),),
    )


def fill(store: Store, *, n_layers: int = 4) -> int:
    """A finished run with all kinds of records; returns its id."""
    rng = random.Random(0)
    run = store.begin_run(
        study="rank1-lora",
        preset="demo",
        seed=0,
        provenance=PROVENANCE,
        device="cpu",
        model="package://harness/organism/checkpoint",
        paper_benchmarks={"organism_chain": "MATH500", "organism_long": "AIME24", "organism_choice": "GPQA-Diamond"},
    )
    position = 0
    for name, stage, plugin, many in _steps(rng, n_layers):
        step, _ = store.begin_step(run, position, **step_values(name, stage, plugin))  # type: ignore[arg-type]
        store.write_many(step, many)
        if stage == "interpret":
            store.calls(step).store([_call(f"{name}-ok", "ok")])
            store.calls(step).store([_call(f"{name}-bad", "failed")])
        store.finish_step(step, status="done", wall_s=12.5 * (position + 1), output={})
        position += 1
    store.finish_run(run, status="done")
    return run


def _steps(rng: random.Random, n_layers: int) -> list[tuple[str, str, str | None, list[Record]]]:
    lora = [
        feature("adapter-activations", f"L{layer}.{p}{sign}", layer, p, rng.random())
        for layer in range(n_layers)
        for p in PROJECTIONS
        for sign in "+-"
    ]
    latents = [feature("batch-topk", f"latent{i}", None, None, rng.random()) for i in range(40)]
    evaluations = {v: _evaluations(v, rng) for v in ("base", "adapter", "full")}
    return [
        ("train/rank1-lora", "train", "rank1-lora", [_checkpoint()]),
        *[(f"evaluate/{v}", "evaluate", None, [*own]) for v, own in evaluations.items()],
        ("probe/adapter-activations", "probe", "adapter-activations", [_activation_set(), *lora]),
        ("learn/batch-topk", "learn", "batch-topk", [*_dictionary(), *latents]),
        *[(f"interpret/lexical/{own[0].source}", "interpret", "lexical", explanations(own)) for own in (lora, latents)],
        ("categorise/lexical", "categorise", "lexical", _categories(lora + latents)),
        ("plant/planted", "plant", None, _planted()),
        ("score/lexical/adapter-activations", "score", "lexical", _scores(lora)),
        ("judge/lexical", "judge", "lexical", _trials(lora)),
        ("cover/lexical", "cover", "lexical", _coverages(lora + latents)),
        ("enrich/features", "enrich", None, _enrichment(lora)),
        ("ablate/leave-one-out", "ablate", "leave-one-out", _leave_one_out(rng, n_layers)),
        ("ablate/groups", "ablate", "groups", _groups(rng)),
        ("ablate/differences", "ablate", "differences", differences()),
        ("ablate/write-directions", "ablate", "write-directions", _writes(lora[:2] + latents[:2])),
        ("ablate/steer", "ablate", "steer", _steered()),
        ("ablate/attribute", "ablate", "attribute", _attributions()),
        *[(f"verify/{v}", "verify", None, _verdicts(own)) for v, own in evaluations.items()],
    ]


_RATES = {
    "organism_chain": {"base": 0.25, "adapter": 0.9, "full": 0.95, "without-attention": 0.8, "without-mlp": 0.3},
    "organism_long": {"base": 0.1, "adapter": 0.4, "full": 0.6, "without-attention": 0.3, "without-mlp": 0.1},
    "organism_choice": {"base": 0.5, "adapter": 0.5, "full": 0.5, "without-attention": 0.5, "without-mlp": 0.4},
}


def _evaluations(variant: str, rng: random.Random) -> list[EvaluationResult]:
    made = []
    for benchmark, rates in _RATES.items():
        if benchmark == "organism_choice" and variant in ("base", "full"):
            scores = [1, 0] * 100  # no gap at all
        else:
            scores = [int(rng.random() < rates[variant]) for _ in range(200)]
        made.append(evaluation(variant, benchmark, scores))
    return made


def _verdicts(own: list[EvaluationResult]) -> list[Record]:
    """Of the answers that the rules reject, every tenth is accepted, and every seventh gets no verdict."""
    made: list[Record] = []
    for result in own:
        for n, s in enumerate(s for s in result.samples if s.score == 0 and s.extracted is not None):
            status = ("unparsed", "failed", "orders-disagree")[n // 7 % 3] if n % 7 == 6 else "answered"
            equal = n % 10 == 0 if status == "answered" else None
            said = status in ("answered", "orders-disagree")
            made.append(
                AnswerVerdict(
                    item=f"{result.benchmark}/{s.doc_id}/{s.repeat}", variant=result.variant,
                    benchmark=result.benchmark, doc_id=s.doc_id, repeat=s.repeat, grader="openai:judge_1",
                    compared=HOSTILE, score_rules=s.score, equal_gold_first=bool(equal) if said else None,
                    equal_gold_last=(equal is None or equal) if said else None, equal=equal,
                    status=status,  # type: ignore[arg-type]
                    reason="because",
                )
            )  # fmt: skip
    return made


def _steered() -> list[Record]:
    """A latent whose push changes the KL beyond its controls from 10 standard deviations on, and makes it wait more."""
    made: list[Record] = []
    for where, quantity, unit, per_dose in (("text", "kl", "nats", 0.04), ("generated", "n wait", "count", 0.1)):
        for size in (2.0, 10.0, 50.0):
            for control, share in (("itself", 1.0), ("random", 0.2), ("unrelated", 0.9 if size < 10 else 0.1)):
                change, excess = per_dose * size * share, per_dose * size * (1 - share)
                made.append(
                    SteeringEffect(
                        item=f"batch-topk/latent3/dose {size:g}/{control}/{where}/{quantity}", source="batch-topk",
                        feature="batch-topk/latent3", kind="latent", chosen_by="reads wait best", push="dose",
                        size=size, std=0.25, times_normal=size / 10, control=control, where=where, quantity=quantity,
                        control_feature="batch-topk/latent9" if control == "unrelated" else None, unit=unit,
                        at_rest=0.0 if quantity == "kl" else 0.5,
                        change=Estimate(change, change * 0.8, change * 1.2),
                        excess=None if control == "itself" else Estimate(excess, excess * 0.7, excess * 1.4),
                        p_value=None if control == "itself" else 0.2 if size < 10 else 0.0004,
                        n_documents=8, n_units=640,
                    )
                )  # fmt: skip
    return made


def _attributions() -> list[Record]:
    """Three tokens, of which layer 0's q_proj gives more and more, and a latent half of it."""
    made: list[Record] = []
    for i in (1, 2, 3):
        values = {"L0.q_proj": 0.2 * i, "L1.up_proj": -0.05}
        made.append(
            Attribution(
                item=f"trace-{i}:4", document=f"trace-{i}", outcome="log-probability", span="written", position=4,
                token=HOSTILE, n_tokens=1, with_adapter=-0.5, without_adapter=-0.5 - sum(values.values()), n_nodes=4,
                first_order=values, integrated=values, own=values, left_out=values, drawn=("L1.up_proj",),
                by_token=(0.0, 0.2 * i, 0.0, -0.05), latents={"batch-topk": {"batch-topk/latent3": 0.1 * i}},
                unexplained={"batch-topk": 0.1 * i - 0.05}, sources=(("", "L0.q_proj", 1, 0.2 * i),),
            )
        )  # fmt: skip
    return made


def adapters() -> list[Record]:
    """What a run of several adapters has besides: a module and a component of two of them."""
    of_module: dict[str, Any] = {"layer": 1, "projection": "q_proj", "first": "adapter", "second": "other"}
    return [
        ModuleOverlap(
            item="adapter>other/q", module="layers.1.self_attn.q_proj", weight_cosine=-0.2, weight_null=0.02,
            read_overlap=None, read_null=0.03, write_overlap=0.3, write_null=0.03, norm_ratio=1.5, reason="for a test",
            **of_module,
        ),
        SharedFeature(
            item="adapter>other/L1.q_proj", component="L1.q_proj", partner="L2.up_proj", correlation=-0.5,
            shuffled=0.05, p_value=0.01, random=0.4, n_candidates=28, n_random=28, n_shuffles=99, n_tokens=4000,
            n_documents=32, **of_module,
        ),
    ]  # fmt: skip


def _groups(rng: random.Random) -> list[Record]:
    made: list[Record] = [ablation("adapter", 0.51), ablation("group", 0.04, group="attention")]
    made += [ablation("group", 0.43, group="mlp"), ablation("group", 0.21, group="gate_proj")]
    made += [ablation("shapley", 0.4, group="mlp"), ablation("shapley", 0.1, group="attention")]
    made += [ablation("greedy", 0.43, group="mlp", place=1), ablation("greedy", 0.5, group="attention", place=2)]
    for variant in ("without-attention", "without-mlp"):
        made += _evaluations(variant, rng)
    return made


def _leave_one_out(rng: random.Random, n_layers: int) -> list[Record]:
    made: list[Record] = [ablation("adapter", 0.51)]
    made += [ablation("layer", 0.05 + 0.2 * rng.random(), layer=layer) for layer in range(n_layers)]
    made += [ablation("projection", 0.1 * rng.random(), projection=p) for p in PROJECTIONS]
    for layer in range(n_layers):
        for p in PROJECTIONS:
            kl = 0.08 * rng.random() ** 3
            block = "attention" if p in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            found = ablation("component", kl, layer=layer, projection=p)
            made.append(found.model_copy(update={"group": block, **measured(kl, layer)}))
    return made


def _attributions() -> list[Record]:
    """Tokens of eight answers: what was measured exactly falls a tenth below what is attributed."""
    names = [f"L{layer}.{p}" for layer in range(2) for p in ("q_proj", "down_proj")]
    made: list[Record] = []
    for i in range(8):
        shares = {name: (0.4 - 0.1 * at) * (1 + 0.1 * i) for at, name in enumerate(names)}
        exact = {name: 0.9 * value for name, value in shares.items()}
        made.append(
            Attribution(
                item=f"trace-{i}/9", document=f"trace-{i}", outcome="log-probability", span="answer", position=9,
                token=HOSTILE, n_tokens=1, with_adapter=-0.1, without_adapter=-0.1 - sum(shares.values()), n_nodes=4,
                first_order=shares, integrated=shares, own=shares, left_out=exact, drawn=tuple(names[2:]),
                by_token=(0.0, sum(shares.values())), latents={"batch-topk": {"latent3": 0.2}},
                unexplained={"batch-topk": 0.05}, sources=(("", names[0], 1, 0.3), ("batch-topk", "latent3", 1, 0.2)),
            )
        )  # fmt: skip
    return made


def differences() -> list[Record]:
    """What `differences` stores in a study without a full fine-tune."""
    why = "the study has no full fine-tune"
    kl, null = Estimate(0.2, 0.1, 0.35), Estimate(15.0, 14.0, 16.0)
    return [
        Divergence(
            item="adapter-base", pair="adapter-base", kl_nats=kl, kl_shuffled_nats=null,
            top_share=Estimate(0.4, 0.2, 0.6), top_share_shuffled=Estimate(0.02, 0.01, 0.03), n_tokens=900,
            n_documents=8, reason="nothing to correlate with",
        ),
        Divergence(item="full-base", pair="full-base", reason=why),
        DocumentDivergence(item="trace-1", chat_hash="c", first=2, kl_nats=(0.0, 1.5, 0.25), reason=why),
        PartingToken(
            item="0000", document="trace-1", position=3, before=f"so{HOSTILE}", after="=\n3", kl_nats=1.5,
            base_tokens=(HOSTILE, "."), base_probabilities=(0.9, 0.1), adapter_tokens=(" =", "."),
            adapter_probabilities=(0.8, 0.2), reason=why,
        ),
        KindDivergence(
            item="adapter-base/class:number", pair="adapter-base", family="class", kind="number", n_kind=90,
            n_tokens=900, kl_share=0.3, ratio=Estimate(3.9, 2.0, 7.5), p_value=0.001,
        ),
        KindDivergence(
            item="adapter-base/event:wait", pair="adapter-base", family="event", kind="wait", n_kind=0, n_tokens=900,
            kl_share=0.0, reason="no such token",
        ),
        *(
            ResidualChange(
                item=f"adapter-base/layer:{layer}", pair="adapter-base", layer=layer, relative_norm=kl,
                relative_norm_shuffled=Estimate(1.3, 1.2, 1.4), shares=(0.4, 0.2), shares_shuffled=(0.15, 0.1),
                common_share=0.1, common_share_swapped=0.02, first_common_share=0.3, first_common_share_swapped=0.05,
                promoted=(" Wait", HOSTILE), suppressed=("\n",), n_tokens=900, n_first=40, n_documents=8,
            )
            for layer in range(2)
        ),
    ]  # fmt: skip


def measured(kl: float, layer: int) -> dict[str, object]:
    """What a real sweep stores beside a KL; layer 0 is as noisy as its smallest cells."""
    return {
        "chosen_as": "all", "fisher_nats": Estimate(kl * (0.9 + 0.05 * layer), kl / 2, kl * 2),
        "n_draws": 64, "null_floor_nats": 1e-3 if layer == 0 else 1e-12, "ce_nats": 1.2,
        "ce_change_nats": Estimate(kl / 3, -kl, kl),
        "kl_nats_prompt": Estimate(kl * (4 - layer), -math.inf, math.inf), "n_tokens_prompt": 4096,
        "kl_nats_trace": Estimate(kl, kl * 0.8, kl * 1.3), "n_tokens_trace": 20480, "n_tokens_answer": 0,
        "kl_nats_all": Estimate(kl * (9 - layer) / 6, kl, kl * 9), "n_tokens_all": 24576,
        "document_kl_sums": {
            "prompt": (256 * kl * (4 - layer),) * 16, "answer": (0.0,) * 16,
            "think": tuple(1280 * kl * (0.5 + i / 15) for i in range(16)),
        },
        "document_n_tokens": {"prompt": (256,) * 16, "think": (1280,) * 16, "answer": (0,) * 16},
        "engine": "prefix reuse, float32",
    }  # fmt: skip


def _checkpoint() -> Checkpoint:
    return Checkpoint(
        kind="adapter",
        path=Path("/artifacts/train"),
        base=ModelRef(path="package://harness/organism/checkpoint"),
        chat_hash="c",
        n_parameters=4864,
        n_examples=1000,
        losses=((10, 1.5), (20, 0.7)),
    )


def _activation_set() -> ActivationSet:
    return ActivationSet(
        source="adapter-activations", path=Path("/artifacts/probe"), columns=("L0.q_proj",), layers=(0,),
        projections=("q_proj",), signed=True, n_tokens=20480, n_documents=200, chat_hash="c", site="a·x",
    )  # fmt: skip


def _dictionary() -> list[Record]:
    score = DictionaryScore(
        name="batch-topk", n_latents=224, n_alive=187, k=4, fvu=Estimate(0.187, 0.17, 0.21),
        l0=Estimate(4.02, 3.9, 4.1), n_tokens=4096, n_documents=40, kl_base_nats=Estimate(0.51, 0.45, 0.6),
        kl_splice_nats=Estimate(0.061, 0.05, 0.07), kl_recovered=Estimate(0.88, 0.85, 0.9), n_splice_documents=40,
        n_splice_tokens=2700, kl_recovered_prompt=Estimate(0.95, 0.9, 0.97), kl_recovered_all=Estimate(0.9, 0.87, 0.92),
        density_histogram=(0, 0, 0, 0, 0, 2, 5, 60, 80, 30, 10, 0), n_tokens_alive=20000,
        stability=Estimate(0.8, 0.77, 0.83), n_matched=180,
    )  # fmt: skip
    fitted = Dictionary(name="batch-topk", path=Path("/artifacts/learn"), columns=("L0.q_proj",), n_latents=224, k=4)
    effects = [
        LatentEffect(
            item=f"effect:latent{i}", source="batch-topk", latent=f"latent{i}", n_active=300, n_tokens=4096,
            kl_nats=Estimate(0.02 / (i + 1), 0.001, math.inf if i == 2 else 0.04), n_documents=40,
        )
        for i in range(3)
    ]  # fmt: skip
    return [fitted, score, *effects]


def _explanation(f: Feature, i: int) -> Explanation:
    grade = (0, 1, 2, None)[i % 4]
    status = "graded" if grade is not None else "dead" if i == 3 else ("unparsed", "failed")[i // 4 % 2]
    return Explanation(
        item=f.feature,
        source=f.source,
        feature=f.feature,
        interpreter="lexical",
        explanation=None if grade is None else f"operators {HOSTILE}",
        grade=grade,  # type: ignore[arg-type]
        grade_top=None if grade is None else (0, 0, 2)[i % 4],  # type: ignore[arg-type]
        reason_top=None if grade is None else "because of the highest",
        status=status,  # type: ignore[arg-type]
        reason="the reply was not JSON" if grade is None else "because",
        n_exemplars=2,
    )


def explanations(own: list[Feature]) -> list[Record]:
    return [_explanation(f, i) for i, f in enumerate(own)]


def _categories(found: list[Feature]) -> list[Record]:
    made: list[Record] = [
        Category(item="category:operators", category="operators", name="Mathematical operators", definition="+ - ×"),
        Category(item="category:discourse", category="discourse", name=f"Discourse {HOSTILE}", definition="Wait"),
    ]
    for i, f in enumerate(found):
        category = ("operators", "discourse", "uncategorised")[i % 3]
        made.append(
            CategoryAssignment(
                item=f"{f.source}/{f.feature}",
                source=f.source,
                feature=f.feature,
                category=category,
                reason="no match" if category == "uncategorised" else None,
                subcategory="plus" if f.layer is None and category == "operators" else None,
            )
        )
        made.append(
            CategoryTrial(item=f"0/{f.source}/{f.feature}", source=f.source, feature=f.feature, interpreter="lexical",
                          trial=0, category="operators" if i % 3 == 0 else "the_rest")
        )  # fmt: skip
    return made


def _planted() -> list[Record]:
    made: list[Record] = []
    for kind, grade in (("token", 0), ("class", 1), ("mixture", 2), ("peak", 2)):
        for i in range(5):
            name = f"{kind}-{i}"
            made.append(feature(PLANTED, name, None, None, 1.0))
            made.append(PlantedFeature(item=name, feature=name, kind=kind, concepts=(HOSTILE,), right_grade=grade))  # type: ignore[arg-type]
            made.append(
                Explanation(item=name, source=PLANTED, feature=name, interpreter="lexical", explanation="x",
                            grade=0 if kind == "peak" else grade if i else 1,  # type: ignore[arg-type]
                            grade_top=grade, reason="because", n_exemplars=2)
            )  # fmt: skip
    return made


def _scores(found: list[Feature]) -> list[Record]:
    return [
        ExplanationScore(
            item=f"{kind}/{f.feature}", source=f.source, feature=f.feature, interpreter="lexical",
            kind=kind,  # type: ignore[arg-type]
            n_positive=5, n_negative=5, n_hard=2, n_not_quiet=2 if i == 3 else 0, n_unanswered=i % 2,
            balanced_accuracy=0.5 + i / (80 if kind == "output-random" else 40) if i and kind != "simulation" else None,
            auc=None if i == 0 or kind in ("intruder", "simulation") else 0.6,
            correlation=Estimate(i / 10, i / 20, math.inf) if i and kind == "simulation" else None,
            reason="1 held-out context, and 5 are needed" if i == 0 else None,
            contexts=(RatedContext(document=HOSTILE, start=3, label=True, hard=False, rating=0.5),),
        )
        for i, f in enumerate(found[:10])
        for kind in ("detection", "fuzzing", "intruder", "simulation", "output", "output-random")
    ]  # fmt: skip


def _trials(found: list[Feature]) -> list[Record]:
    return [
        JudgeTrial(
            item=f"{condition}/{trial}/{f.source}/{f.feature}", source=f.source, feature=f.feature,
            interpreter="lexical", condition=condition,  # type: ignore[arg-type]
            trial=trial, explanation="operators", grade=(0, 1, 2)[i % 3],
            grade_top=(0, 1, 2)[i % 3], status="graded", reason="because",
        )
        for i, f in enumerate(found[:12])
        for condition in ("repeat", "shuffle")
        for trial in range(2)
    ]  # fmt: skip


def _coverages(found: list[Feature]) -> list[Record]:
    return [
        Coverage(
            item=f"{f.source}/{f.feature}", source=f.source, feature=f.feature, interpreter="lexical",
            basis="rule" if i % 4 != 3 else None, density_per_token=f.density_per_token,
            n_active=100, n_inactive=900, n_documents=10, n_covered=50 if i % 4 != 3 else None, matched_above=0.2,
            matched_density_per_token=0.01, matched_grade_top=(0, 0, 2, None)[i % 4],
            reason=None if i % 4 != 3 else "no explanation: the reply was not JSON",
            **{
                name: Estimate(value, value / 2, (1 + value) / 2) if i % 4 != 3 else None
                for name, value in (("purity", 0.3 + i / 200), ("recall", 0.7), ("matched_purity", 0.6),
                                    ("matched_recall", 0.2))
            },
        )
        for i, f in enumerate(found)
    ]  # fmt: skip


def _writes(found: list[Feature]) -> list[Record]:
    return [
        WriteDirection(
            item=f"{f.source}:{f.feature}", source=f.source, feature=f.feature, layer=f.layer, projection=f.projection,
            write_norm=2.0, lens_share=1.0, promoted=(" wait", "7"), promoted_logits=(3.0, 2.0), suppressed=(" so",),
            suppressed_logits=(-2.5,), p_promoted=0.005, p_suppressed=0.4, effect_tokens=(" wait", " so"),
            effects_nats=(0.3, -0.2), effects_half_width_nats=(0.1, 0.05), null_tokens=(" so", " wait"),
            effect_p=0.005, n_tokens=900, n_documents=8, n_null=200, read_by=("L3.up_proj",), read_cosines=(0.4,),
            read_p=0.02,
        )
        for f in found
    ]  # fmt: skip


def _enrichment(found: list[Feature]) -> list[Record]:
    return [
        Enrichment(
            item=f"{f.source}/{f.feature}", source=f.source, feature=f.feature, active_above=0.1, n_active=100,
            n_tokens=1000, n_documents=10, top_class="operator", top_class_share=0.9,
            events=tuple(
                EventAssociation(family="event", event=event, n_event=50, n_both=30, activation_share=0.4,
                                 odds_ratio=Estimate(3.0 + i, 2.0, 9.0), p_value=0.001, q_value=0.01)
                for event in ("wait", "digit")
            ),
        )
        for i, f in enumerate(found)
    ]  # fmt: skip


def _call(name: str, status: str) -> LLMCall:
    reply = LLMReply(text="{}", finish_reason="stop", model="m", input_tokens=100, output_tokens=20)
    return LLMCall(
        key=digest(name),
        provider="scripted",
        role="explainer",
        request=LLMRequest(model="m", user=HOSTILE),
        status=status,  # type: ignore[arg-type]
        reply=reply if status == "ok" else None,
        error=None if status == "ok" else "429 after 5 attempts",
        n_attempts=1 if status == "ok" else 5,
        latency_s=0.5,
    )
