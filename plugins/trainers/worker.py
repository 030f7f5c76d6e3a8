"""What torchrun starts: one of the processes of a training. `python -m harness_plugins.trainers.worker JOB.json`."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from harness.contract.context import RunContext
from harness.contract.progress import SilentProgress
from harness.errors import HarnessError
from harness.records import ModelRef, Trace
from harness.startup import prepare

from .processes import PROGRESS, FileProgress, is_first, write_failure


def main(job_file: str) -> None:
    """Do the job's training as one of its processes."""
    prepare()
    from harness.model.chat import ChatFormat

    job: dict[str, Any] = json.loads(Path(job_file).read_text(encoding="utf-8"))
    out_dir = Path(job["out_dir"])
    device = f"cuda:{os.environ['LOCAL_RANK']}" if job["device"].startswith("cuda") else job["device"]
    progress = FileProgress(out_dir / PROGRESS) if is_first() else SilentProgress()
    run = RunContext(out_dir, seed=job["seed"], device=device, progress=progress)
    trainer = _named(job["trainer"])(_named(job["config"]).model_validate(job["recipe"]))
    try:
        trainer.train(
            ModelRef.model_validate(job["base"]),
            [Trace.model_validate(t) for t in job["traces"]],
            ChatFormat.model_validate(job["chat"]),
            run,
        )
    except HarnessError as error:
        if is_first():
            write_failure(out_dir, error)
        sys.exit(1)


def _named(target: str) -> Any:
    """The class `module:Class`, which the parent wrote into the job."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    main(sys.argv[1])
