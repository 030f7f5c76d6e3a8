"""What all probes share: the columns that are read, and how they are captured and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.activations.capture import Capture, capture_together
from harness.activations.store import ActivationWriter
from harness.contract.context import RunContext
from harness.errors import ModelError
from harness.model.components import Component
from harness.model.subject import Subject
from harness.model.taps import Site
from harness.records import ActivationSet, Trace

from .config import ReadingConfig


@dataclass(frozen=True)
class Columns:
    """What a probe reads: sites and the names of their columns, in order."""

    sites: tuple[Site, ...]
    names: tuple[str, ...]
    layers: tuple[int | None, ...]
    projections: tuple[str | None, ...]


@dataclass(frozen=True)
class Reading:
    """One capture: which columns of which subject over which traces, and how they are stored.

    Attributes:
        source: the probe's name.
        columns: what is read.
        site: the same in words, for the record.
        subject: the model.
        config: batching, dtype, shards.
        adapter_on: whether the adapter is on.
    """

    source: str
    columns: Columns
    site: str
    subject: Subject
    config: ReadingConfig
    adapter_on: bool

    def writer(self, folder: Path, *, unit: str = "raw", **affine: Any) -> ActivationWriter:
        """An empty set in `folder`. `affine` goes to ActivationWriter: shift, scale, write_norms."""
        return ActivationWriter(
            folder,
            self.source,
            self.columns.names,
            layers=self.columns.layers,
            projections=self.columns.projections,
            signed=True,
            site=self.site,
            chat_hash=self.subject.chat_hash,
            dtype=self.config.dtype,
            shard_tokens=self.config.shard_tokens,
            unit=unit,
            numerics=self.config.numerics if self.adapter_on else "modules",
            **affine,
        )

    def capture(self, folder: Path, *, unit: str = "raw", **affine: Any) -> Capture:
        """What is captured, and that it is stored in `folder`."""
        writer = self.writer(folder, unit=unit, **affine)
        return Capture(self.columns.sites, writer, self.adapter_on, self.config.batch_tokens)


def read_capture(capture: Capture, subject: Subject, traces: Sequence[Trace], run: RunContext) -> ActivationSet:
    """Run the traces through the model and store the columns.

    Raises:
        DataError: no traces.
    """
    capture_together(subject, traces, [capture], run)
    return capture.writer.finish()


def layers_and_projections(
    components: Sequence[Component],
) -> tuple[tuple[int | None, ...], tuple[str | None, ...]]:
    """The layer and the projection of each component's column."""
    return tuple(c.layer for c in components), tuple(c.projection for c in components)


def require_adapter(subject: Subject, probe: str) -> None:
    """Refuse a subject without an adapter.

    Raises:
        ModelError: it has none.
    """
    if not subject.components:
        raise ModelError(f"{probe} reads an adapter, and the subject has none: probe what a LoRA trainer made")
