"""Which activations of a batch survive, exactly and without sorting a dense matrix.

Scores are kept [latent, token]: what is found comes out latent by latent, and every gather that follows reads a batch
of tokens that fits the cache instead of a dictionary that does not. Two ways find the same entries:

- float32: one dense product, scanned for what exceeds a cut (less a bound on its rounding).
- bfloat16 filter: the product in bfloat16 gives an upper bound of every score. With u = 2^-8 (half the spacing of
  bfloat16) and dx what rounding took from x, |x w - fl(x) fl(w)| <= |dx||w| + u |fl(x)||w|. The bound is one more
  column of the same product, so that each entry gets its own, and rounding the result is monotone: a score above the
  cut cannot be lost.

What passes is scored again in float32, each entry by a product of its own, so that both ways give the same bits and a
token's activations do not depend on its batch.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Precision = Literal["fp32", "bf16"]

_CHUNK_ENTRIES = 1 << 21
"""Entries of the dense score buffer: it stays in the cache, and batches of any size reuse it."""

_WORTH_FILTERING = 1 << 16
"""Weights from which on the filter is faster (measured at batches of 512)."""

_ACCUMULATION = 2.0**-12
"""Bound on the rounding of sums of some thousand products in float32, relative to |x||w|: both ours and the reference's
order of summation (n 2^-24 each, n up to 2048)."""


@dataclass(frozen=True)
class Entries:
    """Entries of a [token, latent] matrix, ordered by latent, then token.

    Attributes:
        tokens: row of each.
        latents: column of each, ascending.
        values: pre-activation of each.
    """

    tokens: Int[torch.Tensor, " entry"]
    latents: Int[torch.Tensor, " entry"]
    values: Float[torch.Tensor, " entry"]

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, kept: torch.Tensor) -> Entries:
        return Entries(self.tokens[kept], self.latents[kept], self.values[kept])

    def starts(self, n_latents: int) -> Int[torch.Tensor, " latent"]:
        """Where each latent's entries begin."""
        return starts_of(self.latents, n_latents)

    def by_token(self, n_tokens: int) -> tuple[torch.Tensor, Int[torch.Tensor, " token"]]:
        """The order that sorts by token, then latent; and where each token's entries begin in it."""
        return stable_order(self.tokens, n_tokens), starts_of(self.tokens, n_tokens)


def joined(parts: list[Entries], n_latents: int) -> Entries:
    """Entries of several blocks of tokens, in order."""
    if len(parts) == 1:
        return parts[0]
    whole = Entries(*(torch.cat([getattr(p, name) for p in parts]) for name in ("tokens", "latents", "values")))
    return whole[stable_order(whole.latents, n_latents)]


def best_precision(weight: Float[torch.Tensor, "latent d_in"]) -> Precision:
    """bf16 where the processor multiplies it in hardware (AVX-512 BF16 or AMX) and the dense product outweighs what the
    filter adds; elsewhere it is slower.
    """
    info = torch.cpu.get_capabilities()
    in_hardware = bool(info.get("avx512_bf16") or info.get("amx_bf16"))
    return "bf16" if in_hardware and weight.numel() >= _WORTH_FILTERING else "fp32"


class Scanner:
    """Finds the entries of `x W' + b` (times a scale per latent) that exceed a cut.

    Holds views of the parameters: call `refresh` after they have changed.
    """

    def __init__(
        self,
        weight: Float[torch.Tensor, "latent d_in"],
        bias: Float[torch.Tensor, " latent"],
        precision: Precision,
        *,
        signed: bool = False,
    ) -> None:
        self.weight, self.bias, self.precision, self.signed = weight, bias, precision, signed
        if signed and precision == "bf16":
            raise ValueError("the bfloat16 filter bounds scores from above: signed latents need fp32")
        self.scale: torch.Tensor | None = None
        self._largest = 0.0
        F, D = weight.shape
        self._columns = -(-(D + 2) // 32) * 32  # the kernel's block; a ragged last block doubles its time
        self._low = torch.zeros(F, self._columns, dtype=torch.bfloat16) if precision == "bf16" else None
        self._scores = torch.empty(0)
        self._scanned: tuple[torch.Tensor, torch.Tensor] | None = None
        self._above = np.empty(0, dtype=bool)

    @torch.no_grad()
    def refresh(self, scale: Float[torch.Tensor, " latent"] | None = None) -> None:
        """Take in changed parameters. Scores are the pre-activations times `scale` (decoder norms)."""
        self.scale, self._scanned = scale, None
        norms, bias = _norm(self.weight), self.bias
        self._largest = float(norms.max() + bias.abs().max())
        if scale is not None:
            norms, bias = norms * scale, bias * scale
        if self._low is not None:
            D = self.weight.shape[1]
            if scale is None:
                self._low[:, :D].copy_(self.weight)
            else:  # in blocks that stay in the cache
                for low, weight, factor in zip(*(t.split(512) for t in (self._low, self.weight, scale)), strict=True):
                    low[:, :D].copy_(weight * factor[:, None])
            self._low[:, D] = _up(norms)
            self._low[:, D + 1] = _up(bias + _ACCUMULATION * bias.abs())

    def scores(self, entries: Entries) -> Float[torch.Tensor, " entry"]:
        """What entries are ranked by."""
        values = entries.values.abs() if self.signed else entries.values
        return values if self.scale is None else values * self.scale[entries.latents]

    @torch.no_grad()
    def above(self, x: Float[torch.Tensor, "token d_in"], cut: float) -> Entries:
        """All entries whose score exceeds `cut` (at least 0)."""
        n_latents, self._scanned = len(self.weight), None
        size = max(_CHUNK_ENTRIES // n_latents, 32)
        size = -(-len(x) // -(-len(x) // size))  # even chunks
        parts = []
        for start in range(0, len(x), size):
            block = x[start : start + size]
            found = self._filtered(block, cut) if self._low is not None else self._dense(block, cut)
            found = found[self.scores(found) > cut]
            parts.append(Entries(found.tokens + start, found.latents, found.values))
        if len(parts) == 1 and self._low is None:
            self._scanned = x, self._buffer(n_latents * len(x), torch.float32).view(n_latents, len(x))
        return joined(parts, n_latents)

    @torch.no_grad()
    def pre_activations(
        self, x: Float[torch.Tensor, "token d_in"], latents: Int[torch.Tensor, " some"]
    ) -> Float[torch.Tensor, "some token"]:
        """Of some latents; read from the last scan's product where that was one of this very batch."""
        if self._scanned is not None and self._scanned[0] is x:
            return self._scanned[1].index_select(0, latents)
        return torch.addmm(self.bias[latents, None], self.weight.index_select(0, latents), x.T)

    def _dense(self, x: torch.Tensor, cut: float) -> Entries:
        F, B = len(self.weight), len(x)
        scores = self._buffer(F * B, torch.float32).view(F, B)
        torch.addmm(self.bias[:, None], self.weight, x.T, out=scores)
        cuts = np.full((F, 1), cut, dtype=np.float32) if self.scale is None else (cut / self.scale[:, None]).numpy()
        cuts -= _ACCUMULATION * self._largest * (1 + float(_norm(x).max()))
        above = self._mask(scores.numpy(), cuts)
        if self.signed:
            above |= scores.numpy() < -cuts
        return self._scored(x, np.flatnonzero(above))

    def _filtered(self, x: torch.Tensor, cut: float) -> Entries:
        assert self._low is not None
        F, B, D = len(self.weight), *x.shape
        low = torch.zeros(B, self._columns, dtype=torch.bfloat16)
        low[:, :D].copy_(x)
        low[:, D] = _up(_norm(x - low[:, :D]) + (2.0**-8 * (1 + 2.0**-8) + _ACCUMULATION) * _norm(x))
        low[:, D + 1] = 1
        bounds = self._buffer(F * B, torch.bfloat16).view(F, B)
        torch.mm(self._low, low.T, out=bounds)
        # Positive bfloat16 are ordered like their bits, and negative ones are negative integers.
        bits = bounds.view(torch.int16).numpy()
        least = int(torch.tensor(cut).bfloat16().view(torch.int16))
        return self._scored(x, np.flatnonzero(self._mask(bits, np.int16(least - 1))))

    def _scored(self, x: torch.Tensor, places: np.ndarray) -> Entries:
        latents, tokens = (torch.from_numpy(part) for part in np.divmod(places, len(x)))
        return Entries(tokens, latents, products(self.weight, x, tokens, latents) + self.bias[latents])

    def _mask(self, scores: np.ndarray, cut: np.ndarray | np.int16) -> np.ndarray:
        if len(self._above) < scores.size:
            self._above = np.empty(scores.size, dtype=bool)
        return np.greater(scores, cut, out=self._above[: scores.size].reshape(scores.shape))

    def _buffer(self, n: int, dtype: torch.dtype) -> torch.Tensor:
        if len(self._scores) < n:
            self._scores = torch.empty(n, dtype=dtype)
        return self._scores[:n]


class BatchTop:
    """The n highest scores of each batch. A guess from the batches before spares the sorting and changes nothing.

    All entries above the guess are found; if they are fewer than n, the guess was too high and a lower one is tried.
    """

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        self.retries = 0
        self._last: float | None = None
        self._drift, self._spread = 0.0, 0.02

    @torch.no_grad()
    def __call__(self, x: Float[torch.Tensor, "token d_in"], n: int) -> tuple[Entries, float]:
        """The n highest scores above 0 (fewer where fewer are), and the lowest of them (0 where there is none)."""
        cut = 0.0 if self._last is None else self._last * max((1 + self._drift) * (1 - 3 * self._spread), 0.0)
        if self._last is None and len(x) >= 256:
            few = self.scanner.above(x[:64], 0.0)
            cut = 0.7 * self._kept(few, max(n * 64 // len(x), 1))[1]
        found = self.scanner.above(x, cut)
        while len(found) < n and cut > 0:
            self.retries += 1
            cut = 0.8 * cut if cut > 0.05 * (self._last or 0) else 0.0
            found = self.scanner.above(x, cut)
        kept, threshold = self._kept(found, n)
        if self._last:  # early in training thresholds move by a tenth per step, but steadily
            change = min(threshold / self._last - 1, 1.0)
            self._spread = 0.8 * self._spread + 0.2 * abs(change - self._drift)
            self._drift = 0.8 * self._drift + 0.2 * change
        self._last = threshold
        return kept, threshold

    def _kept(self, found: Entries, n: int) -> tuple[Entries, float]:
        scores = self.scanner.scores(found).numpy()
        if len(found) <= n:
            return found, float(scores.min()) if len(found) else 0.0
        threshold = np.partition(scores, len(scores) - n)[len(scores) - n]
        keep = scores > threshold
        ties = np.flatnonzero(scores == threshold)
        keep[ties[: n - int(keep.sum())]] = True
        return found[torch.from_numpy(np.flatnonzero(keep))], float(threshold)


def products(
    left: Float[torch.Tensor, "latent d"],
    right: Float[torch.Tensor, "token d"],
    tokens: torch.Tensor,
    latents: torch.Tensor,
) -> Float[torch.Tensor, " entry"]:
    """left[latent] . right[token] for each entry (ordered by latent), in float32, without gathering either.

    Each entry is a sum of its own: it does not depend on which others there are.
    """
    n = len(left)
    _accept_sparse_csr()
    starts = torch.cat([starts_of(latents, n), torch.tensor([len(latents)])])
    zeros = left.new_zeros(len(latents))
    wanted = torch.sparse_csr_tensor(starts, tokens, zeros, (n, len(right)), check_invariants=False)
    return torch.sparse.sampled_addmm(wanted, left, right.T, beta=0).values()


@cache
def _accept_sparse_csr() -> None:
    """Torch warns of compressed rows once per process, from C++; what is used of them here is in the tests."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)


def stable_order(keys: Int[torch.Tensor, " entry"], n: int) -> Int[torch.Tensor, " entry"]:
    """The order that sorts keys from 0 to n - 1, equal ones as they stand."""
    # 16-bit keys take numpy's radix sort, ten times faster than a comparison sort.
    narrow = keys.numpy().astype(np.uint16) if n <= 1 << 16 else keys.numpy()
    return torch.from_numpy(np.argsort(narrow, kind="stable"))


def starts_of(keys: Int[torch.Tensor, " entry"], n: int) -> Int[torch.Tensor, " n"]:
    """Where each of the keys 0 to n - 1 begins in sorted keys."""
    counts = np.bincount(keys.numpy(), minlength=n)
    return torch.from_numpy(np.cumsum(counts) - counts)


def _norm(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(x, dim=1)


def _up(x: torch.Tensor) -> torch.Tensor:
    """Not below x once it is rounded to bfloat16."""
    return x + 2.0**-7 * x.abs()
