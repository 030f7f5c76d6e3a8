"""The tool of a sweep's workers: a divergence, made where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.contract.progress import Progress

from .divergence import Divergence, Share, Sums
from .documents import Texts
from .fisher import Piece, probe

if TYPE_CHECKING:
    from jaxtyping import Float

    from harness.model.subject import Subject

    from .config import KLConfig


@dataclass(frozen=True)
class About:
    """What is known of a divergence before anything is switched off (see `Divergence`)."""

    engine: str
    why_not: str | None
    ce_full_nats: Float[np.ndarray, " document"]


@dataclass(frozen=True)
class Measured:
    """What a share's cells did.

    Attributes:
        sums: of each cell.
        floor_nats: the null floor of the share's layer; None where it was not measured with this share.
    """

    sums: Sequence[Sums]
    floor_nats: float | None


class Sweeper:
    """Measures ablations and probes of an adapter on the same documents."""

    def __init__(self, subject: Subject, texts: Texts, config: KLConfig, seed: int) -> None:
        """Nothing runs yet (see `Divergence` for the arguments)."""
        self._made_of = subject, texts, config, seed

    @classmethod
    def arrived(cls, *made_of: Any) -> Sweeper:
        """In a worker: at once with its divergence, so that all workers make theirs at the same time."""
        sweeper = cls(*made_of)
        _ = sweeper._divergence
        return sweeper

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels as what it is made of."""
        return Sweeper.arrived, self._made_of

    @cached_property
    def _divergence(self) -> Divergence:
        return Divergence(*self._made_of)

    def about(self, _: None, __: Progress) -> About:
        """What is known before anything is switched off.

        Raises:
            ModelError: the subject has no adapter, or its logits cannot be read.
        """
        found = self._divergence
        return About(found.engine, found.why_not, found.ce_full_nats)

    def measure(self, share: Share, progress: Progress) -> Measured:
        """Measure a share's cells.

        Raises:
            ModelError: a KL is not finite.
        """
        sums = self._divergence.measure(share)
        progress.advance(len(share.cells))
        return Measured(sums, self._divergence.floors_nats.get(share.layer) if share.first else None)

    def probe(self, piece: Piece, progress: Progress) -> Float[np.ndarray, "document probe component"]:
        """Probe some documents."""
        subject, _, config, seed = self._made_of
        found = probe(self._divergence, subject.components, piece, config.probes, seed)
        progress.advance(len(piece.documents))
        return found
