"""The implementation of `group-search`: the KL of sets of groups, and orders over it.

`v(S)` is KL(full ‖ without S) per document and segment; a greedy order goes by the headline. Every set is measured
once, whatever orders visit it, and all the sets that one round needs share a sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import combinations
from math import factorial, hypot, sqrt
from typing import TYPE_CHECKING

import numpy as np

from harness.contract.context import RunContext
from harness.contract.stages import Ablation
from harness.errors import ModelError
from harness.records import AblationScore, Trace
from harness.records.segments import places
from harness.stats import Estimate, ratio_over_documents, t_quantile

from ..cells import Cell, block_cells, projection_cells
from ..scores import Scorer
from . import GroupSearchConfig

if TYPE_CHECKING:
    from jaxtyping import Float

    from harness.model.components import Component
    from harness.model.subject import Subject


Set = frozenset[int]


class _Values:
    """v(S), measured when first asked for.

    Attributes:
        players: the groups.
    """

    def __init__(self, scorer: Scorer, players: Sequence[Cell]) -> None:
        self._scorer, self.players = scorer, players
        self._measured: dict[Set, np.ndarray] = {frozenset(): np.zeros(scorer.texts.n_tokens.shape)}

    def measure(self, sets: Iterable[Set]) -> None:
        """Measure those that were not measured yet, in one sweep."""
        new = sorted({s for s in sets if s not in self._measured}, key=lambda s: (len(s), sorted(s)))
        if not new:
            return
        cells = {"+".join(map(str, sorted(s))): s for s in new}
        todo = [Cell(item, "group", tuple(c for i in s for c in self.players[i].off)) for item, s in cells.items()]
        for cell, sums in self._scorer.sweep(todo, "set of groups"):
            self._measured[cells[cell.item]] = sums.kl_nats

    def __getitem__(self, players: Set) -> Float[np.ndarray, "document segment"]:
        """Sum of the KL over tokens, nats."""
        self.measure([players])
        return self._measured[players]


class GroupSearch(Ablation):
    """Greedy orders and Shapley shares of groups."""

    def __init__(self, config: GroupSearchConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> Iterator[AblationScore]:
        """Yield each place of the greedy order as it is found, then every group's Shapley share.

        Raises:
            ModelError: the subject has no adapter, its logits cannot be read, or there are fewer than two groups.
        """
        with Scorer(subject, traces, self.config, run) as scorer:
            yield from self._search(scorer, subject.components, run)

    def _search(self, scorer: Scorer, components: Sequence[Component], run: RunContext) -> Iterator[AblationScore]:
        _ = scorer.run_info  # an adapter that cannot be ablated is refused here, with its own sentence
        players = (
            projection_cells(components, "group")
            if self.config.groups == "projections"
            else block_cells(components, self.config.n_blocks)
        )
        if len(players) < 2:
            raise ModelError(
                f"the adapter has {len(players)} {self.config.groups}: a search over groups needs two at least; try "
                f"--set group-search.groups={'blocks' if self.config.groups == 'projections' else 'projections'}"
            )
        values = _Values(scorer, players)
        if "greedy" in self.config.methods:
            yield from self._greedy(values, scorer, run)
        if "shapley" in self.config.methods:
            yield from self._shapley(values, scorer, run)

    def _greedy(self, values: _Values, scorer: Scorer, run: RunContext) -> Iterator[AblationScore]:
        sign = 1 if self.config.greedy == "most-first" else -1
        taken: list[int] = []
        while len(taken) < len(values.players):
            left = [i for i in range(len(values.players)) if i not in taken]
            values.measure(frozenset((*taken, i)) for i in left)
            best = max(left, key=lambda i: sign * float(values[frozenset((*taken, i))][:, places()].sum()))
            taken.append(best)
            off = tuple(c for i in taken for c in values.players[i].off)
            cell = Cell(f"greedy:{len(taken)}", "greedy", off, values.players[best].where)
            if cell.item not in run.done:
                yield scorer.score(cell, place=len(taken), **scorer.kls(values[frozenset(taken)]))

    def _shapley(self, values: _Values, scorer: Scorer, run: RunContext) -> Iterator[AblationScore]:
        shares, reason = self._shares(values, run)
        for i, player in enumerate(values.players):
            cell = Cell(f"shapley:{player.where['group']}", "shapley", player.off, player.where)
            if cell.item not in run.done:
                kls = scorer.kls(shares[:, i], partial(_interval, seed=run.seed))
                yield scorer.score(cell, reason=reason, estimate=False, **kls)

    def _shares(self, values: _Values, run: RunContext) -> tuple[Float[np.ndarray, "order player ..."], str]:
        """What each group adds in each order; one 'order' that is the exact average where all subsets are measured."""
        n = len(values.players)
        generator = np.random.default_rng(run.seed)
        pairs = [generator.permutation(n).tolist() for _ in range(self.config.orders)]
        orders = [order for first in pairs for order in (first, first[::-1])]
        visited = {frozenset(order[:k]) for order in orders for k in range(1, n + 1)}
        if len(visited) >= 2**n - 1:
            return _exact_shares(values)[None], f"exact: all {2**n - 1} sets of groups were measured"
        values.measure(visited)
        added = np.zeros((len(pairs), n, *values[frozenset()].shape))
        for i, order in enumerate(orders):
            for k, player in enumerate(order):
                added[i // 2, player] += (values[frozenset(order[: k + 1])] - values[frozenset(order[:k])]) / 2
        return added, f"averaged over {len(orders)} orders, reversed in pairs"


def _exact_shares(values: _Values) -> Float[np.ndarray, "player document segment"]:
    """Shapley's formula over all subsets."""
    n = len(values.players)
    subsets = [frozenset(s) for k in range(n + 1) for s in combinations(range(n), k)]
    values.measure(subsets)
    shares = np.zeros((n, *values[frozenset()].shape))
    for s in subsets:
        weight = factorial(len(s)) * factorial(n - len(s) - 1) / factorial(n) if len(s) < n else 0.0
        for i in set(range(n)) - s:
            shares[i] += weight * (values[s | {i}] - values[s])
    return shares


def _interval(added: Float[np.ndarray, "order document"], n_tokens: np.ndarray, seed: int) -> Estimate:
    """Mean per token: bootstrap-t over documents, with the error over (pairs of) orders added in squares."""
    over_documents = ratio_over_documents(added.mean(0), n_tokens, seed=seed)
    value, M = over_documents.value, len(added)  # orders
    if M == 1:
        return over_documents
    half = t_quantile(0.95, M - 1) * float((added.sum(1) / n_tokens.sum()).std(ddof=1)) / sqrt(M)
    low, high = hypot(value - over_documents.low, half), hypot(over_documents.high - value, half)
    return Estimate(value, value - low, value + high, over_documents.n)
