"""Put documents into padded batches, and find the part of a model that reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from harness.model.chat import Document

if TYPE_CHECKING:
    from jaxtyping import Bool
    from transformers import PreTrainedTokenizerBase


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Group indices into batches of similar length, longest first, of at most `batch_tokens` tokens with padding.

    A longer document is a batch by itself.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def padded(documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, device: str) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` [batch, token], padded on the right."""
    width = max(len(d.ids) for d in documents)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids = torch.full((len(documents), width), int(pad), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, document in enumerate(documents):
        ids[row, : len(document.ids)] = torch.tensor(document.ids)
        mask[row, : len(document.ids)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def ranked_mask(documents: Sequence[Document], width: int) -> Bool[torch.Tensor, "batch token"]:
    """The documents' ranked tokens, False where a batch of this width is padded."""
    return torch.tensor([d.ranked + (False,) * (width - len(d.ids)) for d in documents])


def find_backbone(model: Any) -> Any:
    """The decoder without its language-model head; the model itself where it has no such part.

    transformers names it in `base_model_prefix`, for every architecture. A PEFT wrapper is removed first.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    prefix = getattr(inner, "base_model_prefix", "")
    return getattr(inner, prefix, inner) if prefix else inner


def context_length(model: Any) -> int | None:
    """Longest sequence that the model reads, in tokens; None if the config does not say."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    length = getattr(config, "max_position_embeddings", None)
    return int(length) if length else None


def adapter_switch(model: Any, *, on: bool) -> AbstractContextManager[Any]:
    """Switch the adapter off inside the block if `on` is false; models without an adapter are left as they are."""
    if on or not hasattr(model, "disable_adapter"):
        return nullcontext()
    switch: AbstractContextManager[Any] = model.disable_adapter()
    return switch
