"""The implementation of `write-directions`: one record per polarity of each component and latent.

A latent writes what its decoder puts into the components, each through its b: sum over c of W_dec[c] scaling_c b_c. The
adapter is linear in its scalars, so what is said of components holds for latents by the same sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness.contract.context import RunContext
from harness.contract.stages import Ablation
from harness.errors import ModelError
from harness.model.components import Component, directions
from harness.model.lens import Lens, Tokens, cosine_p_value, decoded, input_gain, through_output, unread_reason
from harness.records import ActivationSet, Dictionary, Trace, WriteDirection

from ..config import KLConfig
from ..documents import read_texts
from . import WriteDirectionsConfig
from .effect import effects, frequent_tokens, half_widths, mean_gradients, null_effects

if TYPE_CHECKING:
    from jaxtyping import Float

    from harness.contract.codec import Codec
    from harness.model.subject import Subject

ADAPTER = "adapter-activations"
"""Source of the components' own features."""
READERS = 3
"""Later components stored with each feature."""


@dataclass(frozen=True)
class Channel:
    """A component or a latent.

    Attributes:
        source: its activation set.
        name: its column.
        signed: whether each sign is a feature of its own.
        dose: of each component when the activation is 1: [component].
        component: where it is one.
    """

    source: str
    name: str
    signed: bool
    dose: Float[torch.Tensor, " component"]
    component: Component | None = None


class Writes:
    """What the components of an adapter write.

    Attributes:
        components: all of them.
        written: scaling * b of each, in its module's output.
        norms: of these.
        stream: [component, hidden] what each adds to the residual stream; 0 where that is not linear.
        reasons: why a component has no direct lens; None where it has.
        through: the matrix that b was taken through.
    """

    def __init__(self, subject: Subject) -> None:
        """Read them off the model.

        Raises:
            ModelError: the subject has no adapter.
        """
        if not subject.components:
            raise ModelError("there is no adapter whose directions could be read")
        model = subject.model
        self.components = subject.components
        vectors = [directions(model, c) for c in self.components]
        self.written = [(c.scaling * v.b).cpu() for c, v in zip(self.components, vectors, strict=True)]
        self.norms = torch.tensor([float(w.norm()) for w in self.written])
        hidden = model.get_base_model().config.get_text_config().hidden_size
        self.stream = torch.zeros(len(self.components), hidden)
        self.reasons: list[str | None] = []
        self.through: list[str | None] = []
        for i, c in enumerate(self.components):
            reason, through = unread_reason(c, model), None
            if reason is None:
                self.stream[i] = self.written[i]
            elif (passed := through_output(c, model, self.written[i])) is not None:
                through, self.stream[i] = passed
                reason = None
            self.reasons.append(reason)
            self.through.append(through)
        self._reads = torch.zeros(len(self.components), hidden)
        for i, (c, v) in enumerate(zip(self.components, vectors, strict=True)):
            if len(v.a) == hidden and (gain := input_gain(c, model)) is not None:
                self._reads[i] = torch.nn.functional.normalize(v.a.cpu() * gain.cpu(), dim=0)

    def readers(self, dose: Float[torch.Tensor, " component"]) -> list[tuple[str, float, float]]:
        """Later components by |cosine| of their a with what a dose adds to the stream: name, cosine, p-value.

        They are later than the last component that writes; the p-value is times their number.
        """
        writers = [i for i in range(len(dose)) if dose[i] != 0 and self.stream[i].any()]
        if not writers:
            return []
        last = max(_place(self.components[i]) for i in writers)
        later = [i for i, c in enumerate(self.components) if self._reads[i].any() and _place(c) > last]
        direction = torch.nn.functional.normalize(dose @ self.stream, dim=0)
        cosines = (self._reads[later] @ direction).tolist()
        order = sorted(range(len(later)), key=lambda k: -abs(cosines[k]))[:READERS]
        d = self.stream.shape[1]
        return [
            (self.components[later[k]].name, cosines[k], min(1.0, len(later) * cosine_p_value(cosines[k], d)))
            for k in order
        ]


def _place(component: Component) -> tuple[int, int]:
    """Order of blocks along the residual stream."""
    layer = -1 if component.layer is None else component.layer
    return layer, {"attention": 0, "mlp": 1}.get(component.block, 1)


class WriteDirections(Ablation):
    """Reads every component and every latent of the run's dictionaries over the adapter's components."""

    def __init__(self, config: WriteDirectionsConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> Iterator[WriteDirection]:
        """Yield a record per feature.

        Raises:
            ModelError: the subject has no adapter, or its logits cannot be read.
            DataError: there are no traces.
        """
        writes = Writes(subject)
        channels = [*self._components(writes), *self._latents(writes, run)]
        if all(f"{c.source}:{f}" in run.done for c in channels for f in _features(c)):
            return
        config = KLConfig(
            n_documents=self.config.n_documents, max_tokens=self.config.max_tokens, batch_size=self.config.n_documents
        )
        texts = read_texts(subject, traces, config, run.generator())
        modules = [c.module for c in writes.components]
        tokens = frequent_tokens(texts, self.config.effect_tokens)
        gradients = mean_gradients(subject, modules, writes.written, texts, tokens, run.progress)
        n_null = self.config.n_null
        of_each = effects(gradients, modules, writes.written)
        null = null_effects(gradients, modules, writes.norms.tolist(), n_null, run.generator())
        dose = torch.stack([c.dose for c in channels])
        stream = dose @ writes.stream
        readable = [i for i in range(len(channels)) if stream[i].any()]
        lens = Lens.of_model(subject.model)
        read = lens.tokens(stream[readable].to(subject.device), n_null=n_null, seed=run.seed, top=self.config.top)
        tokens_of = dict(zip(readable, read, strict=True))
        words = decoded(subject.tokenizer, tokens)
        for i, channel in enumerate(channels):
            measured = dose[i] @ of_each
            half = half_widths(torch.einsum("c,dcv->dv", dose[i], gradients.by_document), gradients.document_tokens)
            largest = torch.einsum("c,cnv->nv", dose[i], null).abs().amax(1)
            p = (1 + int((largest >= measured.abs().max()).sum())) / (n_null + 1)
            order, drawn = (
                effect.argsort(descending=True, stable=True).tolist()
                for effect in (measured, torch.einsum("c,cv->v", dose[i], null[:, i % n_null]))
            )
            shared = {
                "effect_p": p, "n_tokens": gradients.n_tokens, "n_documents": len(texts.ids), "n_null": n_null,
                **self._of_channel(channel, writes),
            }  # fmt: skip
            for feature in _features(channel):
                if f"{channel.source}:{feature}" not in run.done:
                    sign = -1 if feature.endswith("-") and channel.signed else 1
                    ranked = order[::sign]
                    yield WriteDirection(
                        item=f"{channel.source}:{feature}", source=channel.source, feature=feature,
                        effect_tokens=tuple(words[k] for k in ranked),
                        effects_nats=tuple(sign * float(measured[k]) for k in ranked),
                        effects_half_width_nats=() if half is None else tuple(float(half[k]) for k in ranked),
                        null_tokens=tuple(words[k] for k in drawn[::sign]),
                        **_of_sign(shared, sign), **_lens_fields(subject.tokenizer, tokens_of.get(i), sign),
                    )  # fmt: skip

    def _components(self, writes: Writes) -> Iterator[Channel]:
        for i, c in enumerate(writes.components):
            dose = torch.zeros(len(writes.components))
            dose[i] = 1
            yield Channel(ADAPTER, c.name, True, dose, c)

    def _latents(self, writes: Writes, run: RunContext) -> Iterator[Channel]:
        """Those of dictionaries whose columns are components of the adapter."""
        index = {c.name: i for i, c in enumerate(writes.components)}
        latent_sets = {a.source: a for a in run.made.records(ActivationSet)}
        for dictionary in run.made.records(Dictionary):
            if not set(dictionary.columns) <= index.keys():
                continue
            places = [index[column] for column in dictionary.columns]
            decoder = decoder_rows(run.made.codec(dictionary), dictionary.n_latents)
            columns = latent_sets[dictionary.name].columns if dictionary.name in latent_sets else None
            for latent in range(dictionary.n_latents):
                dose = torch.zeros(len(index))
                dose[places] = decoder[latent]
                name = columns[latent] if columns else f"latent{latent}"
                yield Channel(dictionary.name, name, dictionary.signed, dose)

    def _of_channel(self, channel: Channel, writes: Writes) -> dict[str, Any]:
        """What is the same for both signs."""
        squared = (channel.dose * writes.norms) ** 2
        total = float(squared.sum())
        seen = float(squared[[i for i, reason in enumerate(writes.reasons) if reason is None]].sum())
        c = channel.component
        fields: dict[str, Any] = {
            "layer": None, "projection": None, "write_norm": total**0.5, "readers": writes.readers(channel.dose),
            "lens_share": seen / total if total else None,
            "reason": None if seen else "no component that it writes with adds to the residual stream directly",
        }  # fmt: skip
        if total == 0:
            fields["reason"] = "it writes nothing"
        elif c is not None:
            i = writes.components.index(c)
            alike = [k for k in writes.components if k.module == c.module]
            of_module = sum((k.write_norm * k.a_norm) ** 2 for k in alike)
            fields |= {
                "layer": c.layer, "projection": c.projection, "reason": writes.reasons[i],
                "through": writes.through[i], "share_of_module": (c.write_norm * c.a_norm) ** 2 / of_module,
            }  # fmt: skip
        return fields


def decoder_rows(codec: Codec, n_latents: int) -> Float[torch.Tensor, "latent component"]:
    """What each latent adds to the scalars per unit of its code: a linear decoder's rows."""
    zero = codec.decode(torch.zeros(1, n_latents))
    return (codec.decode(torch.eye(n_latents)) - zero).float().cpu().detach()


def _features(channel: Channel) -> tuple[str, ...]:
    return (f"{channel.name}+", f"{channel.name}-") if channel.signed else (channel.name,)


def _of_sign(fields: dict[str, Any], sign: int) -> dict[str, Any]:
    readers = fields["readers"]
    return {k: v for k, v in fields.items() if k != "readers"} | {
        "read_by": tuple(name for name, _, _ in readers),
        "read_cosines": tuple(sign * cosine for _, cosine, _ in readers),
        "read_p": readers[0][2] if readers else None,
    }


def _lens_fields(tokenizer: Any, tokens: Tokens | None, sign: int) -> dict[str, Any]:
    """The lens's tokens of a polarity: a negative activation promotes what a positive one suppresses."""
    if tokens is None:
        return {}
    up = decoded(tokenizer, tokens.promoted), tokens.raised, tokens.p_promoted
    down = decoded(tokenizer, tokens.suppressed), tokens.lowered, tokens.p_suppressed
    if sign < 0:
        up, down = down, up
    return {
        "promoted": up[0], "promoted_logits": tuple(sign * x for x in up[1]), "p_promoted": up[2],
        "suppressed": down[0], "suppressed_logits": tuple(sign * x for x in down[1]), "p_suppressed": down[2],
    }  # fmt: skip
