"""The providers of vendors keep the contract, tried against a server on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.records import LLMReply
from harness.testing import check_plugin
from harness_plugins.providers import anthropic_messages, openai_chat

OFFERED = {r.name: r for module in (openai_chat, anthropic_messages) for r in module.harness_providers()}


@pytest.mark.parametrize("name", OFFERED)
def test_a_vendors_provider_keeps_the_contract(name: str, vendor: Any, tmp_path: Path) -> None:
    base_url = f"{vendor.url}/v1" if name.startswith("openai") else vendor.url
    (reply,) = check_plugin(OFFERED[name], tmp_path, {"model": "some-model", "base_url": base_url})
    assert isinstance(reply, LLMReply)
    assert reply.model == "some-model"
    assert len(vendor.seen) == 2, "one request for each of the two times"
