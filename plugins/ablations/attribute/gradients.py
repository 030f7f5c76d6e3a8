"""What every scalar of an adapter contributed to an outcome, from a few backward passes.

An adapter adds scaling * b * s at every token, s = a·x. Put a gain on the scalars of component c at token t, s -> g s:
the base model is where all gains are 0, the adapter where all are 1. With M the outcome, the fundamental theorem along
the straight path g(α) = α from one to the other says

    M(adapter) - M(base) = sum over c and t of  ∫ ∂M/∂g_ct (α) dα,      ∂M/∂g_ct = s_ct ∂M/∂s'_ct,

where s' is what the gain lets pass. Each term is the integrated gradient of that gain with baseline 0 (Sundararajan,
Taly & Yan 2017, "Axiomatic attribution for deep networks", eq. 1, with gains for pixels). The integral is a sum over
Gauss-Legendre nodes, one forward and one backward pass each. Its integrand at α = 1 alone, gradient times activation,
is attribution patching (Nanda 2023; Syed, Rager & Conmy 2023) with the base's 0 for the corrupted run. A gradient is
total: what a component does through later components is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.model.blocks import Blocks, Inputs
from harness.model.readout import Readout
from harness.model.taps import Gate, component_sites, tap

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from harness.model.components import Component

Values = Callable[["Float[torch.Tensor, 'target vocab']", slice], "Float[torch.Tensor, ' target']"]
"""(logits of some targets, which of all targets they are) -> the outcome of each."""


@dataclass(frozen=True)
class Targets:
    """What is attributed: for each row of a batch the sum, or mean, of an outcome over some of its tokens.

    Attributes:
        rows: row of each target.
        positions: the token whose hidden state predicts it: the one before.
        tokens: the token that is there.
        foils: the token that `logit-difference` compares it with.
        weights: of each target in its row's outcome: 1, or for a rate 1 / the row's number of targets.
    """

    rows: Int[torch.Tensor, " target"]
    positions: Int[torch.Tensor, " target"]
    tokens: Int[torch.Tensor, " target"]
    foils: Int[torch.Tensor, " target"]
    weights: Float[torch.Tensor, " target"]


@dataclass(frozen=True)
class Outcome:
    """A number that the next-token distribution at a token gives.

    Attributes:
        kind: `log-probability` of the token (nats), `logit-difference` of it and another (nats), or the probability of
            an `event`.
        event: bool [vocab], the tokens that are the event.
    """

    kind: str
    event: Bool[torch.Tensor, " vocab"] | None = None

    def __call__(
        self, logits: Float[torch.Tensor, "target vocab"], tokens: torch.Tensor, foils: torch.Tensor
    ) -> Float[torch.Tensor, " target"]:
        """The outcome of each target."""
        if self.kind == "event":
            assert self.event is not None
            return (torch.softmax(logits, -1) * self.event.to(logits)).sum(-1)
        at = logits.gather(-1, tokens[:, None])[:, 0]
        if self.kind == "logit-difference":
            return at - logits.gather(-1, foils[:, None])[:, 0]
        return at - torch.logsumexp(logits, -1)


@dataclass(frozen=True)
class _Gained:
    """Edit of a tap: gain * s + `added`, whose gradient is that of the scalars that pass."""

    gains: Float[torch.Tensor, " component"]
    added: Float[torch.Tensor, "row token component"]

    def __call__(self, values: torch.Tensor, columns: slice) -> torch.Tensor:
        return values * self.gains[columns].to(values) + self.added[..., columns].to(values.dtype)


@dataclass(frozen=True)
class Point:
    """The model at one gain.

    Attributes:
        outcome: [row], float64.
        scalars: s as the adapter's directions read them there, before the gain.
        gradient: of the row's outcome, by the scalars that the gain lets pass.
    """

    outcome: Float[torch.Tensor, " row"]
    scalars: Float[torch.Tensor, "row token component"]
    gradient: Float[torch.Tensor, "row token component"]


class Gradients:
    """Outcomes of an adapter at any gains, and their gradients. Logits exist for targets only, a chunk at a time."""

    def __init__(self, model: Any, components: Sequence[Component], outcome: Outcome) -> None:
        """Find the model's blocks and output matrix.

        Raises:
            ModelError: its logits cannot be read from its hidden states (see `Readout`).
        """
        self._model, self._outcome = model, outcome
        self.components = tuple(components)
        self.blocks, self.readout = Blocks(model), Readout(model)

    def at(
        self, inputs: Inputs, targets: Targets, gain: float, near: Sequence[Component] | None = None,
        only: str | None = None, start: int = 0, entering: torch.Tensor | None = None,
    ) -> Point:  # fmt: skip
        """One forward and one backward pass.

        Args:
            inputs: the text.
            targets: whose outcomes are differentiated.
            gain: of the components.
            near: the components that are read and may be changed, whole modules; all if not given.
            only: name of the one that has the gain; all of `near` if not given.
            start: the block at which the pass begins.
            entering: the hidden states that enter it.
        """
        near = self.components if near is None else near
        rows, width = inputs["input_ids"].shape
        device = inputs["input_ids"].device
        gains = torch.tensor([gain if only in (None, c.name) else 1.0 for c in near], device=device)
        added = torch.zeros(rows, width, len(near), device=device, requires_grad=True)
        edit = _Gained(gains, added)
        with _frozen(self._model), torch.enable_grad(), tap(self._model, component_sites(near), edit) as reading:
            hidden = self.blocks.run(inputs, start, entering)
        values, pulled = self._pulled(hidden[targets.rows, targets.positions].detach(), targets)
        back = torch.zeros_like(hidden).index_put_((targets.rows, targets.positions), pulled, accumulate=True)
        (gradient,) = torch.autograd.grad(hidden, added, back)
        return Point(by_row(values, targets, rows), reading.values(), gradient)

    @torch.no_grad()
    def values(
        self, inputs: Inputs, targets: Targets, gates: Sequence[float], near: Sequence[Component] | None = None,
        start: int = 0, entering: torch.Tensor | None = None,
    ) -> Float[torch.Tensor, " target"]:  # fmt: skip
        """The outcome of each target with these gates on the components `near`: one forward pass, exact."""
        hidden = self._hidden(inputs, targets, gates, near, start, entering)
        parts = [
            self._outcome(self.readout.precise_logits(hidden[c]), targets.tokens[c], targets.foils[c])
            for c in self.readout.chunks(len(hidden))
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def foils(self, inputs: Inputs, targets: Targets) -> Int[torch.Tensor, " target"]:
        """The token that the base finds most probable, other than the one that is there."""
        hidden = self._hidden(inputs, targets, [0.0] * len(self.components))
        foils = []
        for c in self.readout.chunks(len(hidden)):
            logits = self.readout.precise_logits(hidden[c])
            foils.append(logits.scatter(-1, targets.tokens[c, None], -torch.inf).argmax(-1))
        return torch.cat(foils)

    def _hidden(
        self, inputs: Inputs, targets: Targets, gates: Sequence[float], near: Sequence[Component] | None = None,
        start: int = 0, entering: torch.Tensor | None = None,
    ) -> Float[torch.Tensor, "target hidden"]:  # fmt: skip
        sites = component_sites(self.components if near is None else near)
        gate = Gate(torch.tensor(list(gates), device=inputs["input_ids"].device))
        with tap(self._model, sites, gate, read=False):
            return self.blocks.run(inputs, start, entering)[targets.rows, targets.positions]

    def _pulled(
        self, hidden: Float[torch.Tensor, "target hidden"], targets: Targets
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each target's outcome, and the gradient of its weighted outcome by its hidden state."""
        values, pulled = [], []
        for c in self.readout.chunks(len(hidden)):
            with _frozen(self._model), torch.enable_grad():
                part = hidden[c].clone().requires_grad_()
                value = self._outcome(self.readout.precise_logits(part), targets.tokens[c], targets.foils[c])
                pulled.append(torch.autograd.grad((value * targets.weights[c]).sum(), part)[0])
            values.append(value.detach())
        return torch.cat(values), torch.cat(pulled)


def nodes(n: int) -> Iterator[tuple[float, float]]:
    """Gains between 0 and 1 with their weights, which add up to 1: Gauss-Legendre quadrature with n nodes."""
    at, weights = np.polynomial.legendre.leggauss(n)
    yield from zip(((at + 1) / 2).tolist(), (weights / 2).tolist(), strict=True)


def by_row(values: torch.Tensor, targets: Targets, rows: int) -> Float[torch.Tensor, " row"]:
    """Each row's outcome, float64, from its targets'."""
    weighted = values.double() * targets.weights.double()
    return torch.zeros(rows, dtype=torch.float64, device=values.device).index_add(0, targets.rows, weighted)


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """No weight asks for a gradient inside the block: only the scalars' are wanted."""
    asked = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in asked:
            p.requires_grad_(False)
        yield
    finally:
        for p in asked:
            p.requires_grad_(True)
