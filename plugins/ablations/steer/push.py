"""A push on an adapter's scalars, as edits of a tap. Each row of a batch has its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness.model.components import directions
from harness.model.taps import RowGates, Site, component_sites, tap

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from harness.model.subject import Subject


@dataclass(frozen=True)
class Pushes:
    """What is done to the scalars: multiplied by `gains`, then `added`; and what is written along random directions.

    At a gain of 1 with nothing added the scalars stay bit for bit as they are; at 0 they are those of an ablation.

    Attributes:
        gains: [row, component].
        added: [row, token or 1, component]; None adds nothing.
        astray: of the same shape: scalars that are written along `Astray`'s directions in place of the components' own.
    """

    gains: Float[torch.Tensor, "row component"]
    added: Float[torch.Tensor, "row token component"] | None = None
    astray: Float[torch.Tensor, "row token component"] | None = None

    def __call__(self, values: torch.Tensor, columns: slice) -> torch.Tensor:
        """Edit one site's scalars."""
        values = values * self.gains[:, None, columns].to(values)
        return values if self.added is None else values + self.added[..., columns].to(values)


class Astray:
    """Directions drawn at random, each of the norm of its component's b and at the same matrix.

    Attributes:
        sites: the outputs of all `lora_B`, numbered by their module.
    """

    def __init__(self, subject: Subject, generator: torch.Generator) -> None:
        """Draw a direction per component."""
        self.sites: list[Site] = []
        self._written: list[tuple[slice, Float[torch.Tensor, "rank d_out"]]] = []
        at, components = 0, subject.components
        while at < len(components):
            module = components[at : at + components[at].rank]
            norms = torch.stack([directions(subject.model, c).b.float().norm() for c in module]).cpu()
            drawn = torch.randn(len(module), len(directions(subject.model, module[0]).b), generator=generator)
            self._written.append(
                (slice(at, at + len(module)), drawn / drawn.norm(dim=1, keepdim=True) * norms[:, None])
            )
            self.sites.append(Site(f"{module[0].module}.lora_B.{module[0].adapter}", "output", 1))
            at += len(module)

    def writes(self, values: torch.Tensor, site: int, scalars: Float[torch.Tensor, "row token component"]) -> Any:
        """A module's output with these scalars written along its random directions."""
        which, written = self._written[site]
        return values + scalars[..., which].to(values) @ written.to(values)


@contextmanager
def pushed(subject: Subject, pushes: Pushes, astray: Astray) -> Iterator[None]:
    """Push inside the block."""

    def stray(values: torch.Tensor, column: slice) -> torch.Tensor:
        assert pushes.astray is not None
        return astray.writes(values, column.start, pushes.astray)

    with ExitStack() as stack:
        stack.enter_context(tap(subject.model, component_sites(subject.components), pushes, read=False))
        if pushes.astray is not None:
            stack.enter_context(tap(subject.model, astray.sites, stray, read=False))
        yield


class RowPushes(RowGates):
    """Pushes while answers are written: constants on generated tokens, gains on all.

    A pass of several tokens reads the prompt, which a dose leaves alone. Each row names its push, so that sequences
    of different pushes share a batch.

    Attributes:
        gates: [row, 1] number of each row's push; [1] where all rows have the same.
    """

    def __init__(self, table: Pushes, push: int) -> None:
        """Keep `table`, whose rows are the pushes (each of one token); all rows of a batch have `push` until told."""
        super().__init__(torch.tensor([push]))
        self._table = table

    def __call__(self, values: torch.Tensor, columns: slice) -> torch.Tensor:
        """Edit one site's scalars."""
        rows = self._rows(values.device)
        values = values * self._table.gains.to(values)[rows][:, None, columns]
        if self._table.added is None or values.shape[1] > 1:
            return values
        return values + self._table.added.to(values)[rows][..., columns]

    @contextmanager
    def straying(self, subject: Subject, astray: Astray) -> Iterator[None]:
        """Write along the random directions inside the block; the components' own are the answerer's to tap."""

        def stray(values: torch.Tensor, column: slice) -> torch.Tensor:
            if self._table.astray is None or values.shape[1] > 1:
                return values
            scalars = self._table.astray.to(values)[self._rows(values.device)]
            written: torch.Tensor = astray.writes(values, column.start, scalars)
            return written

        with tap(subject.model, astray.sites, stray, read=False):
            yield

    def _rows(self, device: torch.device) -> Int[torch.Tensor, " row"]:
        return self.gates.reshape(-1).to(device)
