"""The implementation of `existing-dictionary`: opens a dictionary that was fitted elsewhere; nothing is trained."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from harness.activations.latents import refuse_other_columns
from harness.activations.store import StoredActivations, open_set
from harness.contract.context import RunContext
from harness.contract.stages import DictionaryLearner
from harness.dictionaries.formats import read
from harness.dictionaries.scoring import reconstruction
from harness.dictionaries.weights import Weights, save_weights
from harness.errors import DataError
from harness.records import ActivationSet, Dictionary

from ..files import load_dictionary, open_codec
from ..sae import JumpRelu
from . import ExistingDictionaryConfig

_log = logging.getLogger(__name__)


class ExistingDictionary(DictionaryLearner):
    """A learner that copies a dictionary from a folder instead of fitting one."""

    def __init__(self, config: ExistingDictionaryConfig) -> None:
        self.config = config

    def fit(self, activations: ActivationSet, run: RunContext) -> Dictionary:
        """Copy the dictionary, in the harness's layout, to the step's folder.

        Raises:
            DataError: the folder holds no dictionary that can be read, or it is of another adapter.
        """
        source = Path(self.config.path).expanduser()
        weights, stored = read(source), open_set(activations)
        _refuse_another_adapters(weights, stored, source)
        folder = run.out_dir / "dictionary"
        metadata = {**weights.metadata, "columns": list(stored.columns), "read_from": str(source)}
        save_weights(folder, replace(weights, metadata=metadata))
        return Dictionary(
            name="existing-dictionary",
            path=folder,
            columns=stored.columns,
            n_latents=weights.n_latents,
            k=_target(weights, stored),
            signed=weights.signed,
        )

    def load(self, dictionary: Dictionary) -> JumpRelu:
        """Open it.

        Raises:
            DataError: its files are missing or damaged.
        """
        return load_dictionary(dictionary.path)


def _refuse_another_adapters(weights: Weights, stored: StoredActivations, source: Path) -> None:
    """Raise DataError where the columns differ; log a warning where the dictionary does not name its columns."""
    if weights.d_in != len(stored.columns):
        raise DataError(
            f"{source} is a dictionary of {weights.d_in} columns, and {stored.set.source} has {len(stored.columns)}: "
            "it was made from another adapter"
        )
    columns = weights.metadata.get("columns")
    if not isinstance(columns, list):
        _log.warning("%s does not name its columns; they are taken to be the adapter's components in order", source)
        return
    claimed = Dictionary(
        name=str(source), path=source, columns=tuple(map(str, columns)), n_latents=weights.n_latents, k=0
    )
    refuse_other_columns(claimed, stored)


def _target(weights: Weights, stored: StoredActivations) -> float:
    """Active latents per token that it was made for; where it does not say, those on the training documents."""
    k = weights.metadata.get("k")
    if isinstance(k, int | float) and k > 0:
        return float(k)
    sums = reconstruction(open_codec(weights), stored, stored.split().train)
    return float(sums.active.sum() / sums.n_tokens.sum())
