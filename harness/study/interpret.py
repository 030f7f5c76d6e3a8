"""The steps round interpreters: plant, interpret, score, judge, categorise, enrich. And `execute`, for every kind.

An interpreter explains, grades, categorises and answers; what it is asked, and what is made of its answers, is the same
for all interpreters and all sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from harness.contract.context import RunContext
from harness.records import (
    PLANTED,
    SCORING_KINDS,
    ActivationSet,
    CategoryAssignment,
    CategoryTrial,
    Evidence,
    Explanation,
    Feature,
    Record,
)
from harness.study.answers import verify
from harness.study.plan import Step
from harness.study.steps import KINDS, Workbench, implementation, store_features


def execute(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    """Do a step; yield its records as they are made."""
    yield from _ALL[step.kind](step, bench, run)


def _plant(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    from harness.activations.store import open_set
    from harness.interpretation.planted import draw_plants, write_plants

    config, features = bench.plan.row.grading, bench.plan.row.features
    stored = open_set(bench.activations(step))
    plants = draw_plants(stored, config.planted, k=features.exemplars, cap=features.per_document, seed=run.seed)
    activations = write_plants(plants, stored, run.out_dir / "planted", seed=run.seed)
    yield activations
    yield from (p.record for p in plants if p.record.item not in run.done)
    yield from store_features(activations, bench, run)


def _interpret(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    yield from implementation(step, bench).explain(_evidence(step.inputs[0], bench), run)


def _score(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    from harness.activations.store import open_set
    from harness.interpretation.contexts import Column, ContextPool, FeatureTests, TooFew
    from harness.interpretation.reliability import spread_sample
    from harness.interpretation.scoring import by_kind, score, unscored

    assert step.plugin is not None
    explained, source = step.inputs
    config = bench.plan.row.scoring
    activations: ActivationSet = bench.outputs[source]["ActivationSet"]
    source_name = activations.source
    explanations = {e.feature: e for e in bench.stored(explained, Explanation) if e.explanation is not None}
    places = _places(activations)
    layers = {f: activations.layers[places[f][0]] for f in explanations}
    # seeded by the source alone, so that every interpreter is asked about the same features
    chosen = set(spread_sample(layers, config.features, f"{bench.plan.seed}/{activations.source}"))
    chosen = {f for f in chosen if f"intruder/{f}" not in run.done}
    features = [f for f in bench.stored(source, Feature) if f.feature in chosen]
    columns = [Column(*places[f.feature]) for f in features]
    if not features:
        return
    pool = ContextPool(open_set(activations), columns, config, bench.plan.seed)
    tests = []
    for column, feature in enumerate(features):
        made = FeatureTests(pool, feature, column, config, f"{bench.plan.seed}/{feature.feature}").tests()
        if isinstance(made, TooFew):
            for kind in SCORING_KINDS:
                yield unscored(feature.source, feature.feature, kind, step.plugin, made.reason)
        else:
            tests += list(made)
    asked = [(explanations[t.feature], t) for t in tests]
    answers = {a.item: a for a in implementation(step, bench).answer(asked, run)}
    made_of = by_kind(tests)
    for name in dict.fromkeys(t.feature for t in tests):
        for kind in SCORING_KINDS:
            own = made_of.get((name, kind))
            why = "no such test: too few activating contexts, or none are asked for"
            yield score(own, answers, step.plugin) if own else unscored(source_name, name, kind, step.plugin, why)


def _regrade(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    from harness.interpretation.reliability import spread_sample, trials

    config, judge = bench.plan.row.grading, implementation(step, bench)
    for name in step.inputs:
        (source,) = bench.plan.step(name).inputs
        explanations = bench.stored(name, Explanation)
        evidence = _evidence(source, bench)
        layers = {e.feature: e.layer for e in evidence}
        graded = {e.feature: layers[e.feature] for e in explanations if e.status != "dead"}
        n = len(graded) if source.endswith(f"/{PLANTED}") else config.features
        yield from trials(
            judge,
            evidence,
            frozenset(spread_sample(graded, n, f"{run.seed}/{source}")),
            {e.feature: e.n_exemplars for e in explanations},
            run,
            repeats=config.repeats,
            shuffles=config.shuffles,
        )


def _categorise(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    yield from implementation(step, bench).categorise(_explained(step, bench), run)


def _recategorise(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    """Categories made and assigned once more, of a sample of the features: other explanations, another repeat."""
    from harness.interpretation.reliability import spread_sample

    assert step.plugin is not None
    pairs = _explained(step, bench)
    sample: set[tuple[str, str]] = set()
    for source in dict.fromkeys(x.source for x, _ in pairs):
        layers = {x.feature: e.layer for x, e in pairs if x.source == source and x.explanation is not None}
        chosen = spread_sample(layers, bench.plan.row.grading.recategorised, f"{run.seed}/{source}")
        sample |= {(source, feature) for feature in chosen}
    own = replace(run, done=frozenset(), repeat=1)
    for record in implementation(step, bench).categorise(
        [p for p in pairs if (p[0].source, p[0].feature) in sample], own
    ):
        item = f"0/{record.item}"
        if isinstance(record, CategoryAssignment) and item not in run.done:
            yield CategoryTrial(
                item=item,
                source=record.source,
                feature=record.feature,
                interpreter=step.plugin,
                trial=0,
                category=record.category,
                reason=record.reason,
            )


def _enrich(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    from harness.activations.store import open_set
    from harness.interpretation.enrichment import SourceFeatures, enrich
    from harness.interpretation.events import EventFinder

    config = bench.plan.row.enrichment
    finder = EventFinder(config.events, bench.documents(), bench.plan.row.read_chat or bench.plan.row.chat)
    sources = []
    for source in step.inputs:
        features = [
            (config.active_share * f.activation_max, [(e.document, e.position) for e in f.exemplars])
            for f in bench.stored(source, Feature)
        ]
        stored = open_set(bench.outputs[source]["ActivationSet"])
        sources.append(SourceFeatures(stored, [t for t, _ in features], [places for _, places in features]))
    yield from (record for record in enrich(sources, finder) if record.item not in run.done)


def _evidence(step_name: str, bench: Workbench) -> list[Evidence]:
    from harness.activations.exemplars import evidence

    return evidence(bench.stored(step_name, Feature), bench.plan.row.features.exemplars)


def _explained(step: Step, bench: Workbench) -> list[tuple[Explanation, Evidence]]:
    """Every explanation that the step reads, with what it was made of."""
    explained: list[tuple[Explanation, Evidence]] = []
    for name in step.inputs:
        (source,) = bench.plan.step(name).inputs
        shown = {e.feature: e for e in _evidence(source, bench)}
        explained += [(e, shown[e.feature]) for e in bench.stored(name, Explanation)]
    return explained


def _places(activations: ActivationSet) -> dict[str, tuple[int, int]]:
    """Feature -> (column, sign)."""
    signs = ((1, "+"), (-1, "-")) if activations.signed else ((1, ""),)
    return {f"{c}{mark}": (i, sign) for i, c in enumerate(activations.columns) for sign, mark in signs}


_ALL: dict[str, Callable[[Step, Workbench, RunContext], Iterator[Record]]] = {
    **KINDS,
    "verify": verify,
    "plant": _plant,
    "interpret": _interpret,
    "score": _score,
    "regrade": _regrade,
    "categorise": _categorise,
    "recategorise": _recategorise,
    "enrich": _enrich,
}
