"""A judge in this process through vLLM: transformers' greedy answers, schemas kept, room made for other engines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.benchmarks.engine import Engines
from harness.contract.settings import EngineConfig
from harness.llm.client import Client
from harness.llm.parsing import Parsed, parse_call
from harness.organism import MODEL
from harness.records import LLMRequest, ModelRef
from harness.testing import MemoryCalls
from harness_plugins.interpreters.answers import JUDGEMENT_SCHEMA, Judgement
from harness_plugins.providers import local

pytestmark = pytest.mark.timeout(600)
ORGANISM = str(MODEL)
QUESTIONS = [f"Let a = {i}; b = a + 3; what is b? Show steps." for i in range(20)]


def make(**settings: Any) -> Any:
    (registration,) = local.harness_providers()
    return registration.implementation()(registration.config(enforce_eager=True, **settings))


@pytest.fixture(scope="module")
def judge() -> Any:
    return make(engine="vllm")


def ask(provider: Any, *requests: LLMRequest) -> list[Any]:
    return list(Client(provider, MemoryCalls(), "explainer").run(requests))


def test_greedy_replies_are_those_of_transformers(judge: Any) -> None:
    requests = [LLMRequest(model=ORGANISM, user=q, max_tokens=40) for q in QUESTIONS]
    replies = [[(c.reply.text, c.reply.output_tokens) for c in ask(p, *requests)] for p in (judge, make())]
    assert sum(a == b for a, b in zip(*replies, strict=True)) >= 19
    assert len(set(replies[0])) > 1


def test_replies_are_constrained_to_the_schema(judge: Any) -> None:
    bounded = {**JUDGEMENT_SCHEMA, "properties": {**JUDGEMENT_SCHEMA["properties"]}}
    for name in ("explanation", "classification_reasoning"):
        bounded["properties"][name] = {"type": "string", "maxLength": 20}
    request = LLMRequest(model=ORGANISM, user="Explain.", max_tokens=200, json_schema=bounded)
    calls = ask(judge, *(request.model_copy(update={"temperature": 1.0, "repeat": i}) for i in range(8)))
    assert [c.status for c in calls] == ["ok"] * 8, [c.error for c in calls]
    assert all(isinstance(parse_call(c, Judgement), Parsed) for c in calls)
    assert all(set(json.loads(c.reply.text)) == set(bounded["properties"]) for c in calls)
    assert len({c.reply.text for c in calls}) > 1
    (free,) = ask(make(engine="vllm", structured_output=False), request)
    assert not isinstance(parse_call(free, Judgement), Parsed)


def test_a_sampled_reply_depends_on_its_own_request_alone(judge: Any) -> None:
    request = LLMRequest(model=ORGANISM, user=QUESTIONS[0], max_tokens=30, temperature=1.5)
    others = [request.model_copy(update={"repeat": i}) for i in range(1, 5)]
    together = [call.reply.text for call in ask(judge, *others, request)]
    assert together[-1] == ask(judge, request)[0].reply.text
    assert len(set(together)) > 1


def test_a_prompt_that_does_not_fit_is_refused_and_the_others_are_answered(judge: Any) -> None:
    long, short = (LLMRequest(model=ORGANISM, user=u, max_tokens=10) for u in ("x = 1; " * 400, QUESTIONS[0]))
    refused, answered = ask(judge, long, short)
    assert (refused.status, refused.final, answered.status) == ("failed", True, "ok")
    assert "the model reads 320" in refused.error


def test_an_engine_makes_room_for_another_and_comes_back(judge: Any) -> None:
    (first,) = ask(judge, LLMRequest(model=ORGANISM, user=QUESTIONS[1], max_tokens=20))
    other, base = Engines(EngineConfig(enforce_eager=True)), ModelRef(path=ORGANISM)
    running = other.get(base, base, 1)
    (again,) = ask(judge, LLMRequest(model=ORGANISM, user=QUESTIONS[1], max_tokens=20))
    assert running.closed
    assert again.reply.text == first.reply.text
