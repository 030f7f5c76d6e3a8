"""Replies by rule. The same prompt always gets the same reply, in whatever order prompts come.

If neither the config's rules nor its replies answer, built-in rules do, one per prompt of the interpreters. They read
the prompt's text and answer in the form that it asks for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

from harness.records import LLMReply, LLMRequest

from . import ScriptedConfig

_EXAMPLE = re.compile(r"^Example \d+:$", re.MULTILINE)
_STRENGTH = re.compile(r"^(.*) (\d+\.\d\d)$", re.MULTILINE)
_STRING_ID = re.compile(r"^(?:- )?([a-z][a-z0-9_]*): ", re.MULTILINE)
_MARKED = re.compile(r"<<(.+?)>>", re.DOTALL)
_NUMBERED = re.compile(r'^\d+\. (".*")$', re.MULTILINE)
_LISTED = re.compile(r"^- (.+)$", re.MULTILINE)


class Scripted:
    """Answers from its config, otherwise in the form that the prompt asks for."""

    name = "scripted"

    def __init__(self, config: ScriptedConfig) -> None:
        self.config = config

    async def complete(self, request: LLMRequest) -> LLMReply:
        """Answer at once."""
        text = self._text(request)
        return LLMReply(
            text=text,
            finish_reason="stop",
            model=request.model or self.config.model,
            request_id=f"scripted-{_hash(request)[:12]}",
            input_tokens=len(request.user.split()),
            cached_tokens=0,
            output_tokens=len(text.split()),
        )

    async def aclose(self) -> None:
        """Nothing to close."""

    def _text(self, request: LLMRequest) -> str:
        prompt = f"{request.system or ''}\n{request.user}"
        for part, reply in self.config.rules.items():
            if part in prompt:
                return reply
        if self.config.replies:
            return self.config.replies[int(_hash(request), 16) % len(self.config.replies)]
        if "<neuron_activations>" in prompt:
            return _explain(prompt)
        if "feature interpretations to categorize" in prompt:
            return _categories(prompt)
        if "feature interpretations to divide" in prompt:
            return _categories(prompt, "feature interpretations to divide")
        if "Predict how strongly the feature activates" in prompt or "makes the network write some tokens" in prompt:
            return _strengths(prompt)
        if '{"ratings": [...]}' in prompt:
            return _ratings(prompt)
        if "Available categories:" in prompt:
            return _choose(prompt)
        return "{}"


def _hash(request: LLMRequest) -> str:
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()


def _explain(prompt: str) -> str:
    """Names the token that is strongest most often; the grade says how often (0: 90 %, 1: 60 %, else 2)."""
    evidence = prompt.partition("<neuron_activations>")[2].rpartition("</neuron_activations>")[0]
    tops = []
    for example in _EXAMPLE.split(evidence)[1:]:
        if "chosen for is marked" in prompt:  # contexts of all strengths: their own tokens count
            tops += _MARKED.findall(example)[:1]
            continue
        listed = _STRENGTH.findall(example)
        if listed:
            tops.append(max(listed, key=lambda pair: float(pair[1]))[0])
    if not tops:
        return json.dumps({"explanation": "nothing", "classification": 2, "classification_reasoning": "no examples"})
    token, n = Counter(tops).most_common(1)[0]
    grade = 0 if n >= 0.9 * len(tops) else 1 if n >= 0.6 * len(tops) else 2
    answer = {
        "explanation": f"token {token}",
        "classification": grade,
        "classification_reasoning": f"strongest in {n} of {len(tops)} examples",
    }
    return json.dumps(answer, ensure_ascii=False)


def _ratings(prompt: str) -> str:
    """10 for texts that hold the last word of the explanation (marked, where there are marks), else 0.

    Without an explanation (intruder): 10 for texts whose first marked token no other text has marked.
    """
    texts = [text.rpartition("\n\nReply with ONLY")[0] or text for text in _EXAMPLE.split(prompt)[1:]]
    marks = [_MARKED.findall(text) for text in texts]
    explanation = re.search(r'^"(.*)"$', prompt, re.MULTILINE)
    if explanation is None:
        first = [marked[0] if marked else "" for marked in marks]
        return json.dumps({"ratings": [10 if first.count(f) == 1 else 0 for f in first]})
    word = (explanation.group(1).split() or [""])[-1]
    held = [(word in marked) if "marked <<like this>>" in prompt else (word in text.split())
            for marked, text in zip(marks, texts, strict=True)]  # fmt: skip
    return json.dumps({"ratings": [10 if x else 0 for x in held]})


def _strengths(prompt: str) -> str:
    """10 for tokens that are the last word of the explanation, else 0."""
    explanation = re.search(r'^"(.*)"$', prompt, re.MULTILINE)
    word = (explanation.group(1).split() or [""])[-1] if explanation else ""
    tokens = [json.loads(token) for token in _NUMBERED.findall(prompt)]
    return json.dumps({"ratings": [10 if token.strip() == word else 0 for token in tokens]})


def _categories(prompt: str, before: str = "feature interpretations to categorize") -> str:
    """Five categories, each with examples from the list."""
    listed = _LISTED.findall(prompt.rpartition(before)[2])
    names = ("operators", "digits", "words", "punctuation", "control")
    categories = [
        {
            "string_id": f"scripted_{name}",
            "name": name.capitalize(),
            "definition": f"Features that a scripted reply put under {name}.",
            "examples": listed[i::5][:3],
        }
        for i, name in enumerate(names)
    ]
    return json.dumps({"categories": categories, "summary": "scripted"}, ensure_ascii=False)


def _choose(prompt: str) -> str:
    """One of the ids that the prompt offers, chosen by the explanation's hash."""
    ids = _STRING_ID.findall(prompt.partition("Available categories:")[2])
    explanation = prompt.partition("Feature explanation:")[2].partition("\n")[0]
    return ids[int(hashlib.sha256(explanation.encode()).hexdigest(), 16) % len(ids)] if ids else "uncategorised"
