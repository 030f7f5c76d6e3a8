"""The subject of a study: a base model, its tokenizer and chat format, and the checkpoint on top."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from harness.contract.executors import device_of_arrival
from harness.errors import ModelError
from harness.files import reading
from harness.model.attach import attach_adapter
from harness.model.chat import WRITTEN, ChatFormat, Written
from harness.model.components import Component, find_components, idle_reason
from harness.model.folders import local_model, pretrained
from harness.model.hub import why_not
from harness.records import Checkpoint, ModelRef

_log = logging.getLogger(__name__)

_BFLOAT16 = ("avx512_bf16", "amx_bf16")
"""Instructions of x86 CPUs that multiply in bfloat16, in torch's names."""


@dataclass
class Subject:
    """What is measured.

    Attributes:
        model: the base model, a PeftModel around it, or a fully fine-tuned model; in eval mode, on `device`.
        tokenizer: the base's tokenizer.
        chat: the format of all text.
        chat_hash: its hash with this tokenizer.
        base: where the base came from.
        checkpoint: the adapter or full fine-tune; None is the base itself.
        components: the adapter's scalar channels; empty without an adapter.
        device: torch device.
        ranked: whose tokens count as activating tokens (`features.segments`).
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    chat: ChatFormat
    chat_hash: str
    base: ModelRef
    checkpoint: Checkpoint | None = None
    components: tuple[Component, ...] = ()
    device: str = "cpu"
    ranked: tuple[Written, ...] = WRITTEN

    def place(self, device: str) -> None:
        """Move the model; memory on a GPU that it leaves is given back to other processes."""
        if device == self.device:
            return
        self.model.to(device)
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        self.device = device

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was loaded from, not the weights: the process that unpickles it loads it again."""
        folder, base = local_model(self.base.path), self.base
        if folder is not None and not base.path.startswith("package://"):
            base = base.model_copy(update={"path": str(folder.resolve())})
        return _loaded, (base, self.chat, self.chat_hash, self.checkpoint, self.device)


def load_tokenizer(base: ModelRef) -> PreTrainedTokenizerBase:
    """The base's tokenizer.

    Raises:
        ModelError: none there, or not a fast one (offsets are needed).
    """
    place, options = pretrained(base.path)
    with _loading("tokenizer", base):
        tokenizer = AutoTokenizer.from_pretrained(
            place, revision=base.revision, trust_remote_code=base.trust_remote_code, **options
        )
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer of {base.path!r} gives no character offsets; a fast tokenizer is needed")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(base: ModelRef, device: str = "cpu") -> PreTrainedModel:
    """The base model in eval mode. The weights of a GGUF file are dequantised.

    Raises:
        ModelError: no such folder, file or hub model, or a folder without weights.
    """
    place, options = pretrained(base.path)
    if device == "cpu" and base.dtype == "bfloat16":
        _warn_of_slow_bfloat16()
    with _loading("model", base), quiet():
        model = AutoModelForCausalLM.from_pretrained(
            place,
            revision=base.revision,
            dtype=getattr(torch, base.dtype),
            trust_remote_code=base.trust_remote_code,
            **options,
        )
    if options:
        _forget_quantisation(model, base.path)
    placed: Any = model.eval()
    placed.to(device)
    return model


def _forget_quantisation(model: Any, path: str) -> None:
    """Make a dequantised model one like any other: transformers would refuse to save it as "quantized with gguf"."""
    model.hf_quantizer = None
    model.is_quantized = False
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
    model.config._name_or_path = path  # what an adapter names as its base
    model.name_or_path = path


@functools.cache
def _warn_of_slow_bfloat16() -> None:
    """Once per process, on an x86 CPU that has no instructions for it."""
    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if capable.get("architecture") == "x86_64" and not any(capable.get(name) for name in _BFLOAT16):
        _log.warning(
            "model.dtype=bfloat16 is several times slower than float32 on this CPU, which has no instructions for it; "
            "--set model.dtype=float32"
        )


def load_subject(
    base: ModelRef,
    chat: ChatFormat,
    checkpoint: Checkpoint | None = None,
    *,
    device: str = "cpu",
    loaded: PreTrainedModel | None = None,
) -> Subject:
    """Load base, tokenizer and checkpoint.

    Args:
        base: the base model.
        chat: the format of all text.
        checkpoint: what is put on it, or a full fine-tune.
        device: torch device.
        loaded: the base's model where it is loaded already (`base_under`); it becomes the subject's.

    Raises:
        ModelError: something is missing, does not fit the base, or an adapter binds no module.
    """
    tokenizer = load_tokenizer(base)
    chat_hash = checked_chat_hash(chat, tokenizer, checkpoint)
    return _loaded(base, chat.resolved(tokenizer), chat_hash, checkpoint, device, tokenizer, loaded)


def base_under(subject: Subject) -> PreTrainedModel | None:
    """The loaded base of a subject, its adapter taken off, the weights the same objects; None of a full fine-tune.

    The subject cannot be used any more.
    """
    if subject.checkpoint is None:
        return cast(PreTrainedModel, subject.model)
    return cast(PreTrainedModel, subject.model.unload()) if subject.checkpoint.kind == "adapter" else None


def _loaded(
    base: ModelRef,
    chat: ChatFormat,
    chat_hash: str,
    checkpoint: Checkpoint | None,
    device: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    loaded: PreTrainedModel | None = None,
) -> Subject:
    """Load base and checkpoint onto `device`, or in a worker process onto the worker's own."""
    device, tokenizer = device_of_arrival() or device, tokenizer or load_tokenizer(base)
    if checkpoint is not None and checkpoint.kind == "full":
        model: Any = load_base(weights_of(base, checkpoint), device)
        return Subject(model, tokenizer, chat, chat_hash, base, checkpoint, device=device)
    model = loaded or load_base(base, device)
    model.to(device)
    if checkpoint is None:
        return Subject(model, tokenizer, chat, chat_hash, base, device=device)
    model = attach_adapter(model, str(checkpoint.path))
    components = find_components(model)
    if reason := idle_reason(components, str(checkpoint.path)):
        _log.warning(reason)
    return Subject(model, tokenizer, chat, chat_hash, base, checkpoint, components, device)


def checked_chat_hash(chat: ChatFormat, tokenizer: PreTrainedTokenizerBase, checkpoint: Checkpoint | None) -> str:
    """The format's hash.

    Raises:
        ModelError: the checkpoint was trained on text of another format.
    """
    chat_hash = chat.hash(tokenizer)
    if checkpoint is not None and checkpoint.chat_hash and checkpoint.chat_hash != chat_hash:
        raise ModelError(
            f"{checkpoint.path} was trained on text of another chat format ({checkpoint.chat_hash[:12]}, "
            f"now {chat_hash[:12]}); use the format it was trained with (--set chat.KEY=VALUE) or train again"
        )
    return chat_hash


def weights_of(base: ModelRef, checkpoint: Checkpoint | None) -> ModelRef:
    """The folder or hub id whose weights are loaded: the base's, or that of a full fine-tune."""
    if checkpoint is None or checkpoint.kind == "adapter":
        return base
    return base.model_copy(update={"path": str(checkpoint.path), "revision": None})


@contextmanager
def quiet() -> Iterator[None]:
    """Switch off transformers' progress bar and its and PEFT's FutureWarnings inside the block."""
    had_progress_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
            yield
    finally:
        if had_progress_bar:
            transformers_logging.enable_progress_bar()


@contextmanager
def _loading(what: str, base: ModelRef) -> Iterator[None]:
    """Read the base's files inside the block; an error says whether the hub or the files are at fault."""
    try:
        with reading(base.path, error_type=ModelError):
            yield
    except ModelError as error:
        why = why_not(base.path, error.__cause__ or error, "pass a folder: --set model.path=DIR")
        raise ModelError(f"cannot load the {what} {base.path!r}: {why}") from error
