"""The lexical interpreter on features whose reading is known (A21)."""

import numpy as np
import pytest

from harness.records import Category, CategoryAssignment, ScoringContext, ScoringTest
from harness_plugins.interpreters import lexical
from harness_plugins.interpreters.lexical.background import Background
from harness_plugins.interpreters.lexical.rules import Place, Rule, normal, occurrences, quoted
from harness_plugins.interpreters.lexical.search import Contexts, Search
from harness_plugins.interpreters.lexical.token_classes import CLASSES, ROLES, SCRIPTS, Token, classes_of, classify


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
        ("wait", 0, "backtracking word 'Wait'"),
        ("arrow", 0, "relation sign '→'"),
        ("result", 1, "digits before '.'"),  # nothing else stands before it here: the neighbour alone tells it
        ("after_relation", 0, "digits after '='"),
        ("operator", 1, "operators"),
        ("two_operators", 1, "operators '-', '+'"),
        ("digit", 1, "digits"),
        ("letter", 1, "single letters"),
        ("wait_and_plus", 2, "mixed: "),
        ("two_words", 2, "mixed: "),
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


def test_every_role_that_occurs_is_a_category_and_every_feature_is_assigned(batch, context):
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
    assert {r.category for r in assigned.values()} - {"uncategorised"} == categories, "every role that occurs is one"
    assert all(r.reason.startswith("no explanation: ") for r in assigned.values() if r.category == "uncategorised")
    rest = list(make().categorise(pairs, context(done=["mlp-neurons/n-wait"])))
    assert sum(isinstance(r, CategoryAssignment) for r in rest) == len(pairs) - 1


@pytest.mark.parametrize(
    ("token", "class_"),
    [
        (" 7", "digit"), ("42", "digit"), (" b", "letter"), (" =", "relation"), (" →", "relation"), ("×", "operator"),
        (" -", "operator"), ("^", "operator"), ("∀", "operator"), ("\n\n", "newline"), (" ", "space"),
        (").", "end"), ("。", "end"), (":=", "punctuation"), ("**", "markdown"), ("##", "markdown"),
        ("<|im_start|>", "control"), ("</think>", "control"), (" answer", "answer"), (" think", "word"),
        (" Wait", "backtracking"), (" Hmm", "backtracking"), ("But", "backtracking"), (" check", "verification"),
        (" Therefore", "discourse"), (" lamp", "word"), (" Paris", "capital"), (" of", "function"),
        (" three", "number"), (" a", "function"), (" I", "function"), (" α", "greek"), ("π", "greek"), ("θ", "greek"),
        ("中", "cjk"), ("文字", "cjk"), (" под", "cyrillic"), ("ん", "hiragana"), ("한", "hangul"), ("مر", "arabic"),
        ("\\", "latex"), ("_{", "latex"), ("^{", "latex"), ("$", "latex"), ("}$", "latex"), ("\\frac", "command"),
    ],
)  # fmt: skip
def test_classes(token, class_):
    (own,) = occurrences([token])
    assert classify(own.target) == class_


def classes_in(*tokens):
    return [classify(o.target) for o in occurrences(tokens)]


def test_a_class_is_told_by_what_stands_beside_the_token():
    assert classes_in(" under", "brace", " so", "lution", " so", ",") == [
        "start", "continuation", "start", "continuation", "discourse", "punctuation",
    ]  # fmt: skip
    assert classes_in(" frac", " \\", "frac", "{")[::2] == ["word", "command"]
    assert classes_in("(", "a", ")", " a", " cat") == ["open", "letter", "close", "function", "word"]
    assert classes_in("\n", "-", " x", " -", " y")[1:4:2] == ["markdown", "operator"]


def test_every_token_has_a_class_and_every_class_names_and_a_role():
    assert len({c.name for c in CLASSES}) == len({c.plural for c in CLASSES}) == len(CLASSES)
    assert {c.role for c in CLASSES} | {"mixed"} == set(ROLES)
    assert set(SCRIPTS) <= {c.name for c in CLASSES}
    for code in [*range(0x20, 0x3000), 0x1D465, 0x1F600, 0xFFFD]:
        assert any(classes_of(Token(chr(code)))), hex(code)


def test_background_counts_each_token_once(batch):
    shown = [batch["wait"], batch["wait"], batch["digit"]]
    background = Background(shown, 10**6)
    places = {(x.document, x.start + i): t for e in shown for x in e.exemplars for i, t in enumerate(x.tokens)}
    assert background.n_tokens == len(places)
    assert background.count(Rule(Place(("Wait",)))) == sum(t == " Wait" for t in places.values())
    assert background.count(Rule(Place(class_="digit"))) == sum(t.isdigit() for t in places.values())
    assert Background(shown, 50).n_tokens < len(places)


def test_a_rule_holds_in_the_background_as_often_as_on_its_tokens(batch):
    """Counts by bits against one token at a time: places, classes, sets, neighbours."""
    shown = list(batch.values())
    background = Background(shown, 10**6)
    texts = {(x.document, x.start + i): t for e in shown for x in e.exemplars for i, t in enumerate(x.tokens)}
    runs, last = [], None
    for document, position in sorted(texts):
        if last != (document, position - 1):
            runs.append([])
        runs[-1].append(texts[document, position])
        last = document, position
    rules = [
        Rule(Place(class_="digit"), previous=Place(("=", "→"))),
        Rule(next=Place((".",))),
        Rule(Place(("Wait", "So")), next=Place(class_="punctuation")),
    ]
    for rule in rules:
        assert background.count(rule) == sum(rule.holds(o) for run in runs for o in occurrences(run)) > 0
    assert background.count(Rule(Place(("nowhere",)))) == 0


def test_no_class_that_is_much_of_the_text_is_part_of_a_rule(planting, batch):
    places = planting.find(lambda t, p: t[p].strip() not in ("", "Wait"), 40)
    contexts = [occurrences(planting.plant("x", places).exemplars[i].tokens) for i in range(40)]
    targets = [o[e.target] for o, e in zip(contexts, planting.plant("x", places).exemplars, strict=True)]
    background = Background(list(batch.values()), 10**6)
    for found in Search(background, 4.0).best(Contexts(tuple(targets), np.full(40, 1 / 40))):
        for side in ("target", "previous", "next"):
            place = getattr(found.rule, side)
            if place is not None and place.class_:
                assert background.share(Rule(**{side: place})) <= 1 / 4


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
    assert asked("wait", "output", *((token, (0,)) for token in ((" Wait",), ("Wait",), (" x",)))) == (1.0, 1.0, 0.0)
    assert asked("after_relation", "output", (("7",), (0,)), ((" x",), (0,))) == (1.0, 0.0), "of the token alone"
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
    assert {x.explanation for x in found.values()} == {"backtracking word 'Wait'"}
    assert "10 of 20 contexts of all strengths" in found["half"].reason
    assert found["not drawn"].status == "top-only"
    assert "features.sampled" in found["not drawn"].reason
