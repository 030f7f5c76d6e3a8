"""Does what it is told in a child that the test may kill. The libraries are imported once: ten runs would else spend
a minute of a core on imports.

Each line on stdin is JSON, an object: `{"database": FILE}` asks 80 questions through the client, the openai SDK and a
journal; `{"argv": [...], "cwd": FOLDER}` is a call of the command line. Prints the child's process id, then how it
ended.
"""

import json
import os
import sys
from pathlib import Path

from harness.calls import LLMRequest
from harness.llm.client import Client
from harness.results.store import Store
from harness_plugins.providers import openai_chat

registration = next(r for r in openai_chat.harness_providers() if r.name == "openai")
make = registration.load()


def ask(database: str) -> None:
    with Store.open(database) as store:
        provider = make(registration.config(concurrency=8))
        requests = [LLMRequest(model="gpt-5-mini", user=f"question {i}", max_tokens=100) for i in range(80)]
        list(Client(provider, store.calls(None), "explainer", model="gpt-5-mini").run(requests))


def command(argv: list[str], cwd: str) -> None:
    from harness.cli import main

    os.chdir(cwd)
    log = os.open(str(Path(cwd) / "stderr.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    main(argv)


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if sys.argv[1:] == ["command"]:
    import harness_plugins.interpreters.autointerp_interpreter
    import harness_plugins.trainers.training  # noqa: F401 - torch, transformers and peft with it

for line in sys.stdin:
    child = os.fork()
    if not child:
        code = 0
        try:
            told = json.loads(line)
            if "database" in told:
                ask(told["database"])
            else:
                command(**told)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        finally:
            os._exit(code)
    say(child)
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
