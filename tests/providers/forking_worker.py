"""Asks questions in a child that the test may kill. The libraries are imported once.

Each line on stdin is a database's path: 80 questions through the client, the openai SDK and a journal in it. Prints the
child's process id, then how it ended.
"""

import os
import sys

from harness.llm.client import Client
from harness.records import LLMRequest
from harness.store.writer import Store
from harness_plugins.providers import openai_chat

registration = next(r for r in openai_chat.harness_providers() if r.name == "openai")
make = registration.implementation()


def ask(database: str) -> None:
    with Store.open(database) as store:
        provider = make(registration.config(concurrency=8))
        requests = [LLMRequest(model="gpt-5-mini", user=f"question {i}", max_tokens=100) for i in range(80)]
        list(Client(provider, store.calls(None), "explainer", model="gpt-5-mini").run(requests))


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


for line in sys.stdin:
    child = os.fork()
    if not child:
        code = 1
        try:
            ask(line.rstrip("\n"))
            code = 0
        finally:
            os._exit(code)
    say(child)
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
