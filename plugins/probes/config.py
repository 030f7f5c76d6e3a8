"""What the configs of all probes share."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from harness import Config


class ReadingConfig(Config):
    """How activations are read and stored."""

    batch_tokens: PositiveInt = 4096
    """Tokens of a batch, padding included; lower it where memory is short."""
    dtype: Literal["float16", "float32"] = "float16"
    """Stored dtype. float16 holds magnitudes up to 65504 with 3 significant digits."""
    shard_tokens: PositiveInt = 65536
    """Tokens per shard: what an interruption can lose."""
    numerics: Literal["modules", "in-place"] = "modules"
    """How an adapter that is on is run: by PEFT's own modules, or in place: faster, rounding in another order. Recorded
    with the activations."""

    def shared_pass(self) -> tuple[object, ...]:
        """See `Config`."""
        return self.numerics, self.batch_tokens, self.shard_tokens
