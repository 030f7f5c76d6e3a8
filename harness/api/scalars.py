"""An adapter's scalars on a text: s = a·x of every component at every token, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from harness.api.token_html import coloured_tokens, page
from harness.errors import ModelError, UnknownName
from harness.model.components import Component
from harness.model.taps import component_sites, tap

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class Peak(NamedTuple):
    """One scalar of many: `component` at `token` (its index, and its text)."""

    component: str
    position: int
    token: str
    value: float


@dataclass(frozen=True)
class Scalars:
    """The scalars of all components over one text.

    Attributes:
        text: as it was given.
        tokens: the text of each token, special ones included.
        names: of the components.
        values: [token, component] float32, the raw scalar a·x. What it adds to the module's output is the scalar
            times `Component.write_norm`, which differs between components.
    """

    text: str
    tokens: tuple[str, ...]
    names: tuple[str, ...]
    values: Float[np.ndarray, "token component"]

    def of(self, component: str) -> Float[np.ndarray, " token"]:
        """One component's scalar at every token.

        Raises:
            UnknownName: no such component.
        """
        if component not in self.names:
            raise UnknownName("component", component, self.names)
        return self.values[:, self.names.index(component)]

    def top(self, k: int = 10) -> list[Peak]:
        """The k scalars of largest absolute value, each component's over its root mean square on this text.

        The first token is left out: as the attention's sink it is extreme in most models, whatever the text.
        """
        import numpy as np

        values = self.values[1:]
        spread = np.sqrt((values**2).mean(axis=0)) if len(values) else np.ones(len(self.names))
        size = np.abs(values) / np.where(spread > 0, spread, 1)
        order = np.argsort(-size, axis=None, kind="stable")[:k]
        at = [np.unravel_index(i, size.shape) for i in order]
        return [Peak(self.names[c], int(t) + 1, self.tokens[t + 1], float(values[t, c])) for t, c in at]

    def html(self, component: str) -> str:
        """The text, coloured by one component."""
        return page(coloured_tokens(self.tokens, self.of(component).tolist()))

    def _repr_html_(self) -> str:
        """The text, coloured by the three components of the highest peaks."""
        names = list(dict.fromkeys(p.component for p in self.top(len(self.names))))[:3]
        blocks = [page(f"<b>{n}</b><br>{coloured_tokens(self.tokens, self.of(n).tolist())}") for n in names]
        return "".join(blocks) + f"<p>{len(self.tokens)} tokens, {len(self.names)} components</p>"

    def __repr__(self) -> str:
        """Its size: the numbers are in `values`."""
        return f"Scalars({len(self.tokens)} tokens, {len(self.names)} components)"


@torch.no_grad()
def read_scalars(model: Any, tokenizer: Any, components: Sequence[Component], text: str, device: str) -> Scalars:
    """One forward pass over a text as it stands: no chat template; the tokenizer's own special tokens are added.

    Raises:
        ModelError: there is no adapter, or no token.
    """
    if not components:
        raise ModelError("there is no adapter to read: the model is a base or a full fine-tune")
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if not ids:
        raise ModelError("the text has no token")
    with tap(model, component_sites(components)) as reading:
        model(input_ids=torch.tensor([ids], device=device), use_cache=False)
        values = reading.values()[0].cpu().numpy()
    tokens = tuple(text[a:b] or tokenizer.convert_ids_to_tokens(i) for i, (a, b) in zip(ids, offsets, strict=True))
    return Scalars(text, tokens, tuple(c.name for c in components), values)
