"""Components of the adapter: what switching each one off does, how large it is, and which latents write to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from harness.errors import DataError
from harness.files import reading
from harness.model.components import layer_of
from harness.model.gauge import canonical_gauge
from harness.records.flat import flat_values
from harness.render.dashboard.numbers import short
from harness.render.dashboard.stored import CatalogueRow, DictionaryFolder, StoredFolder
from harness.reports.components import ComponentRow

TOP_LATENTS = 12
"""Latents listed per component and dictionary."""


@dataclass(frozen=True)
class Norms:
    """Sizes of one component: of its row of A, of its column of B, and PEFT's scaling; a * b * scaling is what it adds
    to the weights."""

    a_norm: float
    b_norm: float
    scaling: float


def adapter_norms(folder: StoredFolder | None, artifacts: Path) -> tuple[dict[str, Norms], str | None]:
    """Component -> its norms, read from the adapter's file; and why there are none.

    Only the tensors are read: no model is loaded.
    """
    path = folder.within(artifacts) if folder else None
    if folder is None or path is None:
        why = f"the adapter is not under {artifacts}" if folder else "the run stored no adapter"
        return {}, f"{why}, so its norms are not known"
    try:
        with reading(path):
            return _norms(path), None
    except DataError as error:
        return {}, f"the adapter's file cannot be read ({error}), so its norms are not known"


def _norms(path: Path) -> dict[str, Norms]:
    config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("alpha_pattern") or config.get("rank_pattern"):
        raise ValueError("its alpha or rank differs by module, and only a loaded model tells which is where")
    with safe_open(path / "adapter_model.safetensors", framework="pt") as tensors:
        names = {n.removesuffix(".lora_A.weight") for n in tensors.keys() if n.endswith(".lora_A.weight")}
        norms: dict[str, Norms] = {}
        for module in sorted(names):
            a = tensors.get_tensor(f"{module}.lora_A.weight").float()
            b = tensors.get_tensor(f"{module}.lora_B.weight").float()
            if len(a) > 1:  # components of a higher rank are slices in the canonical gauge
                gauge = canonical_gauge(a, b)
                a, b = gauge.forward.float() @ a, b @ gauge.backward.float()
            scaling = _scaling(config, len(a))
            for i in range(len(a)):
                size = Norms(float(a[i].norm()), float(b[:, i].norm()), scaling)
                norms[_name(module, i, len(a))] = size
    return norms


def latents_that_write(
    folders: Sequence[DictionaryFolder], artifacts: Path, rows: Mapping[str, Sequence[CatalogueRow]]
) -> tuple[dict[str, dict[str, list[dict[str, Any]]]], list[str]]:
    """Component -> dictionary -> the latents that write most to it; and why some dictionaries say nothing.

    A latent writes its activation times its decoder weight. Latents are ranked by the largest they wrote: their largest
    activation times the weight, in the component's own units (a · x).

    Args:
        folders: the run's dictionaries.
        artifacts: the artefact folder.
        rows: source -> its features.
    """
    writers: dict[str, dict[str, list[dict[str, Any]]]] = {}
    why: list[str] = []
    for folder in folders:
        path = folder.within(artifacts)
        try:
            if path is None:
                raise DataError(f"not under {artifacts}")
            file = path / "sae_weights.safetensors"
            with reading(file), safe_open(file, framework="np") as tensors:
                weights = tensors.get_tensor("W_dec")
        except DataError as error:
            why.append(f"{folder.name}: its decoder cannot be read ({error})")
            continue
        largest = np.zeros(len(weights))
        for row in rows.get(folder.name, ()):
            number = row.feature.removeprefix("latent")
            if number.isdecimal() and int(number) < len(largest):
                largest[int(number)] = row.activation_max
        writes = weights * largest[:, None]
        for column, name in enumerate(folder.columns[: weights.shape[1]]):
            order = np.argsort(-np.abs(writes[:, column]), kind="stable")[:TOP_LATENTS]
            writers.setdefault(name, {})[folder.name] = [
                {
                    "feature": f"latent{i}",
                    "weight": short(float(weights[i, column])),
                    "write": short(float(writes[i, column])),
                }
                for i in order.tolist()
                if writes[i, column] != 0
            ]
    return writers, why


def component_data(
    ablated: Sequence[ComponentRow],
    norms: Mapping[str, Norms],
    writers: Mapping[str, Mapping[str, Any]],
    features: Sequence[CatalogueRow],
    source: str,
) -> list[dict[str, Any]]:
    """One entry per component, in the order of layers and projections of its features, else of its ablation.

    Args:
        ablated: what was switched off.
        norms: component -> norms.
        writers: component -> dictionary -> latents.
        features: the catalogue.
        source: the source whose columns are the components.
    """
    single = [r for r in ablated if r.scope == "component"]
    columns = [f for f in features if f.source == source]
    places: dict[str, tuple[int | None, str | None]] = {
        f.feature[:-1] if f.feature[-1:] in "+-" else f.feature: (f.layer, f.projection) for f in columns
    }
    for r in single:
        places.setdefault(r.component, (r.layer, r.projection))
    ranked = {
        r.component: i + 1 for i, r in enumerate(sorted(single, key=lambda r: -r.kl_nats.value)) if r.mode == "zero"
    }
    return [
        {
            "component": name,
            "layer": layer,
            "projection": projection,
            "rank": ranked.get(name),
            "n_ranked": len(ranked),
            "ablations": [_ablation(r) for r in single if r.component == name],
            "around": [
                _ablation(r)
                for r in ablated
                if (r.scope == "layer" and r.layer == layer) or (r.scope == "projection" and r.projection == projection)
            ],
            "norms": asdict(norms[name]) if name in norms else None,
            "latents": writers.get(name, {}),
            "features": [[f.source, f.feature] for f in columns if f.feature in (name, f"{name}+", f"{name}-")],
        }
        for name, (layer, projection) in places.items()
    ]


def _ablation(row: ComponentRow) -> dict[str, Any]:
    values = flat_values(row)
    shortened = ("kl_nats", "kl_ci_low", "kl_ci_high", "share_of_adapter_kl", "kl_nats_prompt", "kl_nats_all")
    return values | {k: short(values[k]) for k in shortened}


def _name(module: str, index: int, rank: int) -> str:
    return f"L{layer_of(module)}.{module.rpartition('.')[2]}" + (f".r{index}" if rank > 1 else "")


def _scaling(config: Mapping[str, Any], rank: int) -> float:
    """Alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA."""
    return float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)
