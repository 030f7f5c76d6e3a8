"""Interpret the features: every interpreter over every source, and the steps that its judgements are checked by.

An interpreter explains, grades, categorises and answers; what it is asked, and what is made of its answers, is the same
for all interpreters and all sources.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, get_args

from harness.contract.context import RunContext
from harness.errors import UsageError
from harness.interpretation.config import CoverageConfig, EnrichmentConfig, GradingConfig, ScoringConfig
from harness.records import (
    GRADER,
    JUDGE,
    PLANTED,
    ROLES,
    SCORING_KINDS,
    SECOND_JUDGE,
    ActivationSet,
    CategoryAssignment,
    CategoryTrial,
    Evidence,
    Explanation,
    Feature,
    Grade,
    PlantedKind,
    Record,
)  # fmt: skip
from harness.study.costs import Cost, CostModel, total
from harness.study.machine import INTERPRET_S
from harness.study.planner import Planner, StageSteps, StepKind
from harness.study.state import RunState
from harness.study.step import Step
from harness.study.steps import kind_of
from harness.study.steps.probe import FeaturesConfig, documents, select_features

INSTRUCTION_TOKENS = 600
"""Of an explainer's or categoriser's prompt, without the contexts (appendix B)."""


def _plan(planner: Planner) -> None:
    """Every source's features are interpreted, and planted ones with them.

    Raises:
        UsageError: some roles have an LLM, and others that are asked have none.
    """
    study, sources = planner.study, planner.sources
    grading = study.settings(GradingConfig)
    planted: list[str] = []
    if study.interpreters and study.probes and grading.planted:
        settings = [study.settings(FeaturesConfig).model_dump(), "3"]
        planted = [planner.add("plant/planted", PLANT, None, grading, tuple(sources[:1]), settings)]
    for name in study.interpreters:
        _plan_interpreter(planner, name, (*sources, *planted))
    if study.interpreters and sources:
        corpus = [planner.data, (study.read_chat or study.chat).model_dump()]
        planner.add("enrich/features", ENRICH, None, study.settings(EnrichmentConfig), tuple(sources), corpus)


def _plan_interpreter(planner: Planner, name: str, sources: tuple[str, ...]) -> None:
    study = planner.study
    scoring, grading = study.settings(ScoringConfig), study.settings(GradingConfig)
    registration = planner.manager.offer(name).registration
    if registration.asks_llm:
        _check_roles(name, planner.llms)
    llms = llms_of(planner, name)
    explained: dict[str, str] = {}
    for source in sources:
        suffix = source.partition("/")[2]
        explained[source] = step = planner.plugin(INTERPRET, name, (source,), llms, suffix=suffix)
        if source in planner.sources and registration.scores and scoring.features:
            settings = [llms, scoring.model_dump(mode="json")]
            planner.plugin(SCORE, name, (step, source), settings, suffix=suffix)
    judged = [llms, grading.model_dump(mode="json")]
    if grading.repeats or grading.shuffles or {JUDGE, SECOND_JUDGE} & set(study.providers):
        planner.plugin(REGRADE, name, tuple(explained.values()), judged)
    settings = [llms, study.settings(CoverageConfig).model_dump(mode="json")]
    planner.plugin(COVER, name, tuple(explained.values()), settings)
    categorised = tuple(explained[source] for source in planner.sources)
    planner.plugin(CATEGORISE, name, categorised, llms)
    if grading.recategorised:
        planner.plugin(RECATEGORISE, name, categorised, judged)


def llms_of(planner: Planner, name: str) -> dict[str, Any]:
    """Role -> what a key says of the LLM that an interpreter asks in it; empty where it asks none."""
    if not planner.manager.offer(name).registration.asks_llm:
        return {}
    return {role: llm.identity() for role, llm in planner.llms.items() if role != GRADER}


def _check_roles(name: str, llms: Collection[str]) -> None:
    """Before hours of training rather than after them."""
    missing = [role for role in ROLES if role not in llms and role not in (JUDGE, SECOND_JUDGE, GRADER)]
    if llms and missing and "default" not in llms:
        raise UsageError(
            f"{name}: no LLM is named for {', '.join(missing)}: name one for all roles that have none of their own, "
            "--provider NAME:MODEL"
        )


def _plant(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    from harness.activations.store import open_set
    from harness.interpretation.planted import draw_plants, write_plants

    grading, features = state.plan.study.settings(GradingConfig), state.plan.study.settings(FeaturesConfig)
    stored = open_set(state.activations(step))
    plants = draw_plants(stored, grading.planted, k=features.exemplars, cap=features.per_document, seed=run.seed)
    activations = write_plants(plants, stored, run.out_dir / "planted", seed=run.seed)
    yield activations
    yield from (p.record for p in plants if p.record.item not in run.done)
    yield from select_features(activations, state, run)


def _interpret(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    yield from state.implementation(step).explain(_evidence(step.inputs[0], state), run)


def _score(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    from harness.activations.store import open_set
    from harness.interpretation.contexts import Column, ContextPool, FeatureTests, TooFew
    from harness.interpretation.reliability import spread_sample
    from harness.interpretation.scoring import by_kind, score, unscored

    assert step.plugin is not None
    explained, source = step.inputs
    config, seed = state.plan.study.settings(ScoringConfig), state.plan.seed
    activations: ActivationSet = state.outputs[source]["ActivationSet"]
    explanations = {e.feature: e for e in state.stored(explained, Explanation) if e.explanation is not None}
    places = _places(activations)
    layers = {f: activations.layers[places[f][0]] for f in explanations}
    # seeded by the source alone, so that every interpreter is asked about the same features
    chosen = set(spread_sample(layers, config.features, f"{seed}/{activations.source}"))
    chosen = {f for f in chosen if f"intruder/{f}" not in run.done}
    features = [f for f in state.stored(source, Feature) if f.feature in chosen]
    columns = [Column(*places[f.feature]) for f in features]
    if not features:
        return
    pool = ContextPool(open_set(activations), columns, config, seed)
    tests = []
    for column, feature in enumerate(features):
        made = FeatureTests(pool, feature, column, config, f"{seed}/{feature.feature}").tests()
        if isinstance(made, TooFew):
            for kind in SCORING_KINDS:
                yield unscored(feature.source, feature.feature, kind, step.plugin, made.reason)
        else:
            tests += list(made)
    answers = {a.item: a for a in state.implementation(step).answer([(explanations[t.feature], t) for t in tests], run)}
    tests_of = by_kind(tests)
    why = "no such test: too few activating contexts, or none are asked for"
    for name in dict.fromkeys(t.feature for t in tests):
        for kind in SCORING_KINDS:
            if (name, kind) in tests_of:
                yield score(tests_of[name, kind], answers, step.plugin)
            else:
                yield unscored(activations.source, name, kind, step.plugin, why)


def _regrade(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    from harness.interpretation.reliability import spread_sample, trials

    config, judge = state.plan.study.settings(GradingConfig), state.implementation(step)
    certain = state.registration(step).deterministic
    for name in step.inputs:
        (source,) = state.plan.step(name).inputs
        explanations = state.stored(name, Explanation)
        evidence = _evidence(source, state)
        layers = {e.feature: e.layer for e in evidence}
        graded = {e.feature: layers[e.feature] for e in explanations if e.status != "dead"}
        n = len(graded) if source.endswith(f"/{PLANTED}") else config.features
        sample = frozenset(spread_sample(graded, n, f"{run.seed}/{source}"))
        n_exemplars = {e.feature: e.n_exemplars for e in explanations}
        yield from trials(judge, evidence, sample, n_exemplars, run, repeats=config.repeats,
                          shuffles=config.shuffles, deterministic=certain)  # fmt: skip


def _cover(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    """What each explanation is worth over all of its feature's activation."""
    from harness.activations.store import open_set
    from harness.interpretation.coverage import ExplainedSource
    from harness.interpretation.covering import Interpreting, above, coverages, not_covered

    assert step.plugin is not None
    implementation, registration = state.implementation(step), state.registration(step)
    sources, regraded, unexplained = [], {}, []
    for name in step.inputs:
        (source,) = state.plan.step(name).inputs
        features = {f.feature: f for f in state.stored(source, Feature)}
        pairs = []
        for explanation in state.stored(name, Explanation):
            feature = features[explanation.feature]
            if explanation.explanation is None or feature.activation_sum == 0:
                unexplained.append(not_covered(feature, step.plugin, f"no explanation: {explanation.reason}"))
            else:
                pairs.append((feature, explanation))
        stored = open_set(state.outputs[source]["ActivationSet"])
        sources.append(ExplainedSource(stored, [f for f, _ in pairs], [e for _, e in pairs]))
        regraded[stored.set.source] = source

    def regrade(source: str, limits: Mapping[str, float]) -> dict[str, Grade | None]:
        if registration.asks_llm:
            return dict.fromkeys(limits)
        evidence = [
            above(e, limits[e.feature]) if e.feature in limits else e for e in _evidence(regraded[source], state)
        ]
        others = frozenset(e.feature for e in evidence if e.feature not in limits)
        return {x.feature: x.grade_top for x in implementation.explain(evidence, replace(run, done=others))}

    by = Interpreting(
        step.plugin,
        implementation if registration.rules else None,
        (lambda tests: implementation.answer(tests, run)) if registration.scores else None,
        regrade,
    )
    found = chain(unexplained, coverages(sources, by, state.plan.study.settings(CoverageConfig), run.seed))
    yield from (record for record in found if record.item not in run.done)


def _categorise(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    yield from state.implementation(step).categorise(_explained(step, state), run)


def _recategorise(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    """Categories made and assigned once more, of a sample of the features: other explanations, another repeat."""
    from harness.interpretation.reliability import spread_sample

    assert step.plugin is not None
    pairs = _explained(step, state)
    n = state.plan.study.settings(GradingConfig).recategorised
    sample: set[tuple[str, str]] = set()
    for source in dict.fromkeys(x.source for x, _ in pairs):
        layers = {x.feature: e.layer for x, e in pairs if x.source == source and x.explanation is not None}
        sample |= {(source, feature) for feature in spread_sample(layers, n, f"{run.seed}/{source}")}
    sampled = [pair for pair in pairs if (pair[0].source, pair[0].feature) in sample]
    for record in state.implementation(step).categorise(sampled, replace(run, done=frozenset(), repeat=1)):
        item = f"0/{record.item}"
        if isinstance(record, CategoryAssignment) and item not in run.done:
            yield CategoryTrial(
                item=item, source=record.source, feature=record.feature, interpreter=step.plugin, trial=0,
                category=record.category, reason=record.reason,
                deterministic=state.registration(step).deterministic,
            )  # fmt: skip


def _enrich(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    from harness.activations.store import open_set
    from harness.interpretation.enrichment import SourceFeatures, enrich
    from harness.interpretation.events import EventFinder
    from harness.model.subject import load_tokenizer

    study = state.plan.study
    config = study.settings(EnrichmentConfig)
    chat = (study.read_chat or study.chat).resolved(load_tokenizer(study.model))
    finder = EventFinder(config.events, documents(state), chat)
    sources = []
    for source in step.inputs:
        features = [
            (config.active_share * f.activation_max, [(e.document, e.position) for e in f.exemplars])
            for f in state.stored(source, Feature)
        ]
        stored = open_set(state.outputs[source]["ActivationSet"])
        sources.append(SourceFeatures(stored, [t for t, _ in features], [places for _, places in features]))
    yield from (record for record in enrich(sources, finder) if record.item not in run.done)


def _evidence(source: str, state: RunState) -> list[Evidence]:
    from harness.activations.exemplars import evidence

    return evidence(state.stored(source, Feature), state.plan.study.settings(FeaturesConfig).exemplars)


def _explained(step: Step, state: RunState) -> list[tuple[Explanation, Evidence]]:
    """Every explanation that the step reads, with what it was made of."""
    explained: list[tuple[Explanation, Evidence]] = []
    for name in step.inputs:
        (source,) = state.plan.step(name).inputs
        evidence = {e.feature: e for e in _evidence(source, state)}
        explained += [(e, evidence[e.feature]) for e in state.stored(name, Explanation)]
    return explained


def _places(activations: ActivationSet) -> dict[str, tuple[int, int]]:
    """Feature -> (column, sign)."""
    signs = ((1, "+"), (-1, "-")) if activations.signed else ((1, ""),)
    return {f"{c}{mark}": (i, sign) for i, c in enumerate(activations.columns) for sign, mark in signs}


def _n_planted(step: Step, model: CostModel) -> int:
    return len(get_args(PlantedKind)) * model.plan.study.settings(GradingConfig).planted


def _n_features(source: Step, model: CostModel) -> int:
    count = kind_of(source).n_features
    return count(source, model) if count else 0


def _sources(step: Step, model: CostModel) -> list[Step]:
    """The sources of the explanations that a step reads."""
    return [model.plan.step(source) for name in step.inputs for source in model.plan.step(name).inputs]


def _prompt_tokens(step: Step, model: CostModel, setting: str, default: int) -> float:
    """Of a prompt that shows as many contexts as a setting of the interpreter says."""
    n_contexts = int(step.config.model_dump().get(setting) or default)
    return _context_tokens(n_contexts, model)


def _context_tokens(n_contexts: int, model: CostModel) -> float:
    return INSTRUCTION_TOKENS + n_contexts * (2 * model.plan.study.settings(FeaturesConfig).window + 1 + 40)


def _explaining_cost(n: int, prompt_tokens: float, model: CostModel) -> Cost:
    explained = model.asked("explainer", n, prompt_tokens)
    judged = [model.asked(JUDGE, n, prompt_tokens)] if JUDGE in model.plan.llms else []
    return total([_reading(n), explained, *judged])


def _reading(n_features: int) -> Cost:
    return Cost(other_s=n_features * INTERPRET_S)


def _interpret_cost(step: Step, model: CostModel) -> Cost:
    n = sum(_n_features(model.plan.step(name), model) for name in step.inputs)
    return total(
        [_explaining_cost(n, _prompt_tokens(step, model, "n_contexts", 64), model), _both_cost(step, n, model)]
    )


def _both_cost(step: Step, n: int, model: CostModel, *roles: str) -> Cost:
    """Of the second question: the grade on contexts of all strengths beside as many of the highest."""
    sampled = model.plan.study.settings(FeaturesConfig).sampled
    if not sampled or not getattr(step.config, "grades_both", True):
        return Cost()
    asked = roles or (JUDGE if JUDGE in model.plan.llms else "explainer",)
    prompt_tokens = _context_tokens(2 * sampled, model)
    return total(model.asked(role, n, prompt_tokens) for role in asked)


def _score_cost(step: Step, model: CostModel) -> Cost:
    """Scoring tests of a sample of the source's features; a simulation asks once per context."""
    config = model.plan.study.settings(ScoringConfig)
    n = min(config.features, _n_features(model.plan.step(step.inputs[1]), model))
    prompt_tokens = INSTRUCTION_TOKENS / 4 + 2 * config.contexts * (2 * config.window + 1)
    tests = model.asked("scorer", n * (2 + config.intruders), prompt_tokens)
    simulated = INSTRUCTION_TOKENS / 4 + 4 * (2 * config.window + 1)  # a line per token
    return total([_reading(n), tests, model.asked("scorer", 2 * n * config.simulated, simulated)])


def _regrade_cost(step: Step, model: CostModel) -> Cost:
    config = model.plan.study.settings(GradingConfig)
    n = 0
    for source in _sources(step, model):
        n_features = _n_features(source, model)
        n += n_features if source.kind == PLANT.name else min(config.features, n_features)
    prompt_tokens = _prompt_tokens(step, model, "n_contexts", 64)
    again = n * (config.repeats + config.shuffles)
    cost = total([_explaining_cost(again, prompt_tokens, model), _both_cost(step, again, model)])
    if SECOND_JUDGE not in model.plan.llms:
        return cost
    second = [model.asked(SECOND_JUDGE, n, prompt_tokens), _both_cost(step, n, model, SECOND_JUDGE)]
    return total([cost, *second])


def _cover_cost(step: Step, model: CostModel) -> Cost:
    """A question about each feature; nothing where explanations are rules (an interpreter that asks no LLM)."""
    config = model.plan.study.settings(CoverageConfig)
    n = sum(_n_features(source, model) for source in _sources(step, model)) if config.contexts else 0
    prompt_tokens = INSTRUCTION_TOKENS / 4 + 3 * config.contexts * (2 * config.window + 1)
    return model.asked("scorer", n, prompt_tokens)


def _categorise_cost(step: Step, model: CostModel) -> Cost:
    n = sum(_n_features(source, model) for source in _sources(step, model))
    return _categorising_cost(step, n, model)


def _categorising_cost(step: Step, n: int, model: CostModel) -> Cost:
    asked = model.asked("categoriser", n, _prompt_tokens(step, model, "n_category_examples", 5))
    return total([_reading(n), asked])


def _recategorise_cost(step: Step, model: CostModel) -> Cost:
    most = model.plan.study.settings(GradingConfig).recategorised
    n = sum(min(most, _n_features(source, model)) for source in _sources(step, model))
    return _categorising_cost(step, n, model)


def _enrich_cost(step: Step, model: CostModel) -> Cost:
    return _reading(sum(_n_features(model.plan.step(name), model) for name in step.inputs))


PLANT = StepKind("plant", "interpret", _plant, n_features=_n_planted)
INTERPRET = StepKind("interpret", "interpret", _interpret, cost=_interpret_cost, seeded=False)
SCORE = StepKind("score", "interpret", _score, cost=_score_cost)
REGRADE = StepKind("regrade", "interpret", _regrade, cost=_regrade_cost)
COVER = StepKind("cover", "interpret", _cover, cost=_cover_cost)
CATEGORISE = StepKind("categorise", "interpret", _categorise, cost=_categorise_cost)
RECATEGORISE = StepKind("recategorise", "interpret", _recategorise, cost=_recategorise_cost)
ENRICH = StepKind("enrich", "interpret", _enrich, cost=_enrich_cost)
STEPS = StageSteps(
    (PLANT, INTERPRET, SCORE, REGRADE, COVER, CATEGORISE, RECATEGORISE, ENRICH),
    _plan,
    {"grading": GradingConfig, "scoring": ScoringConfig, "coverage": CoverageConfig, "enrichment": EnrichmentConfig},
)
