"""A decoder's blocks, run from one of them on: what does not change before block l need not be computed again.

The backbone's own `forward` runs: unwanted blocks pass their input through, and the hidden state that enters the first
wanted block is put in its place. So masks, positions, embeddings and the final norm are the architecture's own, and the
numbers are those of a whole forward pass bit for bit. Where blocks hand each other more than the hidden state (keys and
values shared across layers, routing), that does not hold; `prefix_reuse_error` finds out by trying.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.errors import ModelError
from harness.model.batching import find_backbone

if TYPE_CHECKING:
    from jaxtyping import Float

Inputs = dict[str, torch.Tensor]
"""`input_ids` and `attention_mask`, [batch, token]."""


class Blocks:
    """The blocks of a model's decoder.

    Attributes:
        backbone: the decoder without its head.
        n: how many blocks there are; 0 where they cannot be told apart, and then only whole passes run.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find the decoder's list of blocks: the one as long as its config says."""
        self.backbone = find_backbone(model)
        config = self.backbone.config
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        depth = getattr(config, "num_hidden_layers", None)
        lists = [m for m in self.backbone.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
        self._blocks: list[nn.Module] = list(lists[0]) if lists else []
        self.n = len(self._blocks)
        self._in_tuples = False

    def run(
        self,
        inputs: Inputs,
        start: int = 0,
        entering: Float[torch.Tensor, "batch token hidden"] | None = None,
    ) -> Float[torch.Tensor, "batch token hidden"]:
        """The last hidden states (after the final norm).

        Args:
            inputs: token ids and mask; they also give positions and attention mask when blocks are left out.
            start: first block that runs.
            entering: hidden states entering block `start`; None computes them (start must be 0).
        """
        if entering is None and start == 0:
            return self._forward(inputs)
        with self._only(range(start, self.n)), self._put_in(start, entering):
            return self._forward(inputs)

    def entering(self, inputs: Inputs) -> Float[torch.Tensor, "batch token hidden"]:
        """The hidden states that enter block 0."""
        kept: list[torch.Tensor] = []

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append(_hidden(args, kwargs))

        handle = self._blocks[0].register_forward_pre_hook(keep, with_kwargs=True)
        try:
            with self._only(range(0)):
                self._forward(inputs)
        finally:
            handle.remove()
        return kept[0]

    def step(
        self, inputs: Inputs, block: int, entering: Float[torch.Tensor, "batch token hidden"]
    ) -> Float[torch.Tensor, "batch token hidden"]:
        """The hidden states that leave a block, which runs alone."""
        kept: list[torch.Tensor] = []

        def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)

        with self._only(range(block, block + 1)), self._put_in(block, entering):
            handle = self._blocks[block].register_forward_hook(keep)
            try:
                self._forward(inputs)
            finally:
                handle.remove()
        return kept[0]

    def streams(
        self, inputs: Inputs, positions: Sequence[int]
    ) -> tuple[Float[torch.Tensor, "token hidden"], Float[torch.Tensor, "block position hidden"]]:
        """The last hidden states of one document, and what leaves every block at some positions: float32, on the CPU.

        Raises:
            ModelError: the model's list of blocks was not found.
        """
        if not self.n:
            raise ModelError("the model's list of decoder blocks was not found")
        kept: list[torch.Tensor] = []

        def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            self._in_tuples = isinstance(output, tuple)
            kept.append((output[0] if self._in_tuples else output)[0, list(positions)].float().cpu())

        handles = [block.register_forward_hook(keep) for block in self._blocks]
        try:
            last = self._forward(inputs)
        finally:
            for handle in handles:
                handle.remove()
        return last[0], torch.stack(kept)

    def normed(self, leaving: Float[torch.Tensor, "row hidden"]) -> Float[torch.Tensor, "row hidden"]:
        """The backbone's final norm of vectors as they leave the last block. A pass has run before."""
        ids = torch.zeros(1, len(leaving), dtype=torch.long, device=leaving.device)
        with self._only(range(0)), self._put_in(self.n - 1, leaving[None]):
            return self._forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0]

    @torch.no_grad()
    def prefix_reuse_error(self, inputs: Inputs) -> str | None:
        """Why passes cannot begin at a later block; None: they can, up to nine starts gave the same bits."""
        if not self.n:
            return "its list of blocks was not found"
        whole = self._first_pass(inputs)
        try:
            hidden = self.entering(inputs)
            # All starts of a shallow model; of a deep one nine, spread from the first to the last.
            starts = {round(i * (self.n - 1) / 8) for i in range(9)}
            for block in range(self.n):
                if block in starts and not torch.equal(self.run(inputs, block, hidden), whole):
                    return f"a pass that begins at block {block} gives other numbers"
                hidden = self.step(inputs, block, hidden)
        except Exception as error:  # noqa: BLE001  whatever an architecture raises here, whole passes still work
            return f"a pass that leaves blocks out fails ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
        return None

    def _first_pass(self, inputs: Inputs) -> torch.Tensor:
        """A whole pass, noting in which form blocks return their hidden states."""

        def note(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            self._in_tuples = isinstance(output, tuple)

        handle = self._blocks[0].register_forward_hook(note)
        try:
            return self._forward(inputs)
        finally:
            handle.remove()

    def _forward(self, inputs: Inputs) -> torch.Tensor:
        # use_cache=False: a cache that outlives the pass makes key and value ablations read exactly 0.
        output: torch.Tensor = self.backbone(**inputs, use_cache=False)[0]
        return output

    @contextmanager
    def _only(self, wanted: range) -> Iterator[None]:
        """The other blocks return what they are given."""

        def through(*args: Any, **kwargs: Any) -> Any:
            hidden = _hidden(args, kwargs)
            return (hidden,) if self._in_tuples else hidden

        others = [b for i, b in enumerate(self._blocks) if i not in wanted]
        before = [b.__dict__.get("forward") for b in others]
        try:
            for block in others:
                block.__dict__["forward"] = through  # as an attribute it costs 20 microseconds
            yield
        finally:
            for block, own in zip(others, before, strict=True):
                if own is None:
                    block.__dict__.pop("forward", None)
                else:
                    block.__dict__["forward"] = own

    @contextmanager
    def _put_in(self, block: int, hidden: torch.Tensor | None) -> Iterator[None]:
        """What enters a block is replaced."""
        if hidden is None:
            raise ModelError(f"a pass that begins at block {block} needs the hidden states that enter it")

        def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        handle = self._blocks[block].register_forward_pre_hook(replace, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden
