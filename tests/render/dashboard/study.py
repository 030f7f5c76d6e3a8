"""A finished run with activations on disk, of any size, with text as hostile as a corpus can hold."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.sparse import csr_array

from harness.activations.exemplars import collect_features
from harness.activations.store import open_set
from harness.activations.writer import ActivationWriter
from harness.model.chat import Document
from harness.records import (
    ActivationSet,
    Attribution,
    Category,
    CategoryAssignment,
    Checkpoint,
    Dictionary,
    DocumentDivergence,
    Enrichment,
    Estimate,
    EventAssociation,
    Explanation,
    ExplanationScore,
    Feature,
    LatentEffect,
    ModelRef,
    RatedContext,
    Record,
    SteeringEffect,
    WriteDirection,
)
from harness.store.writer import Store

HOSTILE = (
    "</script>", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!--", "]]>", "&lt;b&gt;", "\u2028",
    "\u2029", "\u202e", "\u2067", "\u200b", "\x00", "\x1b[31m", "\x7f", "\u0085", "\\", '"', "'", "`${alert(1)}`",
    "{{x}}", "\n", "\t", " ", "é", "🙂", "مرحبا", "javascript:alert(1)", "__proto__", "constructor",
)  # fmt: skip
"""Tokens that would do something if anything took them for more than text."""

PROJECTIONS = ("q_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Study:
    """Where it lies: the database and the artefact folder."""

    db: Path
    artifacts: Path


def make_study(
    folder: Path,
    *,
    n_layers: int = 2,
    n_latents: int = 40,
    n_documents: int = 12,
    n_tokens: int = 120,
    n_exemplars: int = 16,
    n_words: int = 400,
    n_sampled: int = 4,
    hostile: tuple[str, ...] = HOSTILE,
    seed: int = 0,
) -> Study:
    """Write a study: components (dense, signed) and latents (sparse) over the same documents."""
    rng = random.Random(seed)
    words = [*hostile, *(" " + "".join(rng.choices("abcdefghijklmnop", k=rng.randint(1, 8))) for _ in range(n_words))]
    ids = {f"trace-{i:04d}": _text(rng, len(words), len(hostile), n_tokens, i) for i in range(n_documents)}
    artifacts = folder / "artifacts"
    components = _component_set(artifacts / "probe-adapter-activations" / "activations", words, ids, n_layers, seed)
    latents = _latent_set(artifacts / "learn-batch-topk" / "latents", words, ids, n_latents, seed)
    _write_weights(artifacts, components.columns, n_latents, seed)
    db = folder / "results.db"
    with Store.open(db) as store:
        _store(store, artifacts, components, latents, n_exemplars, n_sampled)
    return Study(db, artifacts)


def _text(rng: random.Random, n_words: int, n_hostile: int, n_tokens: int, number: int) -> list[int]:
    """Word numbers, the frequent ones first as in language; the first document holds every hostile token."""
    weights = [1 / (1 + rank) for rank in range(n_words)]
    ids = rng.choices(range(n_words), weights, k=n_tokens)
    if number == 0:
        ids[5 : 5 + 2 * n_hostile : 2] = range(n_hostile)
    return ids


def _document(name: str, words: list[str], ids: list[int]) -> Document:
    texts = [words[i] for i in ids]
    ends = np.cumsum([len(t) for t in texts]).tolist()
    spans = tuple((end - len(t), end) for t, end in zip(texts, ends, strict=True))
    third = len(ids) // 3
    segments = ("prompt",) * third + ("think",) * third + ("answer",) * (len(ids) - 2 * third)
    return Document(name, "".join(texts), tuple(ids), spans, segments, (False, *([True] * (len(ids) - 1))))  # type: ignore[arg-type]


def _component_set(path: Path, words: list[str], ids: dict[str, list[int]], n_layers: int, seed: int) -> ActivationSet:
    names = tuple(f"L{layer}.{p}" for layer in range(n_layers) for p in PROJECTIONS)
    writer = ActivationWriter(
        path, "adapter-activations", names, layers=tuple(i // len(PROJECTIONS) for i in range(len(names))),
        projections=PROJECTIONS * n_layers, signed=True, site="a · x", chat_hash="c",
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    likes = rng.normal(size=(len(words), len(names)))
    for name, own in ids.items():
        values = likes[own] + 0.1 * rng.normal(size=(len(own), len(names)))
        writer.append(_document(name, words, own), values.astype(np.float32))
    return writer.finish()


def _latent_set(path: Path, words: list[str], ids: dict[str, list[int]], n_latents: int, seed: int) -> ActivationSet:
    """Each latent likes one word, and fires a little on others; the last latent is dead."""
    writer = ActivationWriter(
        path, "batch-topk", tuple(f"latent{i}" for i in range(n_latents)), layers=(None,) * n_latents,
        projections=(None,) * n_latents, signed=False, site="codes", chat_hash="c", sparse=True,
    )  # fmt: skip
    rng = np.random.default_rng(seed + 1)
    for name, own in ids.items():
        tokens = np.arange(len(own)).repeat(8)
        columns = rng.integers(0, n_latents - 1, size=len(tokens))
        values = rng.lognormal(0, 0.6, size=len(tokens))
        liked = np.array(own) % max(n_latents - 1, 1)
        columns[::8], values[::8] = liked, 6 + rng.random(len(own))
        matrix = csr_array((values.astype(np.float32), (tokens, columns)), shape=(len(own), n_latents))
        writer.append(_document(name, words, own), matrix)
    return writer.finish("latents")


def _write_weights(artifacts: Path, columns: tuple[str, ...], n_latents: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dictionary, adapter = artifacts / "learn-batch-topk" / "dictionary", artifacts / "train-rank1-lora" / "adapter"
    dictionary.mkdir(parents=True)
    adapter.mkdir(parents=True)
    decoder = torch.randn(n_latents, len(columns), generator=generator)
    save_file({"W_dec": decoder}, dictionary / "sae_weights.safetensors")
    tensors = {}
    for name in columns:
        layer, _, projection = name[1:].partition(".")
        module = f"base_model.model.model.layers.{layer}.mlp.{projection}"
        tensors[f"{module}.lora_A.weight"] = torch.randn(1, 16, generator=generator)
        tensors[f"{module}.lora_B.weight"] = torch.randn(16, 1, generator=generator)
    save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 1, "lora_alpha": 4, "use_rslora": True}))


def _store(
    store: Store, artifacts: Path, components: ActivationSet, latents: ActivationSet, n_exemplars: int, n_sampled: int
) -> None:
    from tests.store import synthetic as made

    run = store.begin_run(
        study="rank1-lora", preset="tiny", seed=0, provenance=made.PROVENANCE, device="cpu", model="<b>model</b>"
    )
    read = [
        collect_features(open_set(s), k=n_exemplars, cap=4, window=10, sample=n_sampled) for s in (components, latents)
    ]
    component_features, latent_features = list(read[0]), list(read[1])
    steps: list[tuple[str, str, str | None, list[Any]]] = [
        ("train/rank1-lora", "train", "rank1-lora", [_checkpoint(artifacts)]),
        ("probe/adapter-activations", "probe", "adapter-activations", [components, *component_features]),
        (
            "learn/batch-topk",
            "learn",
            "batch-topk",
            [_dictionary(artifacts, components, len(latent_features)), latents, *latent_features],
        ),
        *[
            (f"interpret/lexical/{own[0].source}", "interpret", "lexical", _explanations(own))
            for own in (component_features, latent_features)
        ],
        ("score/lexical", "interpret", "lexical", _judgements(latent_features)),
        ("categorise/lexical", "categorise", "lexical", _categories([*component_features, *latent_features])),
        (
            "ablate/leave-one-out",
            "ablate",
            "leave-one-out",
            [made.ablation("adapter", 0.5)]
            + [
                made.ablation("component", 0.01 * (i + 1), layer=layer, projection=p)
                for i, (layer, p) in enumerate(zip(components.layers, components.projections, strict=True))
            ],
        ),
        ("ablate/attribute", "ablate", "attribute", [_attribution("trace-0003", 90, components.columns)]),
        (
            "ablate/differences",
            "ablate",
            "differences",
            [_divergence("trace-0001", full=True), _divergence("trace-0002")],
        ),
        ("judge/batch-topk", "judge", "batch-topk", [_latent_effect("latent7")]),
        (
            "ablate/write-directions",
            "ablate",
            "write-directions",
            [
                _written("batch-topk", "latent7"),
                _written("adapter-activations", "L1.up_proj-", why="up_proj does not write into the stream"),
            ],
        ),
        ("ablate/steer", "ablate", "steer", _steered("batch-topk/latent7")),
    ]
    for position, (name, stage, plugin, records) in enumerate(steps):
        step, _ = store.begin_step(run, position, **made.step_values(name, stage, plugin))
        store.write_many(step, records)
        store.finish_step(step, status="done", wall_s=1.0, output={})
    store.finish_run(run, status="done")


def _attribution(document: str, position: int, columns: tuple[str, ...]) -> Attribution:
    """A token whose contributions are 1, -2, 3 ... of the components, at one earlier token each, and of one latent."""
    values = {name: float((-1) ** i * (i + 1)) for i, name in enumerate(columns)}
    by_token = [0.0] * position
    sources: list[tuple[str, str, int, float]] = []
    for i, (name, value) in enumerate(values.items()):
        by_token[10 + 7 * i] = value
        sources.append(("", name, 10 + 7 * i, value))
    return Attribution(
        item=f"{document}:{position}", document=document, outcome="log-probability", span="written", position=position,
        token="</script>", n_tokens=1, with_adapter=-0.5, without_adapter=-0.5 - sum(values.values()) - 0.25, n_nodes=4,
        first_order=values, integrated=values, own={}, left_out={columns[0]: 0.75}, drawn=(), by_token=tuple(by_token),
        latents={"batch-topk": {"latent7": 1.5}}, unexplained={"batch-topk": 0.1},
        sources=(*sources, ("batch-topk", "latent7", 12, 1.5)),
    )  # fmt: skip


def _latent_effect(latent: str) -> LatentEffect:
    return LatentEffect(
        item=f"effect:{latent}", source="batch-topk", latent=latent, kl_nats=Estimate(0.02, 0.01, 0.03), n_active=30,
        n_tokens=480, n_documents=6,
    )  # fmt: skip


def _written(source: str, feature: str, why: str | None = None) -> WriteDirection:
    """Seven tokens, as the three first and the four last that a text raises and lowers."""
    lens: dict[str, Any] = {} if why else {
        "promoted": (" wait", "</script>"), "promoted_logits": (3.0, 2.0), "suppressed": (" so",),
        "suppressed_logits": (-2.0,), "p_promoted": 0.0004, "p_suppressed": 0.4, "lens_share": 0.5,
    }  # fmt: skip
    return WriteDirection(
        item=f"{source}:{feature}", source=source, feature=feature, layer=None, projection=None, write_norm=1.0,
        reason=why, effect_tokens=("\u202e", "b", "c", "d", "e", "f", "g"),
        effects_nats=(0.3, 0.2, 0.1, -0.1, -0.2, -0.3, -0.4), effects_half_width_nats=(0.05,) * 7, effect_p=0.015,
        n_tokens=900, n_documents=8, n_null=200,
        read_by=("L1.down_proj",), read_cosines=(-0.25,), read_p=0.02, **lens,
    )  # fmt: skip


def _steered(feature: str) -> list[Record]:
    """A dose of 10 that raises the KL by 0.5 nats, 0.4 of them in excess of a random direction."""
    made: list[Record] = []
    for control in ("itself", "random"):
        itself = control == "itself"
        made.append(
            SteeringEffect(
                item=f"{feature}/dose 10/{control}/text/kl", source="batch-topk", feature=feature, kind="latent",
                chosen_by="reads wait best", push="dose", size=10, std=0.25, times_normal=2, control=control,
                where="text", quantity="kl", unit="nats", at_rest=0, change=Estimate(0.5, 0.4, 0.6),
                excess=None if itself else Estimate(0.4, 0.3, 0.5), p_value=None if itself else 0.001, n_documents=8,
                n_units=640,
            )
        )  # fmt: skip
    return made


def _divergence(document: str, *, full: bool = False) -> DocumentDivergence:
    """A KL of 2 nats after token 30 and of 0.5 after token 31, measured from token 20 on."""
    kl = tuple({30: 2.0, 31: 0.5}.get(i, 0.0) for i in range(20, 120))
    return DocumentDivergence(
        item=document, chat_hash="c", first=20, kl_nats=kl, kl_full_nats=kl[::-1] if full else None,
        reason=None if full else "no full fine-tune",
    )  # fmt: skip


def _checkpoint(artifacts: Path) -> Checkpoint:
    return Checkpoint(
        kind="adapter", path=artifacts / "train-rank1-lora" / "adapter", base=ModelRef(path="base"), chat_hash="c",
        n_parameters=1, n_examples=1,
    )  # fmt: skip


def _dictionary(artifacts: Path, components: ActivationSet, n_latents: int) -> Dictionary:
    path = artifacts / "learn-batch-topk" / "dictionary"
    return Dictionary(name="batch-topk", path=path, columns=components.columns, n_latents=n_latents, k=8)


def _explanations(features: list[Feature]) -> list[Record]:
    made: list[Record] = []
    for i, f in enumerate(features):
        grade = (0, 1, 2, None)[i % 4]
        top = f.exemplars[0].tokens[f.exemplars[0].target] if f.exemplars else "nothing"
        made.append(
            Explanation(
                item=f.feature,
                source=f.source,
                feature=f.feature,
                interpreter="lexical",
                explanation=None if grade is None else f"fires on {top} and <b>others</b>",
                grade=grade,  # type: ignore[arg-type]
                reason="the reply was not JSON" if grade is None else f"because of {HOSTILE[i % len(HOSTILE)]}",
                raw="</script><script>alert(2)</script>" if grade is None else None,
                n_exemplars=len(f.exemplars),
            )
        )
    return made


def _judgements(features: list[Feature]) -> list[Record]:
    """Every other latent is scored; what each goes with."""
    made: list[Record] = []
    for i, f in enumerate(features):
        if i % 2 == 0:
            ratings = [(True, 0.9)] * 8 + [(True, 0.2)] * 2 + [(False, 0.1)] * 9 + [(False, None)]
            made.append(
                ExplanationScore(
                    item=f"detection/{f.feature}", source=f.source, feature=f.feature, interpreter="lexical",
                    kind="detection", n_positive=10, n_negative=10, n_hard=3, n_unanswered=1, balanced_accuracy=0.85,
                    auc=0.91,
                    contexts=tuple(
                        RatedContext(document="t", start=k, label=truth, hard=False, rating=rating)
                        for k, (truth, rating) in enumerate(ratings)
                    ),
                )
            )  # fmt: skip
        event = EventAssociation(
            family="event", event="<i>Wait</i>", n_event=50, n_both=40, activation_share=0.8, 
            odds_ratio=Estimate(12.5, 7.1, 22.0), p_value=1e-9, q_value=1e-7,
        )  # fmt: skip
        made.append(
            Enrichment(
                item=f"{f.source}/{f.feature}", source=f.source, feature=f.feature, active_above=0, n_active=100,
                n_tokens=1000, n_documents=12, top_class=None, top_class_share=None, reason="no classes",
                events=(event,),
            )
        )  # fmt: skip
    return made


def _categories(features: list[Feature]) -> list[Record]:
    names = {"operators": "Operators </script>", "discourse": "Discourse \u202e marks", "numbers": "Numbers"}
    made: list[Record] = [
        Category(item=f"category:{key}", category=key, name=name, definition="d") for key, name in names.items()
    ]
    for i, f in enumerate(features):
        category = (*names, "uncategorised")[i % 4]
        made.append(
            CategoryAssignment(item=f"{f.source}/{f.feature}", source=f.source, feature=f.feature, category=category)
        )
    return made
