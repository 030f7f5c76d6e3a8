"""The canonical gauge of a LoRA of rank above 1: r directions that depend on its product B A alone.

B A is unchanged when A becomes G A and B becomes B G^-1, for any invertible G: the rows of a trained A are one choice
of many, and their rotation, norm and sign are arbitrary. The singular value decomposition B A = U S V^T fixes G: slice
i reads a_i = sqrt(S_i) v_i and writes b_i = sqrt(S_i) u_i, the slices are orthogonal and sorted by what they add to the
weights, and the entry of a_i of largest magnitude is positive. Only equal singular values leave a choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float

_RELATIVE_ZERO = 1e-6
"""A singular value below this share of |A| |B| counts as 0: rounding weights to float32 leaves values of 1e-7."""


@dataclass(frozen=True, eq=False)
class Gauge:
    """A change of the r scalars of one module, and back.

    Attributes:
        forward: [canonical, trained] G; canonical scalars are G A x.
        backward: [trained, canonical] G^-1.
    """

    forward: Float[torch.Tensor, "rank rank"]
    backward: Float[torch.Tensor, "rank rank"]

    def canonical(self, scalars: Float[torch.Tensor, "*batch rank"]) -> Float[torch.Tensor, "*batch rank"]:
        """The module's own scalars in the canonical gauge, float32."""
        return scalars.float() @ self.forward.to(scalars.device).T

    def edited(
        self,
        scalars: Float[torch.Tensor, "*batch rank"],
        before: Float[torch.Tensor, "*batch rank"],
        after: Float[torch.Tensor, "*batch rank"],
    ) -> Float[torch.Tensor, "*batch rank"]:
        """The module's own scalars after canonical ones were changed from `before` to `after`.

        The change is added, so that what is not changed keeps its bits; where all r are 0 the result is exactly 0.
        """
        back = self.backward.to(scalars.device).T
        moved = scalars + ((after - before) @ back).to(scalars.dtype)
        off = (after == 0).all(-1, keepdim=True)
        return torch.where(off, (after @ back).to(scalars.dtype), moved)


def canonical_gauge(a: Float[torch.Tensor, "rank d_in"], b: Float[torch.Tensor, "d_out rank"]) -> Gauge:
    """The gauge of B A, computed in float64 from factors of rank r; weights of any size are not multiplied out.

    Directions that B A does not have (A or B of lower rank, B = 0) come last and write nothing.
    """
    A, B = a.detach().double().cpu(), b.detach().double().cpu()
    r_b = torch.linalg.qr(B).R
    q_a, r_a = torch.linalg.qr(A.T)
    _, s, vt = torch.linalg.svd(r_b @ r_a.T)
    q = int((s > _RELATIVE_ZERO * A.norm() * B.norm()).sum())
    rows = vt[:q] @ q_a.T
    sign = torch.sign(rows.gather(1, rows.abs().argmax(1, keepdim=True)))
    rows = sign * rows * s[:q, None].sqrt()
    # G^-1 = [A V S^-1/2, null space of B, whatever is left]: B G^-1 = [U S^1/2, 0, ...].
    backward = A @ rows.T / s[:q]
    null = torch.linalg.svd(r_b)[2][int(torch.linalg.matrix_rank(r_b, rtol=_RELATIVE_ZERO)) :].T
    backward = _completed(torch.cat([backward, null], 1))
    forward = torch.linalg.inv(backward)
    return Gauge(forward.float().to(a.device), backward.float().to(a.device))


def _completed(columns: Float[torch.Tensor, "rank some"]) -> Float[torch.Tensor, "rank rank"]:
    """A basis: the columns, then directions orthogonal to all of them."""
    rank, some = columns.shape
    if some == rank:
        return columns
    return torch.cat([columns, torch.linalg.svd(columns.T, full_matrices=True)[2][some:].T], 1)
