"""From hidden states to next-token distributions: the model's output matrix, one chunk of positions at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from harness.errors import ModelError
from harness.model.batching import find_backbone

if TYPE_CHECKING:
    from jaxtyping import Float

CHUNK_BYTES = 64 * 2**20
"""Logits of a chunk of positions, in float32."""
_WIDENED_ROWS = 16384
"""Rows of a bfloat16 output matrix that are held in float32."""


class Readout:
    """A model's output matrix.

    Attributes:
        weight: [vocab, hidden].
    """

    def __init__(self, model: Any) -> None:
        """Take the model's output matrix.

        Raises:
            ModelError: the model has none, an adapter sits on it, or it caps or scales its logits after it.
        """
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._head = base.get_output_embeddings()
        self._name = type(base).__name__
        if self._head is None:
            raise ModelError(f"{self._name} has no output matrix to read next-token distributions with")
        if hasattr(self._head, "lora_A"):
            raise ModelError(
                f"the adapter adapts the output matrix of {self._name}; what it does there is not seen in the hidden "
                "states, and ablations do not support that yet (train without lm_head in target_modules)"
            )
        self.weight: torch.Tensor = self._head.weight
        self._refuse_known_rescaling(base.config)

    def logits(self, hidden: Float[torch.Tensor, "*batch hidden"]) -> Float[torch.Tensor, "*batch vocab"]:
        """The model's own logits, in the head's dtype."""
        logits: torch.Tensor = self._head(hidden)
        return logits

    def precise_logits(self, hidden: Float[torch.Tensor, "*batch hidden"]) -> Float[torch.Tensor, "*batch vocab"]:
        """Logits in float32 at least, also of a bfloat16 head, whose own rounding would cost 2e-3 of every KL.

        The matrix is widened a slice of the vocabulary at a time.
        """
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        if self.weight.dtype == wide:
            return self.logits(hidden)
        parts = [F.linear(hidden.to(wide), rows.to(wide)) for rows in self.weight.split(_WIDENED_ROWS)]
        logits = torch.cat(parts, -1)
        bias = getattr(self._head, "bias", None)
        return logits if bias is None else logits + bias.to(wide)

    def difference(
        self, before: Float[torch.Tensor, "*batch hidden"], after: Float[torch.Tensor, "*batch hidden"]
    ) -> Float[torch.Tensor, "*batch vocab"]:
        """How the logits differ: the hidden states' difference goes through the matrix, not two large numbers.

        So a bfloat16 matrix costs at most a part in a thousand of a KL, at any size of it; a bias falls out.
        """
        wide = torch.promote_types(before.dtype, torch.float32)
        return F.linear((after.to(wide) - before.to(wide)).to(self.weight.dtype), self.weight)

    def pull(self, gradient: Float[torch.Tensor, "*batch vocab"]) -> Float[torch.Tensor, "*batch hidden"]:
        """A gradient over logits, pulled back to the hidden states."""
        return gradient.to(self.weight.dtype) @ self.weight

    def chunks(self, n_positions: int) -> Iterator[slice]:
        """Slices of positions whose logits take at most `CHUNK_BYTES`."""
        size = max(1, CHUNK_BYTES // (4 * self.weight.shape[0]))
        for start in range(0, n_positions, size):
            yield slice(start, min(start + size, n_positions))

    @torch.no_grad()
    def check(self, model: Any, inputs: dict[str, torch.Tensor]) -> None:
        """Compare with the model's own logits on short inputs.

        Raises:
            ModelError: the model does something to its logits that this class does not know of, or they are not finite.
        """
        logits = model(**inputs, use_cache=False).logits.float()
        if not logits.isfinite().all():
            raise ModelError(
                f"the logits of {self._name} are not finite: a weight is not a number, or the dtype overflows "
                "(--set model.dtype=float32 has more room)"
            )
        ours = self.logits(find_backbone(model)(**inputs, use_cache=False)[0]).float()
        if not torch.allclose(logits, ours, rtol=1e-2, atol=1e-2 * float(logits.abs().max())):
            raise ModelError(
                f"{self._name} changes its logits after the output matrix; ablations need them as they are"
            )

    def _refuse_known_rescaling(self, config: Any) -> None:
        """Named by config, because on small logits a cap hardly shows.

        Raises:
            ModelError: a cap or a scale is set.
        """
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        for key, neutral in (("final_logit_softcapping", None), ("logit_scale", 1.0), ("logits_scaling", 1.0)):
            value = getattr(text, key, neutral)
            if value is not None and value != neutral:
                raise ModelError(
                    f"{self._name} changes its logits after the output matrix ({key} = {value}); the difference form "
                    "of the KL needs logits that are linear in the hidden states, so ablations do not support it yet"
                )
