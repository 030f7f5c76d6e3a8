"""The probes: which sites of the model each one reads, and under which names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness.activations.capture import capture
from harness.activations.store import ActivationWriter
from harness.errors import ModelError
from harness.model.components import layer_of
from harness.model.subject import Subject
from harness.model.taps import Site, component_sites
from harness.records import ActivationSet, Trace
from harness.stages import RunContext

from .config import ReadingConfig

if TYPE_CHECKING:
    from .adapter_activations import AdapterActivationsConfig
    from .mlp_neurons import MlpNeuronsConfig
    from .random_directions import RandomDirectionsConfig


@dataclass(frozen=True)
class Columns:
    """What a probe reads: sites and the names of their columns, in order."""

    sites: tuple[Site, ...]
    names: tuple[str, ...]
    layers: tuple[int | None, ...]
    projections: tuple[str | None, ...]


class AdapterActivations:
    """a · x of every component: what `lora_A` puts out, before scaling and B, sign kept."""

    def __init__(self, config: AdapterActivationsConfig) -> None:
        self.config = config

    def read(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> ActivationSet:
        """Read the adapter's scalars.

        Raises:
            ModelError: the subject has no adapter.
            DataError: no traces.
        """
        _require_adapter(subject, "adapter-activations")
        found = subject.components
        columns = Columns(
            component_sites(found),
            tuple(c.name for c in found),
            tuple(c.layer for c in found),
            tuple(c.projection for c in found),
        )
        site = "a · x at the output of each lora_A, unscaled, adapter on"
        return _read("adapter-activations", columns, site, subject, traces, run, self.config, adapter_on=True)


class MlpNeurons:
    """Post-activation neurons: the input of each MLP's last matrix, adapter off.

    They are signed: SiLU(gate) * up, and GELU, go below 0.
    """

    def __init__(self, config: MlpNeuronsConfig) -> None:
        self.config = config

    def read(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> ActivationSet:
        """Read neurons of the base model.

        Raises:
            ModelError: no module has one of the configured endings.
            DataError: no traces.
        """
        columns = self._columns(subject.model)
        site = "input of each MLP's last matrix, adapter off"
        return _read("mlp-neurons", columns, site, subject, traces, run, self.config, adapter_on=False)

    def _columns(self, model: torch.nn.Module) -> Columns:
        endings = tuple("." + m for m in self.config.modules)
        paths = [path for path, _ in model.named_modules() if path.endswith(endings)]
        if not paths:
            raise ModelError(
                f"mlp-neurons: no module of {type(model).__name__} ends with {' or '.join(self.config.modules)}; "
                "name the MLP's last matrix with --set mlp-neurons.modules='[\"mlp.NAME\"]'"
            )
        sites, names, layers = [], [], []
        for path in paths:
            n = min(self.config.n_per_layer, _input_width(model.get_submodule(path), path))
            layer = layer_of(path)
            sites.append(Site(path, "input", n, take=slice(0, n)))
            names += [f"L{layer}.neuron{i}" for i in range(n)]
            layers += [layer] * n
        return Columns(tuple(sites), tuple(names), tuple(layers), (None,) * len(names))


class RandomDirections:
    """r · x with r random and |r| = |a|, at the same inputs: what any direction of this size would show."""

    def __init__(self, config: RandomDirectionsConfig) -> None:
        self.config = config

    def read(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> ActivationSet:
        """Read random directions.

        Raises:
            ModelError: the subject has no adapter.
            DataError: no traces.
        """
        _require_adapter(subject, "random-directions")
        generator = run.generator()
        sites = []
        at = 0
        for site in component_sites(subject.components):
            group = subject.components[at : at + site.width]
            at += site.width
            d_in = _input_width(subject.model.get_submodule(site.module), site.module)
            vectors = torch.randn(d_in, site.width, generator=generator)
            norms = torch.tensor([c.a_norm for c in group])
            sites.append(Site(site.module, "input", site.width, project=vectors / vectors.norm(dim=0) * norms))
        columns = Columns(
            tuple(sites),
            tuple(f"{c.name}.random" for c in subject.components),
            tuple(c.layer for c in subject.components),
            tuple(c.projection for c in subject.components),
        )
        where = "random vectors of each component's norm at the input of each lora_A, adapter on"
        return _read("random-directions", columns, where, subject, traces, run, self.config, adapter_on=True)


def _read(
    source: str,
    columns: Columns,
    site: str,
    subject: Subject,
    traces: Sequence[Trace],
    run: RunContext,
    config: ReadingConfig,
    *,
    adapter_on: bool,
) -> ActivationSet:
    writer = ActivationWriter(
        run.out_dir / "activations",
        source,
        columns.names,
        layers=columns.layers,
        projections=columns.projections,
        signed=True,
        site=site,
        chat_hash=subject.chat_hash,
        dtype=config.dtype,
        shard_tokens=config.shard_tokens,
    )
    return capture(subject, traces, columns.sites, writer, run, adapter_on=adapter_on, batch_tokens=config.batch_tokens)


def _require_adapter(subject: Subject, probe: str) -> None:
    if not subject.components:
        raise ModelError(f"{probe} reads an adapter, and the subject has none: probe what a LoRA trainer made")


def _input_width(module: Any, path: str) -> int:
    """Width of a matrix's input: Linear, PEFT's wrapper of one, or GPT-2's Conv1D ([in, out])."""
    inner = getattr(module, "base_layer", module)
    width = getattr(inner, "in_features", None)
    if width is None and hasattr(inner, "nf"):
        width = inner.weight.shape[0]
    if width is None:
        raise ModelError(f"{path} is a {type(inner).__name__}, not a matrix")
    return int(width)
