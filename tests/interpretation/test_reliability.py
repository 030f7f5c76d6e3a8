"""Grading again (A21): kappa is 1 for a deterministic judge, about 0 for a random one; one thing changes at a time."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from harness.config import ProviderConfig
from harness.contract.context import RunContext
from harness.contract.session import Session
from harness.interpretation import agreement
from harness.interpretation.reliability import spread_sample, trials
from harness.records import Evidence, Exemplar, LLMReply
from harness.testing import MemoryCalls
from harness_plugins.interpreters import autointerp, lexical


class Judge:
    """A provider that grades by `rule(request)`."""

    name = "fake"

    def __init__(self, rule):
        self.rule, self.requests, self.config = rule, [], ProviderConfig()

    async def complete(self, request):
        self.requests.append(request)
        answer = {"explanation": "x", "classification": self.rule(request), "classification_reasoning": "r"}
        return LLMReply(text=json.dumps(answer), finish_reason="stop", model=request.model)

    async def aclose(self):
        """Nothing to close."""


def chance(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0] % 3


def interpreter(plugin, **settings):
    (registration,) = plugin.harness_interpreters()
    return registration.implementation()(registration.config(**settings))


def evidence(n=80, contexts=12):
    return [
        Evidence(
            source="s", feature=f"f{i}", layer=i % 4, projection=None,
            exemplars=tuple(
                Exemplar(rank=r, document=f"d{r}", position=2, start=0, tokens=("a", f" t{i}", f" u{r}"),
                         activations=(0.0, 0.0, 20.0 - r), target=2)
                for r in range(contexts)
            ),
            sampled=tuple(
                Exemplar(rank=contexts + r, document=f"d{r}", position=2, start=0, tokens=("a", f" t{i}", f" s{r}"),
                         activations=(0.0, 0.0, 5.0 - r), target=2, quantile=1 - r / 4)
                for r in range(4)
            ),
        )
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture
def context(tmp_path: Path):
    def make(provider=None, done=(), **others):
        own = {role.replace("_", "-"): other for role, other in others.items()}
        return RunContext(
            out_dir=tmp_path, seed=3, calls=MemoryCalls(), done=frozenset(done), llm=Session(),
            provider=lambda role: (own.get(role, provider), f"model-of-{role}"), roles=frozenset(own),
        )  # fmt: skip

    return make


def again(judge, shown, run, **settings):
    first = {x.feature: x for x in judge.explain(shown, run)}
    counts = {f: x.n_exemplars for f, x in first.items()}
    asked = {"repeats": 1, "shuffles": 1, **settings}
    found = list(trials(judge, shown, frozenset(first), counts, run, **asked))
    return first, found


def kappa(first, found, condition):
    return agreement.fleiss_kappa([[first[t.feature].grade, t.grade] for t in found if t.condition == condition]).value


def test_a_deterministic_judge_agrees_with_itself_and_a_random_one_by_chance_only(context):
    """By what the judge looks at: the contexts without their order, or the repeat's index too."""
    shown = evidence()
    by_content = Judge(
        lambda r: chance("".join(sorted(r.user.partition("<neuron_activations>")[2].replace("Example", ""))))
    )
    first, found = again(interpreter(autointerp), shown, context(by_content))
    assert Counter(t.condition for t in found) == {"repeat": 80, "shuffle": 80}
    assert kappa(first, found, "repeat") == 1
    assert len(set(x.grade for x in first.values())) == 3
    random = Judge(lambda r: chance(f"{r.repeat}{r.user}"))
    first, found = again(interpreter(autointerp), shown, context(random))
    assert abs(kappa(first, found, "repeat")) < 0.25  # standard error at 80 features is 0.08
    assert abs(kappa(first, found, "shuffle")) < 0.25


def test_a_repeat_changes_its_index_and_a_shuffle_the_order_of_the_same_contexts(context):
    judge = Judge(lambda r: 0)
    shown = evidence(n=3)
    again(interpreter(autointerp), shown, context(judge))
    plain, repeated, shuffled = (judge.requests[i : i + 3] for i in (0, 6, 12))  # a second question of each follows
    for a, b, c in zip(plain, repeated, shuffled, strict=True):
        assert (a.repeat, b.repeat, c.repeat) == (0, 1, 0)
        assert a.user == b.user != c.user

        def blocks(request):
            return [
                block.split("\n", 1)[1] for block in request.user.partition("activations>\n")[2].split("Example ")[1:]
            ]

        assert Counter(x.strip() for x in blocks(a)[:-1] + blocks(c)[:-1]).most_common()[0][1] <= 2
        assert sorted("".join(blocks(a))) == sorted("".join(blocks(c)))


def test_fewer_contexts_than_there_are_stay_the_same_contexts_when_shuffled(context):
    judge = Judge(lambda r: 0)
    again(interpreter(autointerp, n_contexts=4), evidence(n=2), context(judge), repeats=0)
    for request in judge.requests:
        assert {f"u{r}" for r in range(12) if f"u{r} " in request.user.replace(">>", " ")} == {"u0", "u1", "u2", "u3"}


def test_a_second_judge_is_another_model_asked_the_same(context):
    one, other = Judge(lambda r: 0), Judge(lambda r: 2)
    run = context(one, second_judge=other)
    first, found = again(interpreter(autointerp), evidence(n=4), run, repeats=0, shuffles=0)
    assert {x.grade for x in first.values()} == {0}
    assert [(t.condition, t.grade) for t in found] == [("second-judge", 2)] * 4
    assert [r.user for r in one.requests] == [r.user for r in other.requests]


def test_where_a_judge_graded_the_explainers_own_grade_is_a_trial_that_costs_no_call(context):
    one, judge, other = Judge(lambda r: 0), Judge(lambda r: 2), Judge(lambda r: 1)
    run = context(one, judge=judge, second_judge=other)
    first, found = again(interpreter(autointerp), evidence(n=4), run, repeats=0, shuffles=0)
    assert {x.grade for x in first.values()} == {2}
    assert Counter((t.condition, t.grade_top) for t in found) == {("second-judge", 1): 4, ("explainer", 0): 4}
    assert {t.status for t in found if t.condition == "explainer"} == {"top-only"}
    assert {t.trial for t in found} == {0}, "each of them grades once"
    # the judge is asked twice of each, on the highest contexts and on all strengths; the second judge explains as well
    assert [len(who.requests) for who in (one, judge, other)] == [4, 8, 8]


def test_what_is_stored_is_not_asked_again(context):
    judge = Judge(lambda r: 0)
    shown = evidence(n=3)
    _, found = again(interpreter(autointerp), shown, context(judge, done=["repeat/0/s/f1"]), shuffles=0)
    assert [t.feature for t in found] == ["f0", "f2"]


def test_the_lexical_judge_is_the_same_every_time_and_in_every_order(context):
    first, found = again(interpreter(lexical), evidence(n=6), context(), repeats=2, shuffles=2)
    assert len(found) == 24
    assert all(t.grade == first[t.feature].grade and t.explanation == first[t.feature].explanation for t in found)


def test_samples_are_seeded_and_even_over_layers():
    layers = {f"f{i}": (None if i % 5 == 4 else i % 5) for i in range(50)}
    drawn = spread_sample(layers, 10, "seed")
    assert drawn == spread_sample(dict(reversed(layers.items())), 10, "seed")
    assert Counter(layers[f] for f in drawn) == {0: 2, 1: 2, 2: 2, 3: 2, None: 2}
    assert spread_sample(layers, 10, "other") != drawn
    assert len(spread_sample(layers, 100, "seed")) == 50
    assert len(spread_sample(layers, 7, "seed")) == 7, "not a multiple of the layers"
    assert len(spread_sample({"a": 0, "b": 0, "c": 0, "d": 1}, 3, "seed")) == 3, "a layer that runs out"
