"""The tap: the one mechanism that reads or replaces scalars inside a model.

A tap puts forward hooks on modules for the duration of a `with` block. It records the values that pass and lets an edit
replace them. It never changes a weight, and its hooks are removed afterwards, also after an exception. Ablation is an
edit that multiplies by 0; a dictionary splice is an edit that puts in the reconstruction; attribution is a gate that
requires grad.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from harness.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float

    from harness.model.components import Component
    from harness.model.gauge import Gauge

Edit = Callable[[torch.Tensor, slice], torch.Tensor]
"""(values [batch, token, width], the site's columns) -> replacement of the same shape."""


@dataclass(frozen=True)
class Site:
    """A place where values are read.

    Attributes:
        module: module path in the model.
        at: its `input` (first positional argument) or its `output`.
        width: number of columns read here.
        project: optional matrix [d, width] that the values are multiplied with (directions).
        take: optional slice of the last axis (the first n neurons).
        gauge: optional change of the scalars of a `lora_A` of rank above 1; edits are made in it, too.
    """

    module: str
    at: Literal["input", "output"]
    width: int
    project: torch.Tensor | None = None
    take: slice | None = None
    gauge: Gauge | None = None

    def read(self, value: torch.Tensor) -> torch.Tensor:
        """The columns of this site, in float32: small activations are ranked by what bf16 would round away."""
        if self.take is not None:
            value = value[..., self.take]
        value = value.detach().float()
        if self.gauge is not None:
            return self.gauge.canonical(value)
        return value if self.project is None else value @ self.project.to(value.device)


class Reading:
    """The values that a tap recorded in the last forward pass."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = tuple(sites)
        self._values: dict[int, torch.Tensor] = {}

    def put(self, site: int, value: torch.Tensor) -> None:
        """Record a site's values, in place of those of an earlier pass."""
        self._values[site] = value

    def values(self) -> Float[torch.Tensor, "batch token column"]:
        """All sites' columns side by side, float32, of the last forward pass.

        Raises:
            ModelError: no forward pass has run, or it did not pass through every site.
        """
        missing = [s.module for i, s in enumerate(self._sites) if i not in self._values]
        if missing:
            raise ModelError(
                f"the forward pass did not reach {missing[0]} ({len(missing)} of {len(self._sites)} sites)"
            )
        return torch.cat([self._values[i] for i in range(len(self._sites))], dim=-1)


@contextmanager
def tap(model: nn.Module, sites: Sequence[Site], edit: Edit | None = None, *, read: bool = True) -> Iterator[Reading]:
    """Read (and edit) values at sites while the block runs.

    Args:
        model: the model that holds the sites' modules.
        sites: where. Columns are numbered in this order.
        edit: replaces the output of output sites; called with the module's own values and the site's columns.
        read: keep the values (what was there *before* the edit).

    Raises:
        ModelError: a site's module does not exist, or an edit is asked for at an input site.
    """
    reading = Reading(sites)
    handles: list[Any] = []
    start = 0
    try:
        for index, site in enumerate(sites):
            columns = slice(start, start + site.width)
            start += site.width
            handles.append(_attach(model, index, site, columns, reading if read else None, edit))
        yield reading
    finally:
        for handle in handles:
            handle.remove()


def _attach(
    model: nn.Module, index: int, site: Site, columns: slice, reading: Reading | None, edit: Edit | None
) -> torch.utils.hooks.RemovableHandle:
    try:
        module = model.get_submodule(site.module)
    except AttributeError as error:
        raise ModelError(f"no module {site.module!r} in {type(model).__name__}") from error
    if site.at == "input":
        if edit is not None:
            raise ModelError(f"{site.module}: only outputs can be edited")

        def before(_: nn.Module, args: tuple[Any, ...]) -> None:
            if reading is not None:
                reading.put(index, site.read(args[0]))

        return module.register_forward_pre_hook(before)

    def after(_: nn.Module, __: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        if reading is not None:
            reading.put(index, site.read(output))
        if edit is None:
            return None
        if site.gauge is None:
            return edit(output, columns)
        before = site.gauge.canonical(output)
        return site.gauge.edited(output, before, edit(before, columns))

    return module.register_forward_hook(after)


def component_sites(components: Sequence[Component]) -> tuple[Site, ...]:
    """One site per adapted module: the output of its `lora_A`. Columns are the components, in their order.

    Raises:
        ModelError: the components are not whole modules in the order of `find_components`.
    """
    sites: list[Site] = []
    at = 0
    while at < len(components):
        first = components[at]
        group = components[at : at + first.rank]
        if [c.rank_index for c in group] != list(range(first.rank)) or any(c.module != first.module for c in group):
            raise ModelError(f"{first.module}: tap all rank slices of a module together, and gate those you mean")
        sites.append(Site(f"{first.module}.lora_A.{first.adapter}", "output", first.rank, gauge=first.gauge))
        at += first.rank
    return tuple(sites)


@dataclass(frozen=True)
class Gate:
    """Edit: multiply each component by its gate. 0 switches it off, 1 leaves it bit for bit as it is.

    Attributes:
        gates: [component], or [batch, component] for one row of gates per sequence.
    """

    gates: torch.Tensor

    def __call__(self, values: torch.Tensor, columns: slice) -> torch.Tensor:
        """Gate one site's values."""
        gates = self.gates[..., columns].to(values)
        return values * (gates.unsqueeze(-2) if gates.dim() == 2 else gates)


class RowGates:
    """Edit: gates that change while a tap is open, as sequences join and leave a batch.

    Attributes:
        gates: as `Gate.gates`.
    """

    def __init__(self, gates: torch.Tensor) -> None:
        self.gates = gates

    def __call__(self, values: torch.Tensor, columns: slice) -> torch.Tensor:
        """Gate one site's values."""
        return Gate(self.gates)(values, columns)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep the gates of these sequences of the batch; the others have ended."""
        if self.gates.dim() == 2:
            self.gates = self.gates[rows.to(self.gates.device)]


@dataclass(frozen=True)
class SetTo:
    """Edit: put these values in place of the scalars (a dictionary splice, a mean ablation).

    Attributes:
        replacement: [batch, token, component] or [component].
        where: bool [component]; None replaces all.
    """

    replacement: torch.Tensor
    where: torch.Tensor | None = None

    def __call__(self, values: torch.Tensor, columns: slice) -> torch.Tensor:
        """Replace one site's values."""
        new = self.replacement[..., columns].to(values).expand_as(values)
        return new if self.where is None else torch.where(self.where[columns].to(values.device), new, values)


def ablate(components: Sequence[Component], off: Sequence[Component]) -> Gate:
    """The gate over `components` that switches `off` off."""
    names = {c.name for c in off}
    return Gate(torch.tensor([0.0 if c.name in names else 1.0 for c in components]))
