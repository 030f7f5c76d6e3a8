"""Greedy decoding for benchmarks: many short answers at once.

Transformers' `generate` goes on computing rows that have finished, and looks for stop strings by decoding every row at
every step. Here finished rows leave the batch, and a stop string that is one special token is compared by its id.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from jaxtyping import Int
    from transformers import PreTrainedTokenizerBase

_SHRINK = 0.8
"""Rows leave the batch once fewer than this share is unfinished: leaving copies the cache."""


@dataclass(frozen=True)
class Stop:
    """When a row is finished.

    Attributes:
        ids: tokens that end a row; the first one also pads finished rows.
        strings: texts that end a row.
        decode: token ids per row -> text per row.
    """

    ids: tuple[int, ...]
    strings: tuple[str, ...] = ()
    decode: Callable[[list[list[int]]], list[str]] | None = None

    @property
    def window(self) -> int:
        """Tokens that can hold a stop string: a token holds at least one byte."""
        return max((len(s.encode()) for s in self.strings), default=0) + 1

    def met(self, written: Int[torch.Tensor, "row step"]) -> torch.Tensor:
        """Whether each row ends with the last token written. bool [row]."""
        last = written[:, -1]
        done = torch.isin(last, torch.tensor(self.ids, device=last.device))
        if self.strings and self.decode is not None:
            texts = self.decode(written[:, -self.window :].tolist())
            ends_with_string = [any(s in text for s in self.strings) for text in texts]
            done = done | torch.tensor(ends_with_string, device=last.device)
        return done


def make_stop(tokenizer: PreTrainedTokenizerBase, strings: Sequence[str], extra_ids: Sequence[int] = ()) -> Stop:
    """The stop rule for these stop strings; one that is a single special token is compared by its id."""
    special = set(tokenizer.all_special_ids)
    ids = [i for i in (tokenizer.eos_token_id, *extra_ids) if i is not None]
    texts: list[str] = []
    for string in strings:
        encoded = tokenizer.encode(string, add_special_tokens=False) if string else []
        if len(encoded) == 1 and encoded[0] in special:
            ids.append(encoded[0])
        elif string:
            texts.append(string)

    def decode(rows: list[list[int]]) -> list[str]:
        return tokenizer.batch_decode(rows, skip_special_tokens=False)

    return Stop(tuple(dict.fromkeys(ids)), tuple(texts), decode)


def supports_greedy(model: Any) -> bool:
    """Whether the model's forward takes positions and a cache, which `greedy` needs."""
    parameters = inspect.signature(_base(model).forward).parameters
    return {"position_ids", "past_key_values", "attention_mask"} <= parameters.keys()


_ROOM = 64
"""Tokens a cache grows by at a time."""


class RoomyLayer(DynamicLayer):
    """A cache layer that grows by 64 tokens at a time. Transformers' own is copied at every token."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [row, head, token, head_dim]; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if not self._buffers or end > self._buffers[0].shape[-2]:
            self._buffers = [self._grown(old, new, end) for old, new in self._pairs(key_states, value_states)]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., held:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        self._buffers = [buffer[indices] for buffer in self._buffers]
        length = self.get_seq_length()
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)

    def _pairs(self, keys: torch.Tensor, values: torch.Tensor) -> list[tuple[torch.Tensor | None, torch.Tensor]]:
        return [(self.keys, keys), (self.values, values)]

    def _grown(self, old: torch.Tensor | None, new: torch.Tensor, end: int) -> torch.Tensor:
        buffer = new.new_empty((*new.shape[:-2], end + _ROOM, new.shape[-1]))
        if old is not None and old.numel():
            buffer[..., : old.shape[-2], :] = old
        return buffer


def _cache(config: Any) -> DynamicCache:
    """Transformers' cache with `RoomyLayer` in place of its plain layers (sliding windows stay)."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@torch.inference_mode()
def greedy(
    model: Any,
    ids: Int[torch.Tensor, "row context"],
    mask: Int[torch.Tensor, "row context"],
    max_new: int,
    stop: Stop,
    on_leave: Callable[[torch.Tensor], None] | None = None,
) -> Int[torch.Tensor, "row step"]:
    """The most likely continuation of left-padded contexts, token by token.

    Args:
        model: causal language model, plain or with an adapter.
        ids: contexts, padded on the left.
        mask: 1 for tokens, 0 for padding.
        max_new: most tokens to write.
        stop: when a row is finished.
        on_leave: called with the indices of the rows that stay, whenever some leave the batch.

    Returns:
        Written tokens, the finishing one included; what follows it in a row is `stop.ids[0]`.
    """
    keep = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(_base(model).forward).parameters else {}
    fill = stop.ids[0] if stop.ids else 0
    out = torch.full((ids.shape[0], max_new), fill, dtype=ids.dtype, device=ids.device)
    rows = torch.arange(ids.shape[0], device=ids.device)  # rows of `out` that the batch still holds
    alive = torch.ones_like(rows, dtype=torch.bool)
    cache = _cache(_base(model).config)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    for step in range(max_new):
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True, **keep
        ).logits[:, -1]
        ids = logits.argmax(-1, keepdim=True)
        out[rows[alive], step] = ids[alive, 0]
        alive = alive & ~stop.met(out[rows, : step + 1])
        left = int(alive.sum())
        if not left:
            return out[:, : step + 1]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = position[:, -1:] + 1
        if left < _SHRINK * len(alive):
            unfinished = alive.nonzero()[:, 0]
            cache.batch_select_indices(unfinished)
            if on_leave is not None:
                on_leave(unfinished)
            rows, ids, mask, position, alive = (t[unfinished] for t in (rows, ids, mask, position, alive))
    return out


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
