"""An explainer and a judge of two vendors, through both real SDKs, against a server on the loopback."""

import json

from harness.contract.context import RunContext
from harness.contract.session import Session
from harness.records import Evidence, Exemplar
from harness_plugins.interpreters import autointerp
from harness_plugins.providers import anthropic_messages, openai_chat


def load(registrations, name, **settings):
    registration = next(r for r in registrations if r.name == name)
    return registration.implementation()(registration.config(**settings))


def evidence(n):
    return [
        Evidence(
            source="s", feature=f"f{i}", layer=0, projection=None,
            exemplars=(Exemplar(rank=0, document="d", position=1, start=0, tokens=("a", f" t{i}"),
                                activations=(0.0, 2.0), target=1),),
            sampled=(Exemplar(rank=1, document="e", position=1, start=0, tokens=("a", f" s{i}"),
                              activations=(0.0, 0.5), target=1, quantile=0.3),),
        )
        for i in range(n)
    ]  # fmt: skip


def test_a_judge_of_another_vendor_grades_what_the_explainer_explained(vendor, answer, journal, tmp_path):
    def choose(body):
        prompt = body["messages"][-1]["content"]
        if body["model"] == "grader":
            grade = 2 if '"digits"' in prompt else None
            return answer(text=json.dumps({"classification": grade, "classification_reasoning": "mixed"}))
        return answer(text=json.dumps({"explanation": "digits", "classification": 0}))

    vendor.choose = choose
    llms = {
        "explainer": (load(openai_chat.harness_providers(), "openai"), "writer"),
        "judge": (load(anthropic_messages.harness_providers(), "anthropic"), "grader"),
    }
    run = RunContext(
        out_dir=tmp_path, seed=0, calls=journal, provider=llms.__getitem__, roles=frozenset(llms), llm=Session()
    )
    interpreter = load(autointerp.harness_interpreters(), "autointerp")
    found = list(interpreter.explain(evidence(3), run))
    assert {(x.explanation, x.grade, x.reason, x.status) for x in found} == {("digits", 2, "mixed", "graded")}
    asked = [(seen.path, seen.body["model"]) for seen in vendor.seen]
    assert {(x.grade_top, x.reason_top) for x in found} == {(2, "mixed")}
    # the judge is asked twice of each: on the highest contexts, and with those of all strengths
    assert sorted(asked) == [("/v1/chat/completions", "writer")] * 3 + [("/v1/messages", "grader")] * 6
    again = list(interpreter.explain(evidence(3), run))
    assert (again, len(vendor.seen)) == (found, 9), "the journal answers both"
