"""The paper's pipeline with a provider in memory: failures counted, repairs bounded, nothing paid twice."""

import json
from collections import Counter

import pytest

from harness.config import ProviderConfig
from harness.errors import ProviderError, UsageError
from harness.llm.errors import Refused
from harness.records import Category, CategoryAssignment, Explanation, LLMReply, ScoringContext, ScoringTest
from harness_plugins.interpreters import autointerp
from harness_plugins.interpreters.answers import Judgement, chosen_id
from harness_plugins.interpreters.sampling import equal_sample
from harness_plugins.providers import scripted

GOOD = {"explanation": "digits", "classification": 0, "classification_reasoning": "all"}
CATEGORIES = {
    "categories": [
        {"string_id": "digits", "name": "Digits", "definition": "Digits.", "examples": ["digits"]},
        {"string_id": "Other Things", "name": "Other", "definition": "Else.", "examples": []},
        *({"string_id": f"spare_{i}", "name": "Spare", "definition": "Spare.", "examples": []} for i in range(3)),
    ],
    "summary": "s",
}


class Fake:
    """Answers by `rule(request)`: a reply's text, or an error to raise."""

    name = "fake"
    config = ProviderConfig()

    def __init__(self, rule):
        self.rule, self.requests = rule, []

    async def complete(self, request):
        self.requests.append(request)
        answer = self.rule(request)
        if isinstance(answer, Exception):
            raise answer
        return LLMReply(text=answer, finish_reason="stop", model=request.model)

    async def aclose(self):
        """Nothing to close."""


def make(**settings):
    (registration,) = autointerp.harness_interpreters()
    return registration.implementation()(registration.config(**settings))


def judge(**settings):
    (registration,) = scripted.harness_providers()
    return registration.implementation()(registration.config(**settings))


def step(request):
    if "<neuron_activations>" in request.user:
        return "explain"
    return "categories" if "feature interpretations to categorize" in request.user else "assign"


@pytest.fixture(scope="module")
def batch(planting):
    return planting.batch()


def test_the_scripted_judge_gives_planted_features_their_grade(batch, context, journal):
    evidence = list(batch.values())
    found = {x.feature: x for x in make().explain(evidence, context(judge(), journal))}
    assert {f: found[f].grade for f in ("wait", "arrow", "wait_and_plus", "two_words", "random", "dead")} == {
        "wait": 0, "arrow": 0, "wait_and_plus": 2, "two_words": 2, "random": 2, "dead": None,
    }  # fmt: skip
    assert found["wait"].explanation == "token Wait"
    assert found["dead"].reason == "dead: no activating context"
    again = {x.feature: x for x in make().explain(evidence, context(judge(), journal))}
    assert again == found
    assert {x.grade_top for x in found.values() if x.explanation} == {0, 2}
    assert len(journal.calls) == 2 * (len(evidence) - 1)  # a second question on contexts of all strengths


def test_requests_are_the_same_for_every_source(batch, context):
    fake = Fake(lambda request: json.dumps(GOOD))
    evidence = batch["digit"]
    neuron = evidence.model_copy(update={"source": "mlp-neurons", "feature": "L0.neuron1"})
    found = list(make(n_contexts=20).explain([evidence, neuron], context(fake)))
    assert len(fake.requests) == 2  # equal evidence, equal requests, sent once
    request, second = fake.requests
    assert second.user.count("Example ") == 2 * len(evidence.sampled)
    assert request.model == "model-of-explainer"
    assert request.temperature is None
    assert request.user.count("Example ") == 20
    assert [x.n_exemplars for x in found] == [20, 20]


def test_unreadable_replies_get_one_repair_turn_and_stay_counted(batch, context, journal):
    def rule(request):
        if "previous_reply" in request.user:
            return json.dumps(GOOD) if "operand {x}" in request.user else "no {idea}"
        return "operand {x}" if "Wait" in request.user.split("Example 2")[0] else '{"explanation": "x", "classif'

    fake = Fake(rule)
    shown = [e.model_copy(update={"sampled": ()}) for e in (batch["wait"], batch["arrow"], batch["dead"])]
    found = {x.feature: x for x in make().explain(shown, context(fake, journal))}
    assert (found["wait"].explanation, found["wait"].grade_top) == ("digits", 0)
    broken = found["arrow"]
    assert (broken.explanation, broken.grade, broken.raw) == (None, None, "no {idea}")
    assert "no JSON object" in broken.reason
    assert len(found) == 3
    assert len(fake.requests) == 4
    once = {x.feature: x for x in make(repair_turns=0).explain(shown, context(fake, journal))}
    assert once["arrow"].raw == '{"explanation": "x", "classif'
    assert len(fake.requests) == 4


def test_a_judge_of_its_own_grades_the_explanation_by_the_same_evidence(batch, context, journal):
    def grade(request):
        if 'said to fire for:\n"digits"' not in request.user:
            return "no explanation was shown"
        return json.dumps({"classification": "2: polysemantic", "classification_reasoning": "two things"})

    explainer, grader = Fake(lambda request: json.dumps(GOOD)), Fake(grade)
    shown = [batch["wait"], batch["arrow"], batch["dead"]]
    found = {x.feature: x for x in make().explain(shown, context(explainer, journal, judge=grader))}
    assert {(x.explanation, x.grade, x.reason) for x in (found["wait"], found["arrow"])} == {
        ("digits", 2, "two things")
    }
    assert found["dead"].status == "dead"
    assert {x.grade_top for x in (found["wait"], found["arrow"])} == {2}
    assert [r.model for r in grader.requests] == ["model-of-judge"] * 4  # two questions each

    def seen(request):
        return request.user.partition("<neuron_activations>")[2].partition("</neuron_activations>")[0]

    assert [seen(r) for r in grader.requests[:2]] == [seen(r) for r in explainer.requests]
    assert {call.role for call in journal.calls} == {"explainer", "judge"}


def test_what_the_judge_does_not_grade_keeps_its_explanation_and_is_counted(batch, context):
    silent, broken = Fake(lambda request: "no idea"), Fake(lambda request: Refused("HTTP 400: too long"))
    explainer = Fake(lambda request: json.dumps(GOOD))
    shown = [batch["wait"].model_copy(update={"sampled": ()})]
    (unread,) = make().explain(shown, context(explainer, judge=silent))
    assert (unread.explanation, unread.grade, unread.status, unread.raw) == ("digits", None, "unparsed", "no idea")
    assert len(silent.requests) == 2  # one repair turn
    (failed,) = make().explain(shown, context(explainer, judge=broken))
    assert (failed.explanation, failed.grade, failed.status) == ("digits", None, "failed")
    mute = Fake(lambda request: "nothing")
    (unexplained,) = make().explain(shown, context(mute, judge=silent))
    assert (unexplained.explanation, unexplained.status) == (None, "unparsed")
    assert len(silent.requests) == 2  # the judge is not asked about nothing


def second(request):
    return "chosen for is marked" in request.user


def test_the_grade_is_asked_on_contexts_of_all_strengths_and_grade_top_stays_the_explainers(batch, context):
    """The second question shows the explanation, the highest contexts and the sample."""
    fake = Fake(lambda request: json.dumps({**GOOD, "classification": 2 if second(request) else 0}))
    shown = batch["wait"]
    weak = tuple(e.model_copy(update={"tokens": ("weak", " sea", " salt"), "activations": (0.0, 0.1, 0.0), "target": 1})
                 for e in shown.sampled)  # fmt: skip
    (found,) = make().explain([shown.model_copy(update={"sampled": weak})], context(fake))
    assert (found.grade, found.grade_top, found.status) == (2, 0, "graded")
    first, both = fake.requests
    assert "sea" not in first.user
    assert 'said to fire for:\n"digits"' in both.user
    examples = both.user.partition("<neuron_activations>")[2]
    assert examples.count("<<sea>>") == len(weak) == examples.count("<<Wait>>")


def test_the_second_question_may_fail_alone(batch, context):
    fake = Fake(lambda request: "no idea" if second(request) else json.dumps(GOOD))
    (found,) = make(repair_turns=0).explain([batch["wait"]], context(fake))
    assert (found.explanation, found.grade, found.grade_top, found.status) == ("digits", None, 0, "unparsed")
    assert found.raw == "no idea"
    assert found.reason_top == "all"


@pytest.mark.parametrize("evidence", ["paper-text", "paper-code"])
def test_the_papers_evidence_has_grade_top_alone_unless_both_are_asked_for(batch, context, evidence):
    fake = Fake(lambda request: json.dumps(GOOD))
    (found,) = make(evidence=evidence).explain([batch["wait"]], context(fake))
    assert (found.grade, found.grade_top, found.status) == (None, 0, "top-only")
    assert evidence in found.reason
    assert len(fake.requests) == 1
    (both,) = make(evidence=evidence, grade_both=True).explain([batch["wait"]], context(fake))
    assert (both.grade, both.grade_top) == (0, 0)


def test_failed_calls_stay_counted_and_done_items_are_skipped(batch, context):
    fake = Fake(lambda request: Refused("HTTP 400: too long"))
    (found,) = make().explain([batch["wait"], batch["arrow"]], context(fake, done=["arrow"]))
    assert (found.explanation, found.grade, found.reason) == (None, None, "call failed: HTTP 400: too long")
    assert len(fake.requests) == 1


def explanations(batch):
    for source in ("adapter-activations", "mlp-neurons", "batch-topk"):
        for name, shown in batch.items():
            evidence = shown.model_copy(update={"source": source})
            text = None if name == "dead" else f"{name} of {source}"
            yield (
                Explanation(item=name, source=source, feature=name, interpreter="autointerp", explanation=text,
                            grade=None if text is None else 1, reason="because", n_exemplars=len(shown.exemplars)),
                evidence,
            )  # fmt: skip


def test_categorise_in_two_steps(batch, context, journal):
    def rule(request):
        if step(request) == "categories":
            return f"Here:\n```json\n{json.dumps(CATEGORIES)}\n```"
        if '"wait of' in request.user:
            return "verification" if "previous_reply" not in request.user else "Category: `other_things`."
        return "digits" if '"digit of' in request.user else "digits or other_things"

    fake = Fake(rule)
    pairs = list(explanations(batch))
    out = list(make().categorise(pairs, context(fake, journal)))
    categories = [r for r in out if isinstance(r, Category)]
    assert [c.category for c in categories] == ["digits", "other_things", "spare_0", "spare_1", "spare_2"]
    assigned = {r.item: r for r in out if isinstance(r, CategoryAssignment)}
    assert len(assigned) == len(pairs)
    assert assigned["mlp-neurons/wait"].category == "other_things"
    assert assigned["batch-topk/digit"].category == "digits"
    assert (assigned["mlp-neurons/dead"].category, assigned["mlp-neurons/dead"].reason) == (
        "uncategorised", "no explanation: because",
    )  # fmt: skip
    lost = assigned["mlp-neurons/arrow"]
    assert lost.category == "uncategorised"
    assert "exactly one" in (lost.reason or "")
    listed = next(r for r in fake.requests if step(r) == "categories")
    assert listed.model == "model-of-categories"
    assert listed.user.count("of adapter-activations") == listed.user.count("of mlp-neurons") == len(batch) - 1
    assert "of batch-topk" not in listed.user
    sent = len(fake.requests)
    done = ["category:digits", "mlp-neurons/wait"]
    again = list(make().categorise(pairs, context(fake, journal, done=done)))
    assert len(fake.requests) == sent
    assert len(again) == len(out) - 2
    assert set(map(repr, again)) <= set(map(repr, out))


def test_no_categories_leaves_everything_uncategorised_and_counted(batch, context, journal):
    fake = Fake(lambda request: "I would rather not.")
    pairs = list(explanations(batch))
    out = list(make().categorise(pairs, context(fake, journal)))
    assert Counter(r.category for r in out) == {"uncategorised": len(pairs)}
    assert any("no categories: no JSON object" in (r.reason or "") for r in out)
    assert len(fake.requests) == 2
    refusing = Fake(lambda request: Refused("HTTP 400"))
    with pytest.raises(ProviderError, match="HTTP 400"):
        list(make().categorise(pairs, context(refusing)))


def test_categorise_with_the_scripted_judge(batch, context, journal):
    pairs = list(explanations(batch))
    out = list(make().categorise(pairs, context(judge(), journal)))
    categories = {r.category for r in out if isinstance(r, Category)}
    assert len(categories) == 5
    assert {r.category for r in out if isinstance(r, CategoryAssignment)} <= categories | {"uncategorised"}


def test_the_equal_sample_is_seeded_and_even_over_layers(batch):
    pairs = list(explanations(batch))
    drawn = equal_sample(pairs, ("adapter-activations", "mlp-neurons"), 8, seed=3)
    assert drawn == equal_sample(pairs[::-1], ("adapter-activations", "mlp-neurons"), 8, seed=3)
    assert Counter((e.source, e.layer) for _, e in drawn) == {
        (s, layer): 2 for s in ("adapter-activations", "mlp-neurons") for layer in range(4)
    }
    other = [x.feature for x, _ in equal_sample(pairs, ("mlp-neurons",), 4, seed=4)]
    assert other != [x.feature for x, _ in equal_sample(pairs, ("mlp-neurons",), 4, seed=5)]
    assert {e.source for _, e in equal_sample(pairs, ("nobody",), 3, seed=0)} == {e.source for _, e in pairs}
    assert equal_sample([], ("mlp-neurons",), 3, seed=0) == []


def test_a_run_without_a_provider_is_refused(batch, context):
    with pytest.raises(UsageError, match="--provider"):
        list(make().explain([batch["wait"]], context()))


@pytest.mark.parametrize("given", [0, 0.0, "0", "0.0", " <0> ", "Class 0", "0: monosemantic", "grade: 0", "0 (clear)"])
def test_grades_as_models_write_them(given):
    assert Judgement(explanation=" two\n words ", classification=given).model_dump() == {
        "explanation": "two words", "classification": 0, "classification_reasoning": "",
    }  # fmt: skip


@pytest.mark.parametrize("given", [True, 3, -1, "-1", 0.5, "0 or 1", "<0, 1, or 2>", "", None, [0], "monosemantic"])
def test_what_is_no_grade(given):
    with pytest.raises(ValueError, match="classification"):
        Judgement(explanation="x", classification=given)


def test_chosen_id():
    ids = {"digits", "other_things"}
    assert chosen_id("digits", ids) == chosen_id(' **"Digits"**\n', ids) == "digits"
    assert chosen_id("digits, digits", ids) == "digits"
    assert chosen_id("digits or other_things", ids) is None
    assert chosen_id("other_things_2", ids) is None
    assert chosen_id("", ids) is None


def latents(batch, n=10):
    """Explained latents (no layer) beside the components of `explanations`."""
    shown = batch["digit"].model_copy(update={"source": "batch-topk", "layer": None, "projection": None})
    for i in range(n):
        name = f"latent{i}"
        explanation = Explanation(item=name, source="batch-topk", feature=name, interpreter="autointerp",
                                  explanation=f"digits no {i}", grade=0, reason="r", n_exemplars=3)  # fmt: skip
        yield explanation, shown.model_copy(update={"feature": name})


def test_latents_get_subcategories_of_their_category(batch, context, journal):
    def rule(request):
        if "interpretations to divide" in request.user:
            assert "Digits.\n" in request.user.replace("Digits: Digits.", "Digits.")
            return json.dumps({"categories": [
                {"string_id": s, "name": s.title(), "definition": "d", "examples": []} for s in ("even", "odd")
            ], "summary": ""})  # fmt: skip
        if step(request) == "categories":
            return json.dumps(CATEGORIES)
        if "- even: " in request.user:
            return "even" if '"digits no 3"' not in request.user else "neither of them"
        return "digits"

    pairs = [*list(explanations(batch))[:4], *latents(batch)]
    out = list(make().categorise(pairs, context(Fake(rule), journal)))
    children = [c for c in out if isinstance(c, Category) and c.parent]
    assert [(c.parent, c.category, c.item) for c in children] == [
        ("digits", "even", "category:digits::even"), ("digits", "odd", "category:digits::odd"),
    ]  # fmt: skip
    assigned = {r.feature: r for r in out if isinstance(r, CategoryAssignment)}
    assert len(assigned) == len(pairs)
    assert (assigned["latent1"].category, assigned["latent1"].subcategory) == ("digits", "even")
    lost = assigned["latent3"]
    assert (lost.category, lost.subcategory) == ("digits", "uncategorised")
    assert "exactly one" in (lost.subcategory_reason or "")
    assert all(assigned[x.feature].subcategory is None for x, e in pairs if e.layer is not None)
    few = list(make(n_min_subcategorised=11).categorise(pairs, context(Fake(rule))))
    assert not [c for c in few if isinstance(c, Category) and c.parent]


@pytest.mark.parametrize("n", [4, 9])
def test_categories_are_five_to_eight_or_asked_for_again(batch, context, n):
    def rule(request):
        if step(request) == "categories":
            count = n if "previous_reply" not in request.user else 5
            found = [{"string_id": f"c{i}", "name": "N", "definition": "D"} for i in range(count)]
            return json.dumps({"categories": found})
        return "c0"

    out = list(make().categorise(list(explanations(batch)), context(Fake(rule))))
    assert sum(isinstance(r, Category) for r in out) == 5


def scoring(kind, n=3, number=0):
    contexts = tuple(
        ScoringContext(document=f"d{i}", start=0, tokens=("a", f" token{i}", "</script>"), marked=(1,), label=i == 0)
        for i in range(n)
    )
    return ScoringTest(item=f"{kind}/f/{number}", kind=kind, source="s", feature="f", contexts=contexts)


def test_scoring_tests_are_rated_and_broken_answers_counted(batch, context):
    explained = next(x for x, _ in explanations(batch) if x.explanation)
    replies = {
        "detection": 'Sure:\n```json\n{"ratings": [10, 0, 5]}\n```',
        "fuzzing": '{"ratings": [1, 2]}',
        "intruder": "It is number {two}.",
    }

    def rule(request):
        kind = next(k for k, text in (("intruder", "intruder"), ("fuzzing", "whether they are the tokens"),
                                      ("detection", "somewhere in the text")) if text in request.user)  # fmt: skip
        return replies[kind]

    fake = Fake(rule)
    tests = [(explained, scoring(kind)) for kind in replies]
    found = {a.item: a for a in make().answer(tests, context(fake))}
    assert found["detection/f/0"].ratings == (1.0, 0.0, 0.5)
    assert found["fuzzing/f/0"].ratings is None
    assert found["fuzzing/f/0"].reason == "2 ratings for 3 examples"
    assert "no JSON" in found["intruder/f/0"].reason
    assert len(fake.requests) == 5, "two are asked again, once"
    detection, fuzzing, intruder = (r.user for r in fake.requests[:3])
    assert explained.explanation in detection
    assert explained.explanation in fuzzing
    assert explained.explanation not in intruder
    assert "<<token1>>" in fuzzing
    assert "a token1</script>" in detection.replace("<<", "").replace(">>", "")
    assert all(request.model == "model-of-scorer" for request in fake.requests)


def test_a_simulation_is_one_reply_with_a_strength_per_token(batch, context):
    explained = next(x for x, _ in explanations(batch) if x.explanation)
    replies = ['{"ratings": [0, 10, 2]}', '{"ratings": [0, 10]}', '{"ratings": [0, 11, 0]}']
    fake = Fake(lambda request: replies[int(request.user.partition('" token')[2][0])])
    tests = []
    for i in range(3):
        test = scoring("simulation", n=3, number=i)
        tests.append((explained, test.model_copy(update={"contexts": test.contexts[i : i + 1]})))
    found = [a for _, a in sorted((a.item, a) for a in make().answer(tests, context(fake)))]
    assert [a.ratings for a in found] == [(0.0, 1.0, 0.2), None, None]
    assert found[1].reason == "2 ratings for 3 tokens"
    asked = fake.requests[0].user
    assert explained.explanation in asked
    assert '1. "a"\n2. " token0"\n3. "</script>"' in asked
    assert "<<" not in asked


def of_tokens(*tokens):
    test = scoring("output", n=len(tokens))
    contexts = tuple(c.model_copy(update={"tokens": (t,)}) for c, t in zip(test.contexts, tokens, strict=True))
    return test.model_copy(update={"contexts": contexts})


def test_an_output_test_is_one_list_of_tokens_with_a_rating_each(batch, context):
    explained = next(x for x, _ in explanations(batch) if x.explanation)
    fake = Fake(lambda request: '{"ratings": [0, 10, 2]}')
    (found,) = make().answer([(explained, of_tokens(" a", "</script>", "\n"))], context(fake))
    assert found.ratings == (0.0, 1.0, 0.2)
    (asked,) = (request.user for request in fake.requests)
    assert explained.explanation in asked
    assert '1. " a"\n2. "</script>"\n3. "\\n"' in asked


def test_the_scripted_provider_answers_every_prompt(batch, context, journal):
    explained = Explanation(item="f", source="s", feature="f", interpreter="autointerp", explanation="token token0",
                            grade=0, reason="r", n_exemplars=3)  # fmt: skip
    tests = [(explained, scoring(kind)) for kind in ("detection", "fuzzing", "intruder")]
    tests.append((explained, scoring("simulation", n=1)))
    tests.append((explained, of_tokens(" x", " token0")))
    answers = {a.item: a for a in make().answer(tests, context(judge(), journal))}
    assert answers["simulation/f/0"].ratings == (0.0, 1.0, 0.0)
    assert answers["output/f/0"].ratings == (0.0, 1.0)
    assert all(a.ratings is not None for a in answers.values())
    assert answers["fuzzing/f/0"].ratings == (1.0, 0.0, 0.0)
    out = list(make(n_min_subcategorised=2).categorise([*latents(batch)], context(judge(), journal)))
    assert any(isinstance(r, Category) and r.parent for r in out)
