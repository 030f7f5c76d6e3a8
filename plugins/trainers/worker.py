"""What torchrun starts: one of the processes of a training. `python -m harness_plugins.trainers.worker JOB.json`."""

from __future__ import annotations

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

from .full_finetune import FullFinetuneConfig
from .processes import PROGRESS, FileProgress, is_first, write_failure
from .rank1_lora import Rank1LoraConfig


def main(job_file: str) -> None:
    """Do the job's training as one of its processes."""
    prepare()
    from harness.model.chat import ChatFormat

    from .full_finetune.trainer import FullTrainer
    from .rank1_lora.trainer import LoraTrainer

    job: dict[str, Any] = json.loads(Path(job_file).read_text(encoding="utf-8"))
    out_dir = Path(job["out_dir"])
    device = f"cuda:{os.environ['LOCAL_RANK']}" if job["device"].startswith("cuda") else job["device"]
    progress = FileProgress(out_dir / PROGRESS) if is_first() else SilentProgress()
    run = RunContext(out_dir, seed=job["seed"], device=device, progress=progress)
    trainer: LoraTrainer | FullTrainer
    if job["kind"] == "adapter":
        trainer = LoraTrainer(Rank1LoraConfig.model_validate(job["recipe"]))
    else:
        trainer = FullTrainer(FullFinetuneConfig.model_validate(job["recipe"]))
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


if __name__ == "__main__":
    main(sys.argv[1])
