"""What the probes of control directions share: one vector per component, read at the component's own input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from harness.activations.capture import Capture
from harness.contract.context import RunContext
from harness.contract.stages import Probe
from harness.model.components import Component
from harness.model.subject import Subject
from harness.model.taps import Site, component_sites
from harness.records import ActivationSet, Trace

from .config import ReadingConfig
from .reading import Columns, Reading, layers_and_projections, read_capture, require_adapter


class ControlDirections(Probe):
    """r · x of one control vector r per component, adapter on. A subclass draws the vectors.

    Attributes:
        name: the plugin's.
        label: last part of the columns' names.
        site: what is read, for the record.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    site: ClassVar[str]

    def __init__(self, config: ReadingConfig) -> None:
        self.config = config

    def read(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> ActivationSet:
        """Read the control directions.

        Raises:
            ModelError: the subject has no adapter.
            DataError: no traces.
        """
        return read_capture(self.capture(subject, run), subject, traces, run)

    def capture(self, subject: Subject, run: RunContext) -> Capture:
        """See `harness.activations.capture.SharesPass`.

        Raises:
            ModelError: the subject has no adapter.
        """
        require_adapter(subject, self.name)
        generator = run.generator()
        components, sites, start = subject.components, [], 0
        for site in component_sites(components):
            vectors = [self.vector(subject, c, generator) for c in components[start : start + site.width]]
            start += site.width
            sites.append(Site(site.module, "input", site.width, project=torch.stack(vectors, dim=1)))
        names = tuple(f"{c.name}.{self.label}" for c in components)
        columns = Columns(tuple(sites), names, *layers_and_projections(components))
        reading = Reading(self.name, columns, self.site, subject, self.config, adapter_on=True)
        return reading.capture(run.out_dir / "activations")

    def vector(self, subject: Subject, component: Component, generator: torch.Generator) -> torch.Tensor:
        """The control vector of a component: [d_in], float32, on the CPU."""
        raise NotImplementedError
