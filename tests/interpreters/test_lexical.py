"""The lexical interpreter on features whose reading is known (A21)."""

import pytest

from harness.records import Category, CategoryAssignment, ScoringContext, ScoringTest
from harness_plugins.interpreters import lexical
from harness_plugins.interpreters.lexical.rules import Background, Place, Rule, normal, quoted, tail
from harness_plugins.interpreters.lexical.token_classes import PLURAL, ROLE_OF, ROLES, SINGULAR, classify


def make(**settings):
    (registration,) = lexical.harness_interpreters()
    return registration.implementation()(registration.config(**settings))


@pytest.fixture(scope="module")
def batch(planting):
    return planting.batch()


@pytest.fixture
def explained(batch, context):
    return {x.feature: x for x in make().explain(list(batch.values()), context())}


@pytest.mark.parametrize(
    ("feature", "grade", "says"),
    [
        ("wait", 0, "token 'Wait'"),
        ("arrow", 0, "token '→'"),
        ("result", 0, "digits"),
        ("after_relation", 0, "digits after '='"),
        ("operator", 1, "operators"),
        ("two_operators", 1, "'-', '+'"),
        ("digit", 1, "digits"),
        ("letter", 1, "single letters"),
        ("wait_and_plus", 2, "mixed: "),
        ("two_words", 2, "mixed: words"),
        ("random", 2, "mixed: "),
    ],
)
def test_planted_features_get_their_grade(explained, feature, grade, says):
    found = explained[feature]
    assert found.grade == grade, found
    assert found.explanation.startswith(says) or says in found.explanation
    assert len(found.explanation.split()) <= 10
    assert found.interpreter == "lexical"


def test_the_reason_gives_coverage_and_chance(explained):
    assert explained["wait"].reason.startswith("32 of 32 exemplars; expected ")
    assert "." in explained["result"].explanation  # the sign that follows is what tells a result from an operand
    assert "no rule covers 90%" in explained["random"].reason


def test_features_without_contexts_are_counted(explained, batch):
    assert len(explained) == len(batch)
    dead, rare = explained["dead"], explained["rare"]
    assert (dead.explanation, dead.grade, dead.reason) == (None, None, "dead: no activating context")
    assert (rare.grade, rare.n_exemplars) == (None, 3)
    assert "5 are needed" in rare.reason


def test_deterministic_and_done_items_are_skipped(batch, context, explained):
    again = list(make().explain(list(batch.values()), context(seed=7, done=["wait"])))
    assert [x.feature for x in again] == [f for f in batch if f != "wait"]
    assert all(x == explained[x.feature] for x in again)


def test_one_huge_activation_does_not_make_a_rule(planting, batch, context):
    places = planting.find(lambda t, p: t[p] == " Wait", 10) + planting.find(lambda t, p: t[p] == " +", 22)
    evidence = planting.plant("spike", places, activations=[1000.0] * 10 + [1.0] * 22)
    (found,) = make().explain([evidence, *batch.values()], context(done=list(batch)))
    assert found.grade == 2


def test_categories_occur_in_an_equal_sample_and_every_feature_is_assigned(batch, context):
    neurons = [e.model_copy(update={"source": "mlp-neurons", "feature": f"n-{e.feature}"}) for e in batch.values()]
    sources = [list(batch.values()), neurons]
    pairs = [(x, e) for shown in sources for x, e in zip(make().explain(shown, context()), shown, strict=True)]
    out = list(make().categorise(pairs, context()))
    assert out == list(make().categorise(pairs, context()))
    categories = {r.category for r in out if isinstance(r, Category)}
    assigned = {(r.source, r.feature): r for r in out if isinstance(r, CategoryAssignment)}
    assert len(assigned) == len(pairs)
    assert categories <= set(ROLES)
    assert all(r.category in categories or r.reason for r in assigned.values())
    assert assigned["adapter-activations", "wait"].category == "verification"
    assert assigned["mlp-neurons", "n-digit"].category == "value_tracking"
    assert assigned["adapter-activations", "operator"].category == "computation"
    assert assigned["adapter-activations", "random"].category == "mixed"
    assert assigned["adapter-activations", "dead"].category == "uncategorised"
    few = list(make(n_category_explanations=1).categorise(pairs, context(done=["mlp-neurons/n-wait"])))
    assert sum(isinstance(r, Category) for r in few) <= 2
    assert sum(isinstance(r, CategoryAssignment) for r in few) == len(pairs) - 1
    assert any("does not occur in the sample" in str(getattr(r, "reason", "")) for r in few)


@pytest.mark.parametrize(
    ("token", "class_"),
    [
        (" 7", "digit"), ("42", "digit"), (" b", "letter"), (" =", "relation"), (" →", "relation"), ("×", "operator"),
        (" -", "operator"), ("\n\n", "newline"), (" ", "space"), ("", "multibyte"), ("中", "multibyte"),
        (").", "punctuation"),
        ("<|im_start|>", "control"), ("</think>", "control"), (" answer", "control"), (" Wait", "verification"),
        (" Therefore", "discourse"), (" lamp", "word"), (":=", "punctuation"),
    ],
)  # fmt: skip
def test_classes(token, class_):
    assert classify(token) == class_


def test_every_class_has_names_and_a_role():
    assert set(PLURAL) == set(SINGULAR) == set(ROLE_OF)
    assert set(ROLE_OF.values()) | {"mixed"} == set(ROLES)


def test_background_counts_each_token_once(batch):
    shown = [batch["wait"], batch["wait"], batch["digit"]]
    background = Background(shown, 10**6)
    places = {(x.document, x.start + i): t for e in shown for x in e.exemplars for i, t in enumerate(x.tokens)}
    assert background.n_tokens == len(places)
    assert background.count(Rule(Place(("Wait",)))) == sum(t == " Wait" for t in places.values())
    assert background.count(Rule(Place(class_="digit"))) == sum(t.isdigit() for t in places.values())
    assert Background(shown, 50).n_tokens < len(places)


def test_binomial_tail():
    assert tail(2, 3, 0.5) == pytest.approx(0.5)
    assert tail(64, 64, 0.07) == pytest.approx(0.07**64)
    assert (tail(0, 5, 0.3), tail(3, 5, 0.0), tail(3, 5, 1.0)) == (1.0, 0.0, 1.0)


def test_tokens_on_one_line():
    assert quoted("\n") == "'\\n'"
    assert quoted("a b") == "'a␣b'"
    assert normal(["a", "→", "", " "], 2) == "→"
    assert normal([" "], 0) == " "


def test_scores_are_what_the_rule_says(explained, context):
    def asked(feature, kind, *contexts):
        made = tuple(
            ScoringContext(document="d", start=0, tokens=tokens, marked=marked, label=True)
            for tokens, marked in contexts
        )
        test = ScoringTest(item=f"{kind}/{feature}/0", kind=kind, source="s", feature=feature, contexts=made)
        (answer,) = make().answer([(explained[feature], test)], context())
        return answer.ratings

    wait, none, two = (" So", " Wait", ","), (" So", " x", " ="), (" Wait", " x", " Wait")
    assert asked("wait", "detection", (wait, ()), (none, ()), (two, ())) == (0.5, 0.0, 2 / 3)
    assert asked("wait", "fuzzing", (wait, (1,)), (wait, (0,)), (wait, (0, 1))) == (1.0, 0.0, 0.5)
    assert asked("wait", "intruder", (wait, (1,)), (none, (1,))) == (0.0, 1.0)
    digits = (" x", " =", " ", "7")
    assert asked("after_relation", "detection", (digits, ()), ((" x", "7"), ())) == (0.5, 0.0)
    assert asked("wait_and_plus", "fuzzing", ((" Wait", " +"), (0, 1)), ((" cat", ";"), (0, 1))) == (1.0, 0.0)
    assert asked("wait", "simulation", ((" a", " Wait", ",", " Wait"), ())) == (0.0, 1.0, 0.0, 1.0)
    assert asked("after_relation", "simulation", ((" =", "7", " x", "7"), ())) == (0.0, 1.0, 0.0, 0.0)
    assert asked("dead", "detection", (wait, ())) is None


def sampled(evidence, picks, planting):
    """The evidence with a sample over its strengths that are the tokens at other places."""
    others = planting.plant("x", picks).exemplars
    contexts = [e.model_copy(update={"rank": 100 + i, "quantile": 0.5}) for i, e in enumerate(others)]
    return evidence.model_copy(update={"sampled": tuple(contexts)})


def test_a_rule_of_the_highest_contexts_alone_gives_grade_top_and_not_the_grade(planting, context):
    """`grade` wants the rule to cover the mean of the highest contexts and the sample: 90 %, so 80 % of the sample."""
    top = planting.find(lambda t, p: t[p] == " Wait", 32)
    digits = planting.find(lambda t, p: t[p].isdigit(), 20, seed=3)
    waits = planting.find(lambda t, p: t[p] == " Wait", 20, seed=4)
    shown = {
        "all": sampled(planting.plant("all", top), waits, planting),
        "most": sampled(planting.plant("most", top), waits[:18] + digits[:2], planting),
        "half": sampled(planting.plant("half", top), waits[:10] + digits[:10], planting),
        "none": sampled(planting.plant("none", top), digits, planting),
        "not drawn": planting.plant("not drawn", top).model_copy(update={"sampled": ()}),
    }
    (registration,) = lexical.harness_interpreters()
    interpreter = registration.implementation()(registration.config())
    found = {x.feature: x for x in interpreter.explain(list(shown.values()), context())}
    assert {name: x.grade for name, x in found.items()} == {
        "all": 0, "most": 0, "half": 2, "none": 2, "not drawn": None,
    }  # fmt: skip
    assert {x.grade_top for x in found.values()} == {0}
    assert {x.explanation for x in found.values()} == {"token 'Wait'"}
    assert "10 of 20 contexts of all strengths" in found["half"].reason
    assert found["not drawn"].status == "top-only"
    assert "features.sampled" in found["not drawn"].reason
