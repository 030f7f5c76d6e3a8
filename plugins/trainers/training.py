"""Fitting a model to traces with transformers' Trainer: what the adapter and the full fine-tune share.

Around the Trainer stand the loss mask, the length rule, the seeds, resuming after any interruption to the same bytes,
and leaving the process as it was found.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import transformers
from transformers import Trainer as HFTrainer
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from harness.config import digest
from harness.contract.context import RunContext
from harness.contract.stages import Trainer
from harness.errors import UsageError
from harness.files import replaced_folder, write_atomically
from harness.model.chat import ChatFormat
from harness.model.subject import load_tokenizer
from harness.records import Checkpoint, ModelRef, Trace

from .examples import Examples, make_examples, pad_batch, shuffled
from .processes import in_worker, is_first, run_processes
from .recipe import Recipe

Weights = dict[str, Any]
"""Parameter name -> tensor."""

_FOLDER = {"adapter": "adapter", "full": "model"}


class RecipeTrainer(Trainer):
    """Fits a model to traces by a recipe. A subclass builds the model and saves what was trained.

    Attributes:
        kind: what is made; the folder is `adapter` or `model`.
        config: the recipe.
    """

    kind: ClassVar[Literal["adapter", "full"]]

    def __init__(self, config: Recipe) -> None:
        self.config = config

    @abstractmethod
    def build(self, base: ModelRef, run: RunContext) -> Any:
        """The model; the parameters to train require grad. Called after seeding."""

    @abstractmethod
    def save(self, model: Any, folder: Path, base: ModelRef, weights: Weights | None) -> None:
        """Write the trained weights into a folder: those given, else the model's own."""

    def train(self, base: ModelRef, traces: Sequence[Trace], chat: ChatFormat, run: RunContext) -> Checkpoint:
        """Train, save under `run.out_dir`, and remove the intermediate checkpoints.

        Called again after an interruption, it goes on from the last complete checkpoint, to the same bytes. Called
        again after it finished, it returns what it made. Other inputs in the same folder start afresh.

        Raises:
            ModelError: a target module that the base does not have.
            UsageError: micro_batch_size (times processes) does not divide batch_size, or layers that do not exist.
            DataError: no trace is short enough.
        """
        recipe, tokenizer = self.config, load_tokenizer(base)
        chat = chat.resolved(tokenizer)
        accumulate = _accumulation(recipe)
        run.out_dir.mkdir(parents=True, exist_ok=True)
        chat_hash = chat.hash(tokenizer)
        # The folder belongs to one step, whose key covers the base's bytes: its name is enough here.
        inputs = [self.kind, recipe.digest(), base.model_dump(mode="json"), chat_hash, run.seed, _content(traces)]
        job = digest(inputs)
        finished = _finished(run.out_dir, job)
        if finished is not None:
            return finished
        if recipe.processes > 1 and not in_worker():
            run_processes(self, recipe, base, traces, chat, run)
            return Checkpoint.model_validate(json.loads((run.out_dir / "job.json").read_text())["checkpoint"])
        folder = run.out_dir / _FOLDER[self.kind]
        with _undisturbed(run.seed):
            model = self.build(base, run)
            use_cache = model.config.use_cache  # the Trainer switches it off, and it would be saved like that
            longest = min(
                recipe.max_length, getattr(model.config, "max_position_embeddings", None) or recipe.max_length
            )
            used = shuffled(traces, run.seed) if recipe.shuffle_traces else traces
            examples = make_examples(used, chat, tokenizer, longest)
            trainer = _trainer(model, examples, recipe, accumulate, int(tokenizer.pad_token_id), run)
            trainer.train(resume_from_checkpoint=_last_complete(run.out_dir / "steps"))
            model.config.use_cache = use_cache
            weights = _gathered(trainer) if recipe.fsdp else None
            whole = trainer.accelerator.unwrap_model(trainer.model)
            if is_first():
                with replaced_folder(folder) as fresh:
                    self.save(whole, fresh, base, weights)
        checkpoint = Checkpoint(
            kind=self.kind,
            path=folder,
            base=base,
            chat_hash=chat_hash,
            n_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            n_examples=len(examples.rows),
            n_truncated=len(examples.left_out),
            kept_token_share=examples.kept_token_share,
            n_steps=trainer.state.global_step,
            losses=tuple((int(e["step"]), float(e["loss"])) for e in trainer.state.log_history if "loss" in e),
        )
        if is_first():
            _write(run.out_dir / "job.json", {"job": job, "checkpoint": checkpoint.model_dump(mode="json")})
        trainer.accelerator.wait_for_everyone()
        if is_first():
            shutil.rmtree(run.out_dir / "steps", ignore_errors=True)
        return checkpoint


def _accumulation(recipe: Recipe) -> int:
    processes = int(os.environ.get("WORLD_SIZE", recipe.processes))
    per_pass = recipe.micro_batch_size * processes
    if recipe.batch_size % per_pass:
        raise UsageError(
            f"batch_size={recipe.batch_size} is not a multiple of micro_batch_size={recipe.micro_batch_size} times "
            f"{processes} process(es); the effective batch would not be the one asked for"
        )
    return recipe.batch_size // per_pass


def _content(traces: Sequence[Trace]) -> str:
    return digest([[t.id, t.question, t.trace, t.answer] for t in traces])


def _finished(out_dir: Path, job: str) -> Checkpoint | None:
    """What this job made before; None if it did not finish. Files of another job are removed."""
    try:
        note = json.loads((out_dir / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        note = {}
    if note.get("job") == job:
        if "checkpoint" not in note:
            return None
        checkpoint = Checkpoint.model_validate(note["checkpoint"])
        if checkpoint.path.is_dir():
            return checkpoint
    for name in ("steps", *_FOLDER.values()):
        shutil.rmtree(out_dir / name, ignore_errors=True)
    _write(out_dir / "job.json", {"job": job})
    return None


def _gathered(trainer: HFTrainer) -> Weights:
    """The sharded weights, gathered on the CPU of the first process. A collective: every process must call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    assert trainer.model is not None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(trainer.model, options=options)


def _sharding(model: Any, recipe: Recipe) -> dict[str, Any]:
    """TrainingArguments of FSDP2, wrapped at the model's decoder layers.

    Activation checkpointing is then FSDP's own: the Trainer's would gather every layer once more.
    """
    if not recipe.fsdp:
        checkpointing = recipe.gradient_checkpointing
        return {
            "gradient_checkpointing": checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": False} if checkpointing else None,
        }
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "transformer_layer_cls_to_wrap": sorted(inner._no_split_modules),
            "activation_checkpointing": recipe.gradient_checkpointing,
            "state_dict_type": "FULL_STATE_DICT",
            "cpu_ram_efficient_loading": False,
        },
    }


class ShardingTrainer(HFTrainer):
    """transformers' Trainer, sharding on CPUs too: accelerate would silently train unsharded copies there."""

    def create_accelerator_and_postprocess(self) -> None:
        """Switch FSDP on where accelerate left it out."""
        super().create_accelerator_and_postprocess()
        if not (self.args.fsdp and self.args.use_cpu) or self.is_fsdp_enabled:
            return
        from accelerate import PartialState
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

        plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
        if self.accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(self.accelerator.mixed_precision)
        # Both states are shared dictionaries, and the first is read again from the second.
        self.accelerator.state._shared_state.update(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin)
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.is_fsdp_enabled = True


def _trainer(
    model: Any, examples: Examples, recipe: Recipe, accumulate: int, pad_id: int, run: RunContext
) -> HFTrainer:
    arguments = TrainingArguments(
        output_dir=str(run.out_dir / "steps"),
        per_device_train_batch_size=recipe.micro_batch_size,
        gradient_accumulation_steps=accumulate,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.lr,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_ratio,
        optim="adamw_torch",
        adam_beta1=recipe.beta1,
        adam_beta2=recipe.beta2,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.bf16,
        **_sharding(model, recipe),
        train_sampling_strategy="group_by_length" if recipe.group_by_length else "random",
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,
        seed=run.seed % 2**32,
        data_seed=run.seed % 2**32,
        use_cpu=run.device == "cpu",
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    if not os.environ.get("WORLD_SIZE"):
        arguments._n_gpu = min(arguments.n_gpu, 1)  # several visible GPUs would mean nn.DataParallel and another batch
    trainer = ShardingTrainer(
        model=model,
        args=arguments,
        train_dataset=list(examples.rows),
        data_collator=partial(pad_batch, pad_id=pad_id),
        callbacks=[_Reporter(run)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Reporter(TrainerCallback):
    """Reports the Trainer's steps to the run's progress."""

    def __init__(self, run: RunContext) -> None:
        self.progress = run.progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the bar at the step where training starts, which is not 0 after a resume."""
        self.progress.start(state.max_steps, "step")
        if state.global_step:
            self.progress.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One more optimiser step."""
        self.progress.advance()


def _last_complete(folder: Path) -> str | None:
    """The newest complete checkpoint. Incomplete ones are removed: the Trainer would fail on them.

    The Trainer writes `trainer_state.json` last, so a checkpoint with a readable one is complete.
    """
    complete: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        try:
            complete[int(json.loads((path / "trainer_state.json").read_text())["global_step"])] = path
        except (OSError, ValueError, KeyError):
            shutil.rmtree(path)
    return str(complete[max(complete)]) if complete else None


def _write(path: Path, value: Any) -> None:
    write_atomically(path, lambda stream: stream.write(json.dumps(value).encode()))


@contextmanager
def _undisturbed(seed: int) -> Iterator[None]:
    """Seed everything inside the block; restore random states, environment and log levels afterwards.

    The Trainer seeds Python, numpy and torch globally and accelerate writes to the environment.
    """
    states = random.getstate(), np.random.get_state(), dict(os.environ)
    loggers = [logging.getLogger(n) for n in ("transformers", "accelerate", "peft")]
    levels = [logger.level for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        transformers.utils.logging.disable_progress_bar()
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.manual_seed(seed)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
        random.setstate(states[0])
        np.random.set_state(states[1])
        for key in os.environ.keys() - states[2].keys():
            del os.environ[key]
        os.environ.update(states[2])
