"""What each worker of a sweep holds: a `Divergence`, built where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.contract.progress import Progress

from .divergence import Divergence, KLSums, Share
from .documents import Texts
from .fisher import Piece, probe

if TYPE_CHECKING:
    from jaxtyping import Float

    from harness.model.subject import Subject

    from .config import KLConfig


@dataclass(frozen=True)
class RunInfo:
    """What is known of a divergence before anything is switched off (see `Divergence`)."""

    engine: str
    prefix_reuse_error: str | None
    ce_full_nats: Float[np.ndarray, " document"]


@dataclass(frozen=True)
class Measured:
    """The result of a share.

    Attributes:
        sums: of each cell.
        floor_nats: the null floor of the share's layer; None where it was not measured with this share.
    """

    sums: Sequence[KLSums]
    floor_nats: float | None


class Sweeper:
    """Measures ablations and probes of an adapter on the same documents."""

    def __init__(self, subject: Subject, texts: Texts, config: KLConfig, seed: int) -> None:
        """Build nothing yet (see `Divergence` for the arguments)."""
        self._arguments = subject, texts, config, seed

    @classmethod
    def arrived(cls, *arguments: Any) -> Sweeper:
        """Build the divergence at once in a worker that received the sweeper, so that all workers build at one time."""
        sweeper = cls(*arguments)
        _ = sweeper._divergence
        return sweeper

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it is built from."""
        return Sweeper.arrived, self._arguments

    @cached_property
    def _divergence(self) -> Divergence:
        return Divergence(*self._arguments)

    def about(self, _: None, __: Progress) -> RunInfo:
        """What is known before anything is switched off.

        Raises:
            ModelError: the subject has no adapter, or its logits cannot be read.
        """
        made = self._divergence
        return RunInfo(made.engine, made.prefix_reuse_error, made.ce_full_nats)

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
        subject, _, config, seed = self._arguments
        gradients = probe(self._divergence, subject.components, piece, config.probes, seed)
        progress.advance(len(piece.documents))
        return gradients
