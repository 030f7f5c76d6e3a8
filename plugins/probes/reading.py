"""The probes: which sites of the model each one reads, and under which names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.activations.capture import capture
from harness.activations.store import ActivationWriter, open_set
from harness.activations.units import rescale, zscore
from harness.contract.context import RunContext
from harness.errors import ModelError
from harness.model.components import Component, directions, layer_of
from harness.model.subject import Subject
from harness.model.taps import Site, component_sites
from harness.records import ActivationSet, Trace

from .config import ReadingConfig

if TYPE_CHECKING:
    from .adapter_activations import AdapterActivationsConfig
    from .mlp_neurons import MlpNeuronsConfig
    from .random_directions import RandomDirectionsConfig
    from .shuffled_directions import ShuffledDirectionsConfig


@dataclass(frozen=True)
class Columns:
    """What a probe reads: sites and the names of their columns, in order."""

    sites: tuple[Site, ...]
    names: tuple[str, ...]
    layers: tuple[int | None, ...]
    projections: tuple[str | None, ...]


class AdapterActivations:
    """a · x of every component: what `lora_A` puts out in the canonical gauge, before scaling and B, sign kept."""

    def __init__(self, config: AdapterActivationsConfig) -> None:
        self.config = config

    def read(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> ActivationSet:
        """Read the adapter's scalars.

        Raises:
            ModelError: the subject has no adapter.
            DataError: no traces.
        """
        _require_adapter(subject, "adapter-activations")
        found, unit = subject.components, self.config.unit
        columns = Columns(component_sites(found), tuple(c.name for c in found), *_places(found))
        site = "a · x at the output of each lora_A, adapter on"
        if any(c.gauge for c in found):
            site += ", in the canonical gauge of B A"
        into = _Reading("adapter-activations", columns, site, subject, traces, run, self.config, adapter_on=True)
        norms = tuple(c.write_norm for c in found)
        if unit == "zscore":
            # The whole set is read before its mean and deviation are known.
            raw = open_set(into.read(run.out_dir / "raw"))
            affine = zscore(raw)
            writer = into.writer(
                run.out_dir / "activations", unit=unit, shift=affine.shift, scale=affine.scale, write_norms=norms
            )
            return rescale(raw, writer, run)
        scale = norms if unit == "write" else None
        return into.read(run.out_dir / "activations", unit=unit, scale=scale, write_norms=norms)


class MlpNeurons:
    """Neurons of each MLP. They are signed: SiLU(gate) * up, and GELU, go below 0."""

    def __init__(self, config: MlpNeuronsConfig) -> None:
        self.config = config

    def read(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> ActivationSet:
        """Read neurons of the base model, or of the adapted one.

        Raises:
            ModelError: no module has one of the configured endings, or there is no adapter to switch on.
            DataError: no traces.
        """
        if self.config.adapter:
            _require_adapter(subject, "mlp-neurons with adapter=true")
        where = {
            "post-activation": "input of each MLP's last matrix",
            "up": "output of each MLP's up-projection",
            "residual": "residual stream entering each block",
        }[self.config.site]
        site = f"{where}, adapter {'on' if self.config.adapter else 'off'}"
        columns = self._columns(subject.model)
        into = _Reading("mlp-neurons", columns, site, subject, traces, run, self.config, adapter_on=self.config.adapter)
        return into.read(run.out_dir / "activations")

    def _columns(self, model: torch.nn.Module) -> Columns:
        kind = self.config.site
        label = {"post-activation": "neuron", "up": "up", "residual": "residual"}[kind]
        sites: list[Site] = []
        names: list[str] = []
        layers: list[int | None] = []
        for path in self._paths(model):
            if kind == "residual":
                n = min(self.config.n_per_layer, _hidden_size(model))
                layer: int | None = int(path.rpartition(".")[2])
            else:
                width = (_input_width if kind == "post-activation" else _output_width)(model.get_submodule(path), path)
                n = min(self.config.n_per_layer, width)
                layer = layer_of(path)
            sites.append(Site(path, "output" if kind == "up" else "input", n, take=slice(0, n)))
            names += [f"L{layer}.{label}{i}" for i in range(n)]
            layers += [layer] * n
        return Columns(tuple(sites), tuple(names), tuple(layers), (None,) * len(names))

    def _paths(self, model: torch.nn.Module) -> list[str]:
        paths = [path for path, _ in model.named_modules()]
        if self.config.site == "residual":
            found = [path for path in paths if layer_of(path + ".") is not None and path.rpartition(".")[2].isdigit()]
            depth = min((path.count(".") for path in found), default=0)
            found = [path for path in found if path.count(".") == depth]  # experts and the like are numbered, too
            setting, endings = "site", ()
        else:
            setting = "modules" if self.config.site == "post-activation" else "up_modules"
            endings = getattr(self.config, setting)
            found = [path for path in paths if path.endswith(tuple("." + m for m in endings))]
        if not found:
            raise ModelError(
                f"mlp-neurons: no module of {type(model).__name__} ends with {' or '.join(endings) or 'a number'}; "
                f"name the matrix with --set mlp-neurons.{setting}='[\"mlp.NAME\"]'"
            )
        return found


class RandomDirections:
    """r · x with r random and |r| = |a|, at the same inputs: what any direction of this size would show."""

    name, label = "random-directions", "random"
    where = "random vectors of each component's norm at the input of each lora_A, adapter on"

    def __init__(self, config: RandomDirectionsConfig | ShuffledDirectionsConfig) -> None:
        self.config = config

    def read(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> ActivationSet:
        """Read random directions.

        Raises:
            ModelError: the subject has no adapter.
            DataError: no traces.
        """
        _require_adapter(subject, self.name)
        generator = run.generator()
        found, sites, at = subject.components, [], 0
        for site in component_sites(found):
            vectors = [self._vector(subject, c, generator) for c in found[at : at + site.width]]
            at += site.width
            sites.append(Site(site.module, "input", site.width, project=torch.stack(vectors, dim=1)))
        columns = Columns(tuple(sites), tuple(f"{c.name}.{self.label}" for c in found), *_places(found))
        into = _Reading(self.name, columns, self.where, subject, traces, run, self.config, adapter_on=True)
        return into.read(run.out_dir / "activations")

    def _vector(self, subject: Subject, component: Component, generator: torch.Generator) -> torch.Tensor:
        vector = torch.randn(len(directions(subject.model, component).a), generator=generator)
        return vector / vector.norm() * component.a_norm


class ShuffledDirections(RandomDirections):
    """a' · x with the entries of a in another order: the same norm, the same outliers, not where training put them.

    Where the inputs have large dimensions, a random vector meets them as any other; a shuffled one shows what the
    distribution of a's entries alone brings about.
    """

    name, label = "shuffled-directions", "shuffled"
    where = "each component's a with its entries shuffled, at the input of each lora_A, adapter on"

    def _vector(self, subject: Subject, component: Component, generator: torch.Generator) -> torch.Tensor:
        a = directions(subject.model, component).a.cpu()
        return a[torch.randperm(len(a), generator=generator)]


@dataclass(frozen=True)
class _Reading:
    """What all probes hand to the capture."""

    source: str
    columns: Columns
    site: str
    subject: Subject
    traces: Sequence[Trace]
    run: RunContext
    config: ReadingConfig
    adapter_on: bool

    def writer(self, folder: Path, *, unit: str = "raw", **affine: Any) -> ActivationWriter:
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

    def read(self, folder: Path, *, unit: str = "raw", **affine: Any) -> ActivationSet:
        return capture(
            self.subject,
            self.traces,
            self.columns.sites,
            self.writer(folder, unit=unit, **affine),
            self.run,
            adapter_on=self.adapter_on,
            batch_tokens=self.config.batch_tokens,
        )


def _places(found: Sequence[Component]) -> tuple[tuple[int | None, ...], tuple[str | None, ...]]:
    return tuple(c.layer for c in found), tuple(c.projection for c in found)


def _require_adapter(subject: Subject, probe: str) -> None:
    if not subject.components:
        raise ModelError(f"{probe} reads an adapter, and the subject has none: probe what a LoRA trainer made")


def _hidden_size(model: Any) -> int:
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    return int(config.hidden_size)


def _input_width(module: Any, path: str) -> int:
    return _shape(module, path)[0]


def _output_width(module: Any, path: str) -> int:
    return _shape(module, path)[1]


def _shape(module: Any, path: str) -> tuple[int, int]:
    """(in, out) of a matrix: Linear, PEFT's wrapper of one, or GPT-2's Conv1D ([in, out])."""
    inner = getattr(module, "base_layer", module)
    if hasattr(inner, "in_features"):
        return int(inner.in_features), int(inner.out_features)
    if hasattr(inner, "nf"):
        return int(inner.weight.shape[0]), int(inner.weight.shape[1])
    raise ModelError(f"{path} is a {type(inner).__name__}, not a matrix")
