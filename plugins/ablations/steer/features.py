"""Which features are pushed, and what a unit of each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from harness.contract.codec import Codec
from harness.contract.context import Made
from harness.dictionaries.stability import decoder_rows
from harness.errors import UnknownName
from harness.model.components import Component
from harness.records import Dictionary, Enrichment, LatentEffect

from . import SteerConfig

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Scalars = "Float[torch.Tensor, 'token component']"


@dataclass(frozen=True)
class Latents:
    """A dictionary over the adapter's scalars.

    Attributes:
        name: of the dictionary.
        codec: opened.
        rows: what one unit of each latent adds to the scalars.
    """

    name: str
    codec: Codec
    rows: Float[torch.Tensor, "latent component"]


@dataclass(frozen=True)
class Steered:
    """A feature that is pushed.

    Attributes:
        name: as users type it.
        kind: latent, component or group.
        chosen_by: the rule that chose it.
        direction: what one unit of it adds to the scalars; of a group, which components it has (0 or 1).
        latents: its dictionary; None for components and groups.
        latent: number of the latent.
    """

    name: str
    kind: Literal["latent", "component", "group"]
    chosen_by: str
    direction: Float[torch.Tensor, " component"]
    latents: Latents | None = None
    latent: int = 0

    def contribution(
        self, scalars: Float[torch.Tensor, "token component"], ranked: Bool[torch.Tensor, " token"]
    ) -> Float[torch.Tensor, "token component"]:
        """What it adds to the scalars. A latent's codes count on ranked tokens alone, as everywhere."""
        if self.latents is None:
            return scalars * self.direction
        codes: torch.Tensor = self.latents.codec.encode(scalars)[:, self.latent].to(scalars) * ranked
        return codes[:, None] * self.direction

    def activation(
        self, scalars: Float[torch.Tensor, "token component"], ranked: Bool[torch.Tensor, " token"]
    ) -> Float[torch.Tensor, " token"]:
        """Of each ranked token; of a group nothing."""
        if self.latents is not None:
            return self.latents.codec.encode(scalars)[ranked, self.latent].float()
        return scalars[ranked] @ self.direction if self.kind == "component" else scalars.new_zeros(0)


def latents_of(made: Made, components: Sequence[Component]) -> dict[str, Latents]:
    """The dictionaries that were fitted on the adapter's own scalars, by name."""
    names = tuple(c.name for c in components)
    found = {}
    for dictionary in made.records(Dictionary):
        if dictionary.columns == names:
            codec = made.codec(dictionary)
            rows = torch.from_numpy(decoder_rows(codec, dictionary.n_latents)).float()
            found[dictionary.name] = Latents(dictionary.name, codec, rows)
    return found


def choose(
    config: SteerConfig,
    made: Made,
    components: Sequence[Component],
    latents: dict[str, Latents],
    std: Float[torch.Tensor, " component"],
) -> list[Steered]:
    """The features that the settings name, or those that its rules choose.

    Args:
        config: settings.
        made: what earlier steps made.
        components: of the adapter.
        latents: dictionaries by name.
        std: standard deviation of each component's scalar.

    Raises:
        UnknownName: a setting names a feature that there is not.
    """
    if config.features:
        return [named(name, "named in steer.features", components, latents) for name in config.features]
    chosen: dict[str, str] = {}
    effects = [e for e in made.records(LatentEffect) if e.source in latents]
    for rank, effect in enumerate(sorted(effects, key=lambda e: -e.kl_nats.value)[: config.strongest], 1):
        chosen[f"{effect.source}/{effect.latent}"] = f"strongest {rank}: KL {effect.kl_nats.value:.3g} nats when off"
    if effects or not latents:
        readers = _readers(config, made, latents)
        chosen |= {name: "; ".join(filter(None, (chosen.get(name), rule))) for name, rule in readers.items()}
    if not effects:
        size = std * torch.tensor([c.write_norm for c in components])
        for rank, index in enumerate(size.argsort(descending=True)[: config.strongest].tolist(), 1):
            chosen[components[index].name] = f"strongest {rank}: writes {float(size[index]):.3g} (standard deviation)"
    return [named(name, rule, components, latents) for name, rule in chosen.items()]


def _readers(config: SteerConfig, made: Made, latents: dict[str, Latents]) -> dict[str, str]:
    """Latent -> which kind of token it reads best."""
    best: dict[str, tuple[float, str]] = {}
    for record in made.records(Enrichment) if config.readers and latents else []:
        for part in record.events if record.source in latents else ():
            if part.event in config.readers and part.n_event and part.activation_share is not None:
                score = part.activation_share * part.n_both / part.n_event
                if score > best.get(part.event, (0.0, ""))[0]:
                    best[part.event] = (score, f"{record.source}/{record.feature}")
    return {name: f"reads {event} best" for event, (_, name) in best.items()}


def named(name: str, rule: str, components: Sequence[Component], latents: dict[str, Latents]) -> Steered:
    """The feature of a name.

    Raises:
        UnknownName: there is none.
    """
    names = [c.name for c in components]
    if name in names:
        return Steered(name, "component", rule, torch.eye(len(names))[names.index(name)])
    source, _, latent = name.rpartition("/")
    if source in latents and latent.removeprefix("latent").isdecimal():
        index = int(latent.removeprefix("latent"))
        if index < len(latents[source].rows):
            return Steered(name, "latent", rule, latents[source].rows[index], latents[source], index)
    group = name.removeprefix("group:")
    members = torch.tensor([float(group in ("adapter", c.block)) for c in components])
    if name.startswith("group:") and members.any():
        return Steered(name, "group", rule, members)
    known = [*names, "group:adapter", *(f"group:{c.block}" for c in components), *(f"{s}/latent0" for s in latents)]
    raise UnknownName("feature to steer", name, known)


def unrelated(
    feature: Steered, others: Sequence[str], components: Sequence[Component], latents: dict[str, Latents],
    alive: Sequence[int], generator: torch.Generator,
) -> Steered | None:  # fmt: skip
    """A feature of the same kind that is not among `others`; of latents one of `alive`. None where there is none."""
    if feature.kind == "group":
        return None
    if feature.latents is not None:
        names = [f"{feature.latents.name}/latent{i}" for i in alive]
    else:
        names = [c.name for c in components]
    names = [n for n in names if n not in others]
    if not names:
        return None
    drawn = names[int(torch.randint(len(names), (1,), generator=generator))]
    return named(drawn, "drawn as a control", components, latents)
