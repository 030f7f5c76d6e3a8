"""Reads neurons of each MLP, or the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harness.activations.capture import Capture
from harness.contract.context import RunContext
from harness.contract.stages import Probe
from harness.errors import ModelError
from harness.model.components import layer_of
from harness.model.subject import Subject
from harness.model.taps import Site
from harness.records import ActivationSet, Trace

from ..reading import Columns, Reading, read_capture, require_adapter
from . import MlpNeuronsConfig


class MlpNeurons(Probe):
    """Neurons of each MLP. They are signed: SiLU(gate) * up, and GELU, go below 0."""

    def __init__(self, config: MlpNeuronsConfig) -> None:
        self.config = config

    def read(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> ActivationSet:
        """Read neurons of the base model, or of the adapted one.

        Raises:
            ModelError: no module has one of the configured endings, or there is no adapter to switch on.
            DataError: no traces.
        """
        return read_capture(self.capture(subject, run), subject, traces, run)

    def capture(self, subject: Subject, run: RunContext) -> Capture:
        """See `harness.activations.capture.SharesPass`.

        Raises:
            ModelError: no module has one of the configured endings, or there is no adapter to switch on.
        """
        if self.config.adapter:
            require_adapter(subject, "mlp-neurons with adapter=true")
        where = {
            "post-activation": "input of each MLP's last matrix",
            "up": "output of each MLP's up-projection",
            "residual": "residual stream entering each block",
        }[self.config.site]
        site = f"{where}, adapter {'on' if self.config.adapter else 'off'}"
        columns = self._columns(subject.model)
        reading = Reading("mlp-neurons", columns, site, subject, self.config, adapter_on=self.config.adapter)
        return reading.capture(run.out_dir / "activations")

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
            numbered = [p for p in paths if layer_of(p + ".") is not None and p.rpartition(".")[2].isdigit()]
            depth = min((path.count(".") for path in numbered), default=0)
            matching = [path for path in numbered if path.count(".") == depth]  # experts are numbered too, further down
            setting, endings = "site", ()
        else:
            setting = "modules" if self.config.site == "post-activation" else "up_modules"
            endings = getattr(self.config, setting)
            matching = [path for path in paths if path.endswith(tuple("." + m for m in endings))]
        if not matching:
            raise ModelError(
                f"mlp-neurons: no module of {type(model).__name__} ends with {' or '.join(endings) or 'a number'}; "
                f"name the matrix with --set mlp-neurons.{setting}='[\"mlp.NAME\"]'"
            )
        return matching


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
