"""The organism as a judge in this process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import ProviderError
from harness.llm.client import Client
from harness.model.subject import load_base, load_tokenizer
from harness.records import LLMRequest, ModelRef
from harness.testing import MemoryCalls, tiny_model
from harness_plugins.providers import local

ORGANISM = "package://harness/organism/checkpoint"
QUESTIONS = [f"Let a = {i}; b = a + 3; what is b? Show steps." for i in range(6)]


def make(**settings: Any) -> Any:
    (registration,) = local.harness_providers()
    return registration.implementation()(registration.config(device="cpu", **settings))


def ask(provider: Any, *requests: LLMRequest) -> list[Any]:
    return list(Client(provider, MemoryCalls(), "explainer").run(requests))


def test_a_batch_answers_as_transformers_does_one_by_one() -> None:
    requests = [LLMRequest(model=ORGANISM, user=q, max_tokens=40) for q in QUESTIONS]
    calls = ask(make(batch_size=4), *requests)
    base = ModelRef(path=ORGANISM)
    model, tokenizer = load_base(base), load_tokenizer(base)
    for call, question in zip(calls, QUESTIONS, strict=True):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            out = model.generate(**prompt, max_new_tokens=40, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        new = out[0, prompt["input_ids"].shape[1] :]
        assert call.reply.text == tokenizer.decode(new, skip_special_tokens=True)
        assert call.reply.input_tokens == prompt["input_ids"].shape[1]
        assert call.reply.output_tokens == sum(
            int(t) not in (tokenizer.eos_token_id, tokenizer.pad_token_id) for t in new
        )
        assert call.price_usd == 0.0


def test_a_sampled_answer_depends_on_its_own_request_alone() -> None:
    request = LLMRequest(model=ORGANISM, user=QUESTIONS[0], max_tokens=30, temperature=1.5)
    others = [request.model_copy(update={"repeat": i}) for i in range(1, 5)]
    alone = ask(make(), request)[0].reply.text
    together = [call.reply.text for call in ask(make(), *others, request)]
    assert together[-1] == alone
    assert len(set(together)) > 1


def test_a_prompt_that_does_not_fit_is_refused_and_the_others_are_answered() -> None:
    long, short = ask(
        make(),
        LLMRequest(model=ORGANISM, user="a = 1; " * 400, max_tokens=10),
        LLMRequest(model=ORGANISM, user=QUESTIONS[0], max_tokens=3),
    )
    assert (long.status, long.final) == ("failed", True)
    assert "the model reads 320" in long.error
    assert (short.status, short.reply.finish_reason, short.reply.output_tokens) == ("ok", "length", 3)


def test_generation_config_json_does_not_change_a_greedy_answer(tmp_path: Path) -> None:
    folder = Path(tiny_model(tmp_path / "m").path)
    request = LLMRequest(model=str(folder), user="a = 3; what is a × a?", max_tokens=20)
    plain = ask(make(), request)[0].reply.text
    shipped = {"repetition_penalty": 5.0, "do_sample": True, "temperature": 3.0}
    (folder / "generation_config.json").write_text(json.dumps(shipped))
    assert ask(make(), request)[0].reply.text == plain


def test_what_cannot_be_asked_is_said() -> None:
    with pytest.raises(ProviderError, match="local:FOLDER"):
        asyncio.run(make().complete(LLMRequest(model="", user="x")))


GRADE = {
    "type": "object",
    "properties": {"grade": {"enum": [0, 1, 2]}, "why": {"type": "string", "maxLength": 30}},
    "required": ["grade", "why"],
    "additionalProperties": False,
}


def test_a_constrained_reply_keeps_to_its_schema_and_its_neighbour_is_free() -> None:
    asked = [LLMRequest(model=ORGANISM, user=q, max_tokens=150, json_schema=GRADE) for q in QUESTIONS[:3]]
    free = LLMRequest(model=ORGANISM, user=QUESTIONS[3], max_tokens=40)
    *replies, other = ask(make(structured_output=True), *asked, free)
    for call in replies:
        answer = json.loads(call.reply.text)
        assert call.reply.finish_reason == "stop"
        assert answer["grade"] in (0, 1, 2)
        assert len(answer["why"]) <= 30
    assert other.reply.text == ask(make(), free)[0].reply.text
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(ask(make(), asked[0])[0].reply.text)


def test_a_schema_that_cannot_be_constrained_is_named() -> None:
    with pytest.raises(ProviderError, match="cannot be constrained to its schema: Invalid type: novel"):
        ask(make(structured_output=True), LLMRequest(model=ORGANISM, user="?", json_schema={"type": "novel"}))


def test_without_llguidance_a_constrained_reply_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness_plugins.providers.local.constrain.find_spec", lambda name: None)
    with pytest.raises(ProviderError, match=r"pip install 'interp-harness\[json\]'"):
        ask(make(structured_output=True), LLMRequest(model=ORGANISM, user="?", json_schema=GRADE))
