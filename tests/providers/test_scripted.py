"""The scripted provider, and that plugin modules are light."""

import asyncio
import subprocess
import sys

from harness.records import LLMRequest
from harness_plugins.providers import scripted


def ask(user, **settings):
    (registration,) = scripted.harness_providers()
    provider = registration.implementation()(registration.config(**settings))
    return asyncio.run(provider.complete(LLMRequest(model="", user=user)))


def test_rules_then_replies_then_the_built_in():
    assert ask("please add 1", rules={"add": "2", "please": "3"}).text == "2"
    replies = {ask(f"q{i}", replies=("a", "b")).text for i in range(20)}
    assert replies == {"a", "b"}
    assert ask("q1", replies=("a", "b")).text == ask("q1", replies=("a", "b")).text
    assert ask("anything").text == "{}"
    assert ask("anything").model == "scripted"


def test_registration_modules_import_no_sdk_and_no_torch():
    modules = [
        "harness_plugins.providers.openai_chat",
        "harness_plugins.providers.anthropic_messages",
        "harness_plugins.providers.local",
        "harness_plugins.providers.scripted",
        "harness_plugins.interpreters.autointerp",
        "harness_plugins.interpreters.lexical",
    ]
    code = f"import sys, {', '.join(modules)}; print([m for m in ('openai', 'anthropic', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
