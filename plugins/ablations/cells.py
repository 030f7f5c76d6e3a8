"""What is switched off: components, layers, projections, blocks of layers, groups, everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.model.components import Component

Scope = Literal["component", "layer", "projection", "block", "group", "adapter", "greedy", "shapley"]


@dataclass(frozen=True)
class Cell:
    """One thing to switch off.

    Attributes:
        item: its name within the step.
        scope: what kind of thing.
        off: the components.
        where: layer, projection, rank_index and group, as far as it has them.
    """

    item: str
    scope: Scope
    off: tuple[Component, ...]
    where: dict[str, Any] = field(default_factory=dict)

    @property
    def first_layer(self) -> int:
        """The first layer that it changes; 0 where a component is outside the layers."""
        return min((0 if c.layer is None else c.layer for c in self.off), default=0)


def cells(components: Sequence[Component], scopes: Sequence[str], n_blocks: int = 8) -> list[Cell]:
    """The cells of leave-one-out, the widest first."""
    sweep = [Cell("adapter", "adapter", tuple(components)), *block_cells(components, n_blocks)]
    for layer in sorted({c.layer for c in components if c.layer is not None}):
        sweep.append(Cell(f"layer:{layer}", "layer", _where(components, layer=layer), {"layer": layer}))
    sweep += projection_cells(components, "projection")
    for c in components:
        where = {"layer": c.layer, "projection": c.projection, "rank_index": c.rank_index, "group": c.block}
        sweep.append(Cell(f"component:{c.name}", "component", (c,), where))
    return [cell for cell in sweep if cell.scope in scopes]


def block_cells(components: Sequence[Component], n_blocks: int) -> list[Cell]:
    """Runs of adapted layers, as equal as they go: at most `n_blocks`, each of two layers or more; or none at all."""
    layers = sorted({c.layer for c in components if c.layer is not None})
    n = min(n_blocks, len(layers) // 2)
    if n < 2:
        return []
    blocks = []
    for i in range(n):
        block = layers[i * len(layers) // n : (i + 1) * len(layers) // n]
        first, last = block[0], block[-1]
        off = tuple(c for c in components if c.layer in block)
        blocks.append(Cell(f"block:{first}-{last}", "block", off, {"group": f"L{first}-L{last}"}))
    return blocks


def projection_cells(components: Sequence[Component], scope: Literal["projection", "group"]) -> list[Cell]:
    """One cell per projection, over all layers."""
    projections = []
    for name in dict.fromkeys(c.projection for c in components):
        where = {"projection": name} | ({"group": name} if scope == "group" else {})
        projections.append(Cell(f"{scope}:{name}", scope, _where(components, projection=name), where))
    return projections


def group_cells(components: Sequence[Component]) -> list[Cell]:
    """Attention, MLP (`other` where a module is neither), then projections."""
    groups = [(name, _where(components, block=name)) for name in ("attention", "mlp", "other")]
    cells = [Cell(f"group:{name}", "group", off, {"group": name}) for name, off in groups if off]
    return cells + projection_cells(components, "group")


def _where(components: Sequence[Component], **values: Any) -> tuple[Component, ...]:
    return tuple(c for c in components if all(getattr(c, k) == v for k, v in values.items()))
