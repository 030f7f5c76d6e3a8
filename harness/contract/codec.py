"""A fitted dictionary, ready to encode: what learners open and everything else reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from scipy.sparse import csr_array


class Codec(Protocol):
    """A fitted dictionary, ready to encode."""

    def encode(self, x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token n_latents"]:
        """Codes of tokens. A token's code does not depend on its batch."""
        ...

    def encode_sparse(self, x: Float[torch.Tensor, "token d_in"]) -> csr_array:
        """The same codes, [token, n_latents] float32, holding only what is not 0."""
        ...

    def decode(self, z: Float[torch.Tensor, "token n_latents"]) -> Float[torch.Tensor, "token d_in"]:
        """Reconstruction from codes."""
        ...
