"""SparseRows: compressed sparse rows in the stored dtype (scipy computes with no half-precision values)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class SparseRows:
    """Rows of which only what is not 0 is kept, columns ascending within a row.

    Attributes:
        row_offsets: [token + 1] int64; row t is columns and values row_offsets[t] to row_offsets[t + 1].
        columns: int32 column of each value. May hold more than these rows (a view of a shard).
        values: float16 or float32, never 0. May hold more than these rows.
        n_columns: width.
    """

    row_offsets: Int[np.ndarray, " token_and_one"]
    columns: Int[np.ndarray, " value"]
    values: Float[np.ndarray, " value"]
    n_columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens, columns)."""
        return len(self.row_offsets) - 1, self.n_columns

    def check(self) -> None:
        """Raise ValueError where an offset or a column lies outside, or is of another type."""
        if len(self.columns) != len(self.values) or self.span != slice(0, len(self.values)):
            raise ValueError(f"{len(self.columns)} columns for {len(self.values)} values")
        if (self.row_offsets.dtype, self.columns.dtype) != (np.int64, np.int32):
            raise ValueError(f"row offsets are {self.row_offsets.dtype}, columns {self.columns.dtype}")
        if bool((np.diff(self.row_offsets) < 0).any()):
            raise ValueError("row offsets that fall")
        if len(self.columns) and not 0 <= int(self.columns.min()) <= int(self.columns.max()) < self.n_columns:
            raise ValueError(f"a column beyond the {self.n_columns} that there are")

    @property
    def span(self) -> slice:
        """Where these rows lie in `columns` and `values`."""
        return slice(int(self.row_offsets[0]), int(self.row_offsets[-1]))

    def rows(self, start: int, stop: int) -> SparseRows:
        """The rows start..stop, without a copy."""
        return SparseRows(self.row_offsets[start : stop + 1], self.columns, self.values, self.n_columns)

    def row_of_value(self) -> Int[np.ndarray, " value"]:
        """Row of each value within `span`."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.row_offsets))

    def dense(self) -> Float[np.ndarray, "token column"]:
        """All entries, zeros included, in the stored dtype."""
        out = np.zeros(self.shape, dtype=self.values.dtype)
        out[self.row_of_value(), self.columns[self.span]] = self.values[self.span]
        return out

    def column(self, index: int) -> Float[np.ndarray, " token"]:
        """One column of all rows, zeros included."""
        out = np.zeros(self.shape[0], dtype=self.values.dtype)
        at = np.flatnonzero(self.columns[self.span] == index)
        row = np.searchsorted(self.row_offsets, at + self.row_offsets[0], side="right") - 1
        out[row] = self.values[self.span][at]
        return out

    def csr(self) -> csr_array:
        """As scipy computes with them, float32."""
        values, span = widened(self.values[self.span]), self.span
        csr = csr_array((values, self.columns[span].copy(), self.row_offsets - span.start), shape=self.shape)
        csr.has_canonical_format = True
        return csr

    @classmethod
    def of(cls, values: Float[np.ndarray, "token column"] | csr_array, dtype: str) -> SparseRows:
        """From an array or a scipy matrix; what rounds to 0 in the dtype is left out."""
        if isinstance(values, np.ndarray):
            row, columns = np.nonzero(values)
            offsets = np.searchsorted(row, np.arange(len(values) + 1))
            data = values[row, columns]
        else:
            found: Any = values.data  # scipy sums no half-precision duplicates
            found = widened(found) if found.dtype == np.float16 else found
            csr = csr_array((found, values.indices, values.indptr), shape=values.shape, copy=True)
            csr.sum_duplicates()
            offsets, columns, data = csr.indptr, csr.indices, csr.data
        data = narrowed(data, dtype)
        kept = data != 0
        offsets = np.concatenate([[0], np.cumsum(kept)])[offsets]
        return cls(offsets.astype(np.int64), columns[kept].astype(np.int32), data[kept], int(values.shape[1]))

    @classmethod
    def concatenate(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """One below the other."""
        bases = np.cumsum([0, *(p.span.stop - p.span.start for p in parts)])
        offsets = [p.row_offsets[1:] - p.row_offsets[0] + base for p, base in zip(parts, bases, strict=False)]
        return cls(
            np.concatenate([np.zeros(1, dtype=np.int64), *offsets]),
            np.concatenate([p.columns[p.span] for p in parts]),
            np.concatenate([p.values[p.span] for p in parts]),
            parts[0].n_columns,
        )


def narrowed(values: np.ndarray, dtype: str) -> np.ndarray:
    """In the stored dtype. torch converts halves twenty times faster than numpy."""
    return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(getattr(torch, dtype)).numpy()


def widened(values: np.ndarray) -> np.ndarray:
    """In float32, a copy."""
    return torch.from_numpy(np.array(values)).float().numpy()
