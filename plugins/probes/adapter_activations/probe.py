"""Reads the scalar of every adapter component."""

from __future__ import annotations

from collections.abc import Sequence

from harness.activations.capture import Capture
from harness.activations.store import open_set
from harness.activations.units import rescale, zscore
from harness.contract.context import RunContext
from harness.contract.stages import Probe
from harness.model.subject import Subject
from harness.model.taps import component_sites
from harness.records import ActivationSet, Trace

from ..reading import Columns, Reading, layers_and_projections, read_capture, require_adapter
from . import AdapterActivationsConfig


class AdapterActivations(Probe):
    """a · x of every component: what `lora_A` puts out in the canonical gauge, before scaling and B, sign kept."""

    def __init__(self, config: AdapterActivationsConfig) -> None:
        self.config = config

    def read(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> ActivationSet:
        """Read the adapter's scalars.

        Raises:
            ModelError: the subject has no adapter.
            DataError: no traces.
        """
        activations = read_capture(self.capture(subject, run), subject, traces, run)
        if self.config.unit != "zscore":
            return activations
        # Mean and deviation are of the whole set, so it is read first and rescaled then.
        raw = open_set(activations)
        affine, reading = zscore(raw), self._reading(subject)
        writer = reading.writer(
            run.out_dir / "activations", unit="zscore", shift=affine.shift, scale=affine.scale,
            write_norms=_write_norms(subject),
        )  # fmt: skip
        return rescale(raw, writer, run)

    def capture(self, subject: Subject, run: RunContext) -> Capture:
        """See `harness.activations.capture.SharesPass`.

        Raises:
            ModelError: the subject has no adapter.
        """
        reading, unit = self._reading(subject), self.config.unit
        if unit == "zscore":
            return reading.capture(run.out_dir / "raw")
        norms = _write_norms(subject)
        scale = norms if unit == "write" else None
        return reading.capture(run.out_dir / "activations", unit=unit, scale=scale, write_norms=norms)

    def _reading(self, subject: Subject) -> Reading:
        require_adapter(subject, "adapter-activations")
        components = subject.components
        names = tuple(c.name for c in components)
        columns = Columns(component_sites(components), names, *layers_and_projections(components))
        site = "a · x at the output of each lora_A, adapter on"
        if any(c.gauge for c in components):
            site += ", in the canonical gauge of B A"
        return Reading("adapter-activations", columns, site, subject, self.config, adapter_on=True)


def _write_norms(subject: Subject) -> tuple[float, ...]:
    return tuple(c.write_norm for c in subject.components)
