"""A model with an adapter, to look at from Python: its scalars on a text, gains of its components, KL without some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from harness.api.scalars import Scalars, read_scalars
from harness.errors import UnknownName, UsageError
from harness.model import subject as models
from harness.model.chat import ChatFormat, Document
from harness.model.components import Component, find_components
from harness.model.measure import measure_kl
from harness.model.taps import Gate, component_sites, tap
from harness.records import Checkpoint, Estimate, ModelRef, Trace
from harness.records.segments import Segment


def load(
    base: str | Path, adapter: str | Path | None = None, *, device: str = "auto", dtype: str = "float32"
) -> Subject:
    """Load a base model, and a PEFT adapter on it.

    Args:
        base: a Hugging Face folder, a GGUF file, `package://...` or a hub id.
        adapter: a PEFT folder; None for the base alone, which has no scalars.
        device: torch device; `auto` is the first GPU, else the CPU.
        dtype: of the base's weights; the adapter's are float32.

    Raises:
        ModelError: something is missing, or the adapter does not fit the base.
    """
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    ref = ModelRef.model_validate({"path": str(base), "dtype": dtype})
    checkpoint = None
    if adapter is not None:
        checkpoint = Checkpoint(
            kind="adapter", path=Path(adapter), base=ref, chat_hash="", n_parameters=0, n_examples=0
        )
    loaded = models.load_subject(ref, ChatFormat(), checkpoint, device=device)
    return Subject(**{f.name: getattr(loaded, f.name) for f in fields(loaded)})


class Subject(models.Subject):
    """A model that is measured, with what a notebook asks of it. `load` makes one, `of` wraps one in memory."""

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> Subject:
        """A PeftModel that is in memory already, with its tokenizer. It is put in eval mode, its weights stay.

        Raises:
            ModelError: its adapter is no LoRA whose scalars can be read (merged, DoRA, ...).
        """
        chat = ChatFormat().resolved(tokenizer)
        place = str(getattr(model.config, "_name_or_path", "") or "a model in memory")
        return cls(
            model.eval(), tokenizer, chat, chat.hash(tokenizer), ModelRef(path=place),
            components=find_components(model), device=str(next(model.parameters()).device),
        )  # fmt: skip

    def scalars(self, text: str) -> Scalars:
        """Every component's scalar at every token of a text, which is read as it stands (no chat template).

        Raises:
            ModelError: there is no adapter.
        """
        return read_scalars(self.model, self.tokenizer, self.components, text, self.device)

    @contextmanager
    def gains(self, gains: Mapping[str, float]) -> Iterator[None]:
        """Multiply components' scalars inside the block: 0 switches one off, 1 leaves it bit for bit, 2 doubles it.

        Whatever the model does inside (a forward pass, `model.generate`) has these gains; blocks can be nested.

        Args:
            gains: name of a component -> gain.

        Raises:
            UnknownName: no such component.
        """
        chosen = {c.name: gain for c, gain in zip(self._named(list(gains)), gains.values(), strict=True)}
        gate = Gate(torch.tensor([float(chosen.get(c.name, 1.0)) for c in self.components]))
        with tap(self.model, component_sites(self.components), gate, read=False):
            yield

    def kl(
        self, texts: Sequence[str | Trace], *, off: Sequence[str | Component] | None = None, seed: int = 0
    ) -> Estimate:
        """KL(adapter ‖ without `off`), mean over tokens in nats per token, with a 95 % interval over the texts.

        Of a `Trace` the response's tokens count (see `measure_kl`), of a plain text all of them.

        Args:
            texts: what to measure on. From fewer than two, no interval can be had: it is unbounded.
            off: components; all of them if not given.
            seed: of the bootstrap.

        Raises:
            UnknownName: no such component.
            UsageError: one string in place of a list of them.
        """
        if isinstance(texts, str):
            raise UsageError("kl takes a list of texts, because its interval is over them: kl([text, ...])")
        documents = [self._document(i, text) for i, text in enumerate(texts)]
        return measure_kl(self, documents, self.components if off is None else self._named(off), seed=seed)

    def _document(self, i: int, text: str | Trace) -> Document:
        if isinstance(text, Trace):
            return self.chat.document(self.tokenizer, text)
        encoded = self.tokenizer(text, return_offsets_mapping=True)
        ids = tuple(encoded["input_ids"])
        offsets = tuple((a, b) for a, b in encoded["offset_mapping"])
        segments: tuple[Segment, ...] = tuple("answer" for _ in ids)
        return Document(f"text {i}", text, ids, offsets, segments, (True,) * len(ids))

    def _named(self, wanted: Sequence[str | Component]) -> list[Component]:
        by_name = {c.name: c for c in self.components}
        names = [w if isinstance(w, str) else w.name for w in wanted]
        for name in names:
            if name not in by_name:
                raise UnknownName("component", name, by_name)
        return [by_name[name] for name in names]
