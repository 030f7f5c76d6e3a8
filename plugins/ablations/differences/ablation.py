"""The implementation of `differences`: two passes per document with the adapter's model, then one with the full one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.contract.context import RunContext
from harness.contract.stages import Ablation
from harness.errors import ModelError
from harness.interpretation.events import EventFinder
from harness.model.blocks import Blocks
from harness.model.readout import Readout
from harness.model.subject import load_subject
from harness.records import (
    Checkpoint,
    Divergence,
    DocumentDivergence,
    Estimate,
    KindDivergence,
    PartingToken,
    Record,
    ResidualChange,
    Trace,
)
from harness.records.differences import Pair
from harness.stats import Undefined

from . import DifferencesConfig
from .readings import Said, Speaker, States, Text, kl_per_token, only_output_matrix_of, read_states, read_texts
from .statistics import mean_correlation, mean_over_tokens, ratio_of_means, shuffled_within, top_share
from .streams import common, explained_shares, mean_cosine, relative_norm

if TYPE_CHECKING:
    from jaxtyping import Float

    from harness.model.subject import Subject

NO_FULL = "the study has no full fine-tune (reference)"
_TOKENS_READ = 8
"""Promoted and suppressed tokens that are stored."""
_CONTEXT = 16
"""Tokens before a parting token that are stored; a third as many after it."""

PerToken = Sequence["Float[np.ndarray, ' token']"]


@dataclass
class _Measured:
    """One pair of models, a list entry per document.

    Attributes:
        kl: KL of each token of the window, nats.
        shuffled: KL of each token of the response where the second distribution is another token's.
        change: what leaves each block, the first model's minus the second's.
        wrong: the same where the first one's is of another drawn token of the document.
    """

    kl: list[np.ndarray] = field(default_factory=list)
    shuffled: list[np.ndarray] = field(default_factory=list)
    change: list[torch.Tensor] = field(default_factory=list)
    wrong: list[torch.Tensor] = field(default_factory=list)


class Differences(Ablation):
    """Where adapter, full fine-tune and base part."""

    def __init__(self, config: DifferencesConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> Iterator[Record]:
        """Yield how the models differ: over all tokens, by token, by kind, by layer. An interrupted step reads again.

        Raises:
            ModelError: the subject has no adapter, its logits cannot be read, or its blocks are not found.
        """
        if not subject.components:
            raise ModelError("there is no adapter to compare with its base: the checkpoint is a full model")
        study = _Comparison(self.config, subject, read_texts(subject, traces, self.config, run.generator()), run)
        study.read_adapter()
        full = next((c for c in run.made.records(Checkpoint) if c.kind == "full"), None)
        if full is not None:
            study.read_full(full)
        finder = EventFinder(self.config.events, traces, subject.chat)
        for record in (
            *study.divergences(),
            *study.documents(),
            *study.tokens(),
            *study.kinds(finder),
            *study.layers(),
        ):
            if record.item not in run.done:  # type: ignore[attr-defined]
                yield record


class _Comparison:
    """The pairs of a study on the same texts."""

    def __init__(self, config: DifferencesConfig, subject: Subject, texts: Sequence[Text], run: RunContext) -> None:
        self.config, self.subject, self.texts, self.run = config, subject, texts, run
        run.progress.start(len(texts), "documents")
        self.speaker, self.blocks = Speaker(Readout(subject.model), subject), Blocks(subject.model)
        ids = torch.tensor([texts[0].document.ids[:8]], device=subject.device)
        self.speaker.readout.check(subject.model, {"input_ids": ids})
        self.base: list[States] = []
        self.adapter: list[States] = []
        self.pairs: dict[Pair, _Measured] = {}
        self.full_said: dict[tuple[int, int], Said] = {}
        generator = np.random.default_rng(run.seed)
        self._orders = [shuffled_within(t.segments, generator) for t in texts]
        self._drawn_orders = [generator.permutation(len(t.drawn)) for t in texts]

    # reading

    def read_adapter(self) -> None:
        """Base and adapter on every text."""
        pair, head = _Measured(), self.speaker.readout
        for i, text in enumerate(self.texts):
            base, adapter = (read_states(self.subject, self.blocks, text, adapter=on) for on in (False, True))
            self.base.append(base)
            self.adapter.append(adapter)
            self._add(pair, i, (head, adapter), (head, base))
            self.run.progress.advance()
        self.pairs["adapter-base"] = pair

    def read_full(self, checkpoint: Checkpoint) -> None:
        """The full fine-tune on every text, with the adapter's model out of the way."""
        device, head = self.subject.device, self.speaker.readout
        pairs: dict[Pair, _Measured] = {"full-base": _Measured(), "full-adapter": _Measured()}
        self.run.progress.start(len(self.texts), "documents by the full fine-tune")
        with only_output_matrix_of(self.subject):
            model = load_subject(self.subject.base, self.subject.chat, checkpoint, device=device)
            speaker, blocks = Speaker(Readout(model.model), model), Blocks(model.model)
            for i, text in enumerate(self.texts):
                full = read_states(model, blocks, text)
                self._add(pairs["full-base"], i, (speaker.readout, full), (head, self.base[i]))
                self._add(pairs["full-adapter"], i, (speaker.readout, full), (head, self.adapter[i]))
                for place in (p for d, p in self.parting if d == i):
                    self.full_said[i, place] = speaker.said(full.last[place])
                self.run.progress.advance()
        self.pairs |= pairs

    def _add(self, pair: _Measured, i: int, first: tuple[Readout, States], second: tuple[Readout, States]) -> None:
        text, order = self.texts[i], self._orders[i]
        (p_head, p), (q_head, q) = first, second
        pair.kl.append(kl_per_token(p_head, p.last, q_head, q.last))
        response = text.response
        pair.shuffled.append(kl_per_token(p_head, p.last[response], q_head, q.last[order][response]))
        pair.change.append(p.streams - q.streams)
        n_first = len(text.first)
        drawn = p.streams[:, n_first:][:, self._drawn_orders[i]]
        pair.wrong.append(drawn - q.streams[:, n_first:])

    def _response(self, pair: Pair) -> PerToken:
        return [kl[t.response] for kl, t in zip(self.pairs[pair].kl, self.texts, strict=True)]

    # what is stored

    def divergences(self) -> Iterator[Divergence]:
        """All tokens of each pair."""
        seed, adapter = self.run.seed, self._response("adapter-base")
        generator = np.random.default_rng(seed)
        for name in ("adapter-base", "full-base", "full-adapter"):
            if name not in self.pairs:
                yield Divergence(item=name, pair=name, reason=NO_FULL)
                continue
            kl = self._response(name)
            correlations: list[Estimate | Undefined] = [Undefined("adapter-base is what others are correlated with")]
            if name != "adapter-base":
                mixed = [a[generator.permutation(len(a))] for a in adapter]
                correlations = [mean_correlation(x, kl, seed) for x in (adapter, mixed)]
            reasons: list[str] = []
            yield Divergence(
                item=name,
                pair=name,
                kl_nats=mean_over_tokens(kl, seed),
                kl_shuffled_nats=mean_over_tokens(self.pairs[name].shuffled, seed),
                top_share=_defined(top_share(kl, seed), reasons),
                top_share_shuffled=_defined(top_share(self.pairs[name].shuffled, seed), reasons),
                correlation=_defined(correlations[0], reasons),
                correlation_shuffled=_defined(correlations[-1], reasons),
                n_tokens=sum(map(len, kl)),
                n_documents=len(kl),
                reason="; ".join(dict.fromkeys(reasons)) or None,
            )

    def documents(self) -> Iterator[DocumentDivergence]:
        """Every token's KL."""
        full = self.pairs.get("full-base")
        for i, text in enumerate(self.texts):
            yield DocumentDivergence(
                item=text.document.id,
                chat_hash=self.subject.chat_hash,
                first=text.window.start,
                kl_nats=tuple(self.pairs["adapter-base"].kl[i].tolist()),
                kl_full_nats=tuple(full.kl[i].tolist()) if full else None,
                reason=None if full else NO_FULL,
            )

    @cached_property
    def parting(self) -> list[tuple[int, int]]:
        """(document, place in its window) of the response's largest KLs, the largest first."""
        kl = self.pairs["adapter-base"].kl
        places = [(float(kl[d][p]), d, int(p)) for d, t in enumerate(self.texts) for p in np.flatnonzero(t.response)]
        taken: list[tuple[int, int]] = []
        for _, d, p in sorted(places, key=lambda x: (-x[0], *x[1:])):
            if len(taken) < self.config.parting_tokens and sum(e == d for e, _ in taken) < self.config.per_document:
                taken.append((d, p))
        return taken

    def tokens(self) -> Iterator[PartingToken]:
        """Where adapter and base part most, with what each would have said."""
        full = self.pairs.get("full-base")
        for rank, (d, place) in enumerate(self.parting):
            text, full_said = self.texts[d], self.full_said.get((d, place))
            at = text.window.start + place
            base, adapter = (self.speaker.said(states[d].last[place]) for states in (self.base, self.adapter))
            yield PartingToken(
                item=f"{rank:04}",
                document=text.document.id,
                position=at,
                before=text.tokens(at + 1 - _CONTEXT, at + 1),
                after=text.tokens(at + 1, at + 1 + _CONTEXT // 3),
                kl_nats=float(self.pairs["adapter-base"].kl[d][place]),
                kl_full_nats=float(full.kl[d][place]) if full else None,
                base_tokens=base.tokens,
                base_probabilities=base.probabilities,
                adapter_tokens=adapter.tokens,
                adapter_probabilities=adapter.probabilities,
                full_tokens=full_said.tokens if full_said else None,
                full_probabilities=full_said.probabilities if full_said else None,
                reason=None if full else NO_FULL,
            )

    def kinds(self, finder: EventFinder) -> Iterator[KindDivergence]:
        """What each kind of token carries: classes and events over the response, segments over all that is measured."""
        masks = [finder.masks(t.stored)[t.window.start : t.window.stop] for t in self.texts]
        for pair in (p for p in ("adapter-base", "full-base") if p in self.pairs):
            for column, event in enumerate(finder.events):
                everywhere = event.family == "segment"
                counted = [t.response | everywhere for t in self.texts]
                kl = [k[c] for k, c in zip(self.pairs[pair].kl, counted, strict=True)]
                inside = [m[c, column] for m, c in zip(masks, counted, strict=True)]
                total, carried = np.concatenate(kl).sum(), sum(k[m].sum() for k, m in zip(kl, inside, strict=True))
                tested = ratio_of_means(kl, inside)
                ratio, p_value = (None, None) if isinstance(tested, Undefined) else tested
                yield KindDivergence(
                    item=f"{pair}/{event.family}:{event.name}",
                    pair=pair,
                    family=event.family,
                    kind=event.name,
                    n_kind=int(sum(m.sum() for m in inside)),
                    n_tokens=sum(map(len, kl)),
                    kl_share=float(carried / total) if total else None,
                    ratio=ratio,
                    p_value=p_value,
                    reason=tested.reason if isinstance(tested, Undefined) else None,
                )

    def layers(self) -> Iterator[ResidualChange]:
        """The change of every layer's output."""
        states = {"adapter-base": self.base, "full-base": self.base}
        for pair in (p for p in ("adapter-base", "full-base") if p in self.pairs):
            for layer in range(self.blocks.n):
                yield self._layer(pair, layer, [s.streams[layer] for s in states[pair]])

    def _layer(self, pair: Pair, layer: int, second: Sequence[torch.Tensor]) -> ResidualChange:
        seed = self.run.seed
        first, drawn = (self._gathered([c[layer] for c in self.pairs[pair].change], which) for which in (True, False))
        stream, of = self._gathered(second, first=False)
        wrong = torch.cat([w[layer] for w in self.pairs[pair].wrong])
        shared, shared_first = common(drawn[0], of), common(*first)
        reasons = [] if shared else ["nothing changes in this layer"]
        fields: dict[str, Any] = {}
        if pair != "adapter-base" and shared:
            adapter, _ = self._gathered([c[layer] for c in self.pairs["adapter-base"].change], first=False)
            by_document = adapter.split([len(t.drawn) for t in self.texts])
            mixed = torch.cat([a[order] for a, order in zip(by_document, self._drawn_orders, strict=True)])
            fields["cosine"] = mean_cosine(drawn[0], adapter, of, seed)
            fields["cosine_shuffled"] = mean_cosine(drawn[0], mixed, of, seed)
        if shared_first:
            fields |= {"first_common_share": shared_first.share, "first_common_share_swapped": shared_first.swapped}
            fields["promoted"], fields["suppressed"] = self._read_as_tokens(first[0].mean(0))
        else:
            reasons.append("nothing changes on the first tokens, or there are none")
        return ResidualChange(
            item=f"{pair}/layer:{layer}",
            pair=pair,
            layer=layer,
            relative_norm=relative_norm(drawn[0], stream, of, seed),
            relative_norm_shuffled=relative_norm(wrong, stream, of, seed),
            shares=explained_shares(drawn[0], self.config.directions),
            shares_shuffled=explained_shares(wrong, self.config.directions),
            common_share=shared.share if shared else 0.0,
            common_share_swapped=shared.swapped if shared else 0.0,
            n_tokens=len(stream),
            n_first=len(first[0]),
            n_documents=len(self.texts),
            reason="; ".join(reasons) or None,
            **fields,
        )

    def _gathered(self, parts: Sequence[torch.Tensor], first: bool) -> tuple[torch.Tensor, np.ndarray]:
        """A layer's rows at the texts' first tokens, or at the drawn ones, and the document of each."""
        cut = [p[: len(t.first)] if first else p[len(t.first) :] for p, t in zip(parts, self.texts, strict=True)]
        return torch.cat(cut), np.repeat(np.arange(len(cut)), [len(c) for c in cut])

    @torch.no_grad()
    def _read_as_tokens(self, change: Float[torch.Tensor, " hidden"]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Most promoted and suppressed tokens, by the final norm and the output matrix of the base."""
        readout, tokenizer = self.speaker.readout, self.subject.tokenizer
        normed = self.blocks.normed(change[None].to(readout.weight.device, readout.weight.dtype))
        logits = readout.precise_logits(normed)[0]
        most, least = (
            tuple(str(tokenizer.decode([i])) for i in (sign * logits).topk(_TOKENS_READ).indices.tolist())
            for sign in (1, -1)
        )
        return most, least


def _defined(number: Estimate | Undefined, reasons: list[str]) -> Estimate | None:
    if isinstance(number, Undefined):
        reasons.append(number.reason)
        return None
    return number
