"""Grading again: the same request, another order of the contexts, other judges. Kappa is made of it in the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random

from harness.contract.context import RunContext
from harness.contract.provider import Provider
from harness.contract.stages import Interpreter
from harness.records import JUDGE, SECOND_JUDGE, Condition, Evidence, Exemplar, Explanation, JudgeTrial


def spread_sample(features: Mapping[str, int | None], n: int, seed: str) -> list[str]:
    """At most n features, drawn evenly over layers; the same ones for the same seed.

    Args:
        features: name -> layer.
        n: how many.
        seed: of the draw.
    """
    rng = Random(seed)
    queues: dict[int, list[str]] = defaultdict(list)
    for name in sorted(features):
        layer = features[name]
        queues[-1 if layer is None else layer].append(name)
    for layer in sorted(queues):
        rng.shuffle(queues[layer])
    order = sorted(queues)
    rng.shuffle(order)  # else the first layers get the remainder of every draw
    taken: list[str] = []
    while len(taken) < n and any(queues.values()):
        for layer in order:
            if queues[layer] and len(taken) < n:
                taken.append(queues[layer].pop())
    return taken


def trials(
    interpreter: Interpreter,
    evidence: Sequence[Evidence],
    again: Collection[str],
    shown: Mapping[str, int],
    run: RunContext,
    *,
    repeats: int,
    shuffles: int,
    deterministic: bool = False,
) -> Iterator[JudgeTrial]:
    """Features of one source, graded again; also by the second judge, and by the explainer where a judge graded.

    Args:
        interpreter: the judge.
        evidence: all features of the source: a judge may look at them together, as the first time.
        again: those that are graded again.
        shown: feature -> contexts that it was graded by.
        run: of the step, whose roles say who else grades; items that are stored already are not made again.
        repeats: times with the same request.
        shuffles: times with the contexts shown in another order.
        deterministic: whether the interpreter is declared so: repeats and shuffles say nothing new then.
    """
    conditions: list[tuple[Condition, int]] = [("repeat", i) for i in range(repeats)]
    conditions += [("shuffle", i) for i in range(shuffles)]
    conditions += [("second-judge", 0)] if SECOND_JUDGE in run.roles else []
    # what the explainer said beside its explanation, `grade_top`: the same requests as the first time, so that the
    # journal answers; the second question was the judge's alone
    conditions += [("explainer", 0)] if JUDGE in run.roles else []
    for condition, trial in conditions:
        items = {e.feature: f"{condition}/{trial}/{e.source}/{e.feature}" for e in evidence}
        others = frozenset(f for f, item in items.items() if f not in again or item in run.done)
        own = replace(run, done=others, repeat=trial + 1 if condition == "repeat" else 0)
        given = evidence
        if condition == "shuffle":
            given = [
                _shuffled(e, shown.get(e.feature, 0), f"{run.seed}/{trial}/{e.feature}") if e.feature in again else e
                for e in evidence
            ]
        if condition == "second-judge" and run.provider is not None:
            own = replace(own, provider=_as_second_judge(run.provider), roles=frozenset())
        if condition == "explainer":
            own = replace(own, roles=run.roles - {JUDGE})
            given = [e.model_copy(update={"sampled": ()}) for e in evidence]
        for explanation in interpreter.explain(given, own):
            certain = deterministic and condition in ("repeat", "shuffle")
            yield _trial(explanation, condition, trial, items[explanation.feature], certain)


def _as_second_judge(provider: Callable[[str], tuple[Provider, str]]) -> Callable[[str], tuple[Provider, str]]:
    return lambda role: provider(SECOND_JUDGE)


def _shuffled(shown: Evidence, n: int, seed: str) -> Evidence:
    """The same contexts, those that are shown in a random order: ranks are permuted, nothing else."""
    rng = Random(seed)
    ranked = sorted(shown.exemplars, key=lambda e: e.rank)
    exemplars = (*_permuted(ranked[:n], rng), *ranked[n:])
    return shown.model_copy(update={"exemplars": exemplars, "sampled": _permuted(shown.sampled, rng)})


def _permuted(contexts: Sequence[Exemplar], rng: Random) -> tuple[Exemplar, ...]:
    """The contexts in a random order, which their ranks follow."""
    order = list(contexts)
    rng.shuffle(order)
    return tuple(
        x.model_copy(update={"rank": rank}) for x, rank in zip(order, sorted(x.rank for x in contexts), strict=True)
    )


def _trial(explanation: Explanation, condition: Condition, trial: int, item: str, deterministic: bool) -> JudgeTrial:
    return JudgeTrial(
        item=item,
        source=explanation.source,
        feature=explanation.feature,
        interpreter=explanation.interpreter,
        condition=condition,
        trial=trial,
        explanation=explanation.explanation,
        grade=explanation.grade,
        grade_top=explanation.grade_top,
        status=explanation.status,
        reason=explanation.reason,
        raw=explanation.raw,
        deterministic=deterministic,
    )
