"""Reads the scalar of every adapter component."""

from __future__ import annotations

from collections.abc import Sequence

from harness.activations.store import open_set
from harness.activations.units import rescale, zscore
from harness.contract.context import RunContext
from harness.contract.stages import Probe
from harness.model.subject import Subject
from harness.model.taps import component_sites
from harness.records import ActivationSet, Trace

from ..reading import Columns, Reading, layers_and_projections, require_adapter
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
        require_adapter(subject, "adapter-activations")
        components, unit = subject.components, self.config.unit
        names = tuple(c.name for c in components)
        columns = Columns(component_sites(components), names, *layers_and_projections(components))
        site = "a · x at the output of each lora_A, adapter on"
        if any(c.gauge for c in components):
            site += ", in the canonical gauge of B A"
        reading = Reading("adapter-activations", columns, site, subject, traces, run, self.config, adapter_on=True)
        norms = tuple(c.write_norm for c in components)
        if unit == "zscore":
            # Mean and deviation are of the whole set, so it is read first and rescaled then.
            raw = open_set(reading.read(run.out_dir / "raw"))
            affine = zscore(raw)
            writer = reading.writer(
                run.out_dir / "activations", unit=unit, shift=affine.shift, scale=affine.scale, write_norms=norms
            )
            return rescale(raw, writer, run)
        scale = norms if unit == "write" else None
        return reading.read(run.out_dir / "activations", unit=unit, scale=scale, write_norms=norms)
