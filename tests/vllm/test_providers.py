"""Both SDKs against a real server that is no vendor's: vLLM, with the organism as the judge."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.errors import ProviderError
from harness.llm.client import Client
from harness.llm.parsing import Parsed, parse_call
from harness.records import LLMRequest
from harness.testing import MemoryCalls
from harness_plugins.interpreters.answers import JUDGEMENT_SCHEMA, Judgement
from harness_plugins.providers import anthropic_messages, openai_chat

pytestmark = pytest.mark.timeout(600)
NAMES = ("openai-compatible", "anthropic")
ASK = LLMRequest(
    model="organism", user="Explain the neuron.", max_tokens=1500, json_schema=JUDGEMENT_SCHEMA, temperature=None
)


def make(name: str, url: str) -> Any:
    module = {"openai-compatible": openai_chat, "anthropic": anthropic_messages}[name]
    registration = next(r for r in module.harness_providers() if r.name == name)
    settings = {
        "openai-compatible": {"base_url": f"{url}/v1"},
        "anthropic": {"base_url": url, "key_required": False, "structured_output": True, "keep_limits": True},
    }
    return registration.implementation()(registration.config(**settings[name]))


@pytest.fixture(params=NAMES)
def provider(request: pytest.FixtureRequest, vllm_url: str) -> Any:
    return make(request.param, vllm_url)


def test_output_is_constrained_to_the_schema(provider: Any) -> None:
    journal = MemoryCalls()
    requests = [ASK.model_copy(update={"user": f"Explain neuron {i}.", "repeat": i}) for i in range(8)]
    calls = list(Client(provider, journal, "explainer").run(requests))
    assert [c.status for c in calls] == ["ok"] * 8, [c.error for c in calls]
    for call in calls:
        assert set(json.loads(call.reply.text)) == {"explanation", "classification", "classification_reasoning"}
        assert isinstance(parse_call(call, Judgement), Parsed)
        assert call.reply.input_tokens > 0
        assert call.reply.output_tokens > 0
        assert call.price_usd is None, "nobody knows what this server costs"
    assert list(Client(provider, journal, "explainer").run(requests)) == calls


def test_without_the_schema_the_same_model_writes_none(provider: Any) -> None:
    (call,) = Client(provider, MemoryCalls(), "explainer").run(
        [ASK.model_copy(update={"json_schema": None, "max_tokens": 40})]
    )
    assert not isinstance(parse_call(call, Judgement), Parsed)


def test_an_unknown_model_ends_the_run(provider: Any) -> None:
    with pytest.raises(ProviderError, match="does not know the model 'other'"):
        list(Client(provider, MemoryCalls(), "explainer").run([ASK.model_copy(update={"model": "other"})]))


def test_a_prompt_that_is_too_long_is_refused_for_good(provider: Any) -> None:
    (call,) = Client(provider, MemoryCalls(), "explainer").run([ASK.model_copy(update={"user": "x = 1; " * 9000})])
    assert (call.status, call.final, call.n_attempts) == ("failed", True, 1)
