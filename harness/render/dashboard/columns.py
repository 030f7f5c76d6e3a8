"""A source's stored activations, looked up by feature: windows, whole documents, histograms. One shard in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from harness.activations.store import StoredActivations, open_set
from harness.contract.progress import Progress
from harness.errors import DataError
from harness.render.dashboard.numbers import BINS
from harness.render.dashboard.stored import CatalogueRow, StoredFolder

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Columns:
    """The columns of one activation set.

    Attributes:
        stored: the set.
        signed: whether each column is two features, `name+` and `name-`.
        scale: [column] the largest activation of either polarity, 0 for a dead column.
    """

    def __init__(self, stored: StoredActivations, rows: Iterable[CatalogueRow]) -> None:
        """`rows`: the catalogue's features of this source."""
        self.stored, self.signed = stored, stored.set.signed
        signs = ("+", "-") if self.signed else ("",)
        names = {name + sign: i for i, name in enumerate(stored.columns) for sign in signs}
        self.scale = np.zeros(len(stored.columns), dtype=np.float32)
        self._place: dict[str, int] = {}
        for row in rows:
            column = names.get(row.feature)
            if column is not None:
                self._place[row.feature] = column
                self.scale[column] = max(self.scale[column], row.activation_max)

    def column(self, feature: str) -> int | None:
        """The feature's column; None where the set has no such column."""
        return self._place.get(feature)

    def sign(self, feature: str) -> int:
        """-1 for the negative polarity of a column, else 1."""
        return -1 if self.signed and feature.endswith("-") else 1

    def window(self, document: str, start: int, stop: int, column: int) -> Float[np.ndarray, " token"]:
        """Activations of the tokens start..stop, both signs; 0 on special tokens and the first."""
        stored = self.stored.document(document)
        values = stored.window(start, stop, column)
        values[~stored.ranked[start:stop]] = 0
        return values

    def matrix(self, document: str) -> csr_array:
        """[token, column] activations of a whole document; nothing on tokens that do not count."""
        stored = self.stored.document(document)
        return stored.csr.multiply(stored.ranked[:, None]).tocsr()

    def histograms(self, progress: Progress) -> Int[np.ndarray, "column bin"]:
        """Tokens per bin of activation, over all ranked tokens; exact zeros are left out.

        BINS equal bins from -scale (0 for an unsigned set) to scale.
        """
        n = len(self.stored.columns)
        low = -1.0 if self.signed else 0.0
        safe = np.where(self.scale > 0, self.scale, 1)
        counts = np.zeros(n * BINS, dtype=np.int64)
        progress.start(len(self.stored.document_ids), "documents")
        for document in self.stored.documents():
            columns, values = document.active()
            share = (values / safe[columns] - low) / (1 - low)
            bins = np.clip(share * BINS, 0, BINS - 1).astype(np.int64)
            counts += np.bincount(columns * BINS + bins, minlength=n * BINS)
            progress.advance()
        return counts.reshape(n, BINS)


def open_columns(
    folder: StoredFolder, artifacts: Path, rows: Mapping[str, list[CatalogueRow]]
) -> tuple[Columns | None, str | None]:
    """A source's columns, or why there are none.

    Args:
        folder: where its record says it is.
        artifacts: the artefact folder.
        rows: source -> its features.
    """
    path = folder.within(artifacts)
    if path is None:
        return None, f"its activations are not under {artifacts}; name the folder with --artifacts"
    try:
        return Columns(open_set(path), rows.get(folder.name, [])), None
    except DataError as error:
        return None, str(error)
