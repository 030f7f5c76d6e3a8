"""The implementation of `pretrained-adapter`."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.contract.context import RunContext
from harness.contract.stages import Trainer
from harness.errors import ModelError
from harness.files import replaced_folder
from harness.model.attach import attach_adapter
from harness.model.chat import ChatFormat
from harness.model.components import find_components, idle_reason
from harness.model.lora_folder import CONFIG, WEIGHTS, save_as_attached
from harness.model.subject import load_base, load_tokenizer
from harness.model.traces import resolve
from harness.records import Checkpoint, ModelRef, Trace

from . import PretrainedAdapterConfig

_FILES = (CONFIG, *WEIGHTS)
_log = logging.getLogger(__name__)


class ExistingAdapter(Trainer):
    """Copies an adapter into the run, as a plain LoRA, and checks that it binds to the base."""

    def __init__(self, config: PretrainedAdapterConfig) -> None:
        self.config = config

    def train(self, base: ModelRef, traces: Sequence[Trace], chat: ChatFormat, run: RunContext) -> Checkpoint:
        """Train nothing. The chat format of its training is not known; it is recorded as the study's.

        Raises:
            ModelError: no such adapter, it is no plain LoRA on the base and cannot be made one, or it changes nothing.
        """
        folder = self._copy(run.out_dir)
        model = attach_adapter(load_base(base), str(folder))
        components = find_components(model)
        if reason := idle_reason(components, str(self._source())):
            raise ModelError(reason)
        idle = [c.name for c in components if not c.a_norm * c.write_norm > 0]
        if idle:
            _log.warning("%s: %d of %d components write nothing: %s", folder, len(idle), len(components), idle[:5])
        save_as_attached(model, folder)
        modules = {c.module for c in components}
        return Checkpoint(
            kind="adapter",
            path=folder,
            base=base,
            chat_hash=chat.hash(load_tokenizer(base)),
            n_parameters=sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n and _owner(n) in modules),
            n_examples=0,
        )

    def _copy(self, out_dir: Path) -> Path:
        source = self._source()
        if not (source / "adapter_config.json").is_file():
            raise ModelError(f"{source} is no PEFT adapter: it has no adapter_config.json")
        folder = out_dir / "adapter"
        with replaced_folder(folder) as fresh:
            for name in _FILES:
                if (source / name).is_file():
                    shutil.copyfile(source / name, fresh / name)
        return folder

    def _source(self) -> Path:
        place = resolve(self.config.path)
        if place.is_dir():
            return place
        if self.config.path.startswith(("package://", "/", ".", "~")):
            raise ModelError(f"no adapter folder {place}")
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(self.config.path, revision=self.config.revision, allow_patterns=list(_FILES)))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise ModelError(
                f"cannot load the adapter {self.config.path!r}: {first} (offline? pass a local folder)"
            ) from error


def _owner(parameter: str) -> str:
    return parameter.partition(".lora_")[0]
