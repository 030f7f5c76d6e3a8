"""Calls of the command line in children of a process that has the libraries: a start costs a fork, not ten seconds.

Each line on stdin is JSON. `{"argv": [...], "cwd": FOLDER, "env": {...}, "out": FILE, "err": FILE}` begins a call and
is answered with its process id; `{"ended": ID}` with its exit code as `subprocess` says it, or null while it runs.
"""

import importlib
import json
import os
import signal
import sys
import traceback

from harness.startup import prepare

LIBRARIES = (
    "harness.study.runner", "harness.render.render", "harness_plugins.ablations.leave_one_out.ablation",
    "harness_plugins.dictionaries.batch_topk.learner", "harness_plugins.interpreters.autointerp.interpreter",
    "harness_plugins.providers.openai_chat.client", "harness_plugins.trainers.rank1_lora.trainer", "lm_eval.evaluator",
    "lm_eval.models.huggingface",
)  # fmt: skip


def call(argv: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """What `harness ARGV` does in a process of its own."""
    from harness.cli import main

    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for target, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), target)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    main(argv)


prepare()
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in LIBRARIES:
    importlib.import_module(name)
for line in sys.stdin:
    told = json.loads(line)
    if "ended" in told:
        pid, status = os.waitpid(told["ended"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    else:
        answer = os.fork()
        if not answer:
            code = 1
            try:
                call(**told)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
            except BaseException:  # noqa: BLE001 - said as a process of its own would
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
