"""Records of features over tokens: activation sets, features and their contexts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from harness.records.base import Part, Record, Source


class ActivationSet(Record):
    """Features over tokens on disk: one column per feature, one row per token of the documents."""

    IDENTITY = ("source",)
    PROPERTIES = ("n_columns",)

    item: str = "activations"
    """Name within the step."""
    source: Source
    """Name of the set."""
    path: Path
    """Folder of shards with `manifest.json`."""
    columns: tuple[str, ...]
    """Column names in order, e.g. `L0.q_proj` (a component) or `L2.neuron17`."""
    layers: tuple[int | None, ...]
    """Layer of each column; None where a column has none (a cross-layer latent)."""
    projections: tuple[str | None, ...]
    """Adapted projection of each column; None where it has none."""
    signed: bool
    """True: each column is two features, `name+` and `name-`; False: activations are never negative."""
    n_tokens: NonNegativeInt
    """Rows."""
    n_documents: NonNegativeInt
    """Documents."""
    chat_hash: str
    """Hash of the ChatFormat that rendered the documents."""
    site: str
    """Where the columns were read, in words."""
    dtype: Literal["float16", "float32"] = "float16"
    """Stored dtype."""
    unit: Literal["raw", "write", "zscore"] = "raw"
    """raw: the scalar itself; write: times scaling and norm of b, the size of what it writes; zscore: standardised."""
    numerics: str = "modules"
    """How the model was run: `modules` (its own), or the name of a path that rounds in another order."""
    sparse: bool = False
    """Whether only what is not 0 is stored."""
    n_split: NonNegativeInt = 0
    """Documents longer than the model's context, read in parts."""
    n_bytes: NonNegativeInt = 0
    """Size of the arrays on disk."""
    quantiles: tuple[tuple[float, float], ...] = ()
    """(share, value): this share of all tokens' and columns' absolute activations is at most the value."""

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        return len(self.columns)

    @model_validator(mode="after")
    def _same_length(self) -> ActivationSet:
        if not len(self.columns) == len(self.layers) == len(self.projections):
            raise ValueError("columns, layers and projections must have the same length")
        return self


class Exemplar(Part):
    """One activating context of a feature."""

    UNIQUE = ("rank",)

    rank: NonNegativeInt
    """0 is the highest activation; a feature's sampled contexts are numbered on from its highest ones."""
    document: str
    """Trace id."""
    position: NonNegativeInt
    """Token position in the document."""
    start: NonNegativeInt
    """First token of the window."""
    tokens: tuple[str, ...]
    """Window tokens as text; together they are the decoded window, byte for byte."""
    activations: tuple[float, ...]
    """Activation of each window token to five digits, of this feature's polarity (others 0)."""
    target: NonNegativeInt
    """Index of the exemplar's token within the window."""
    n_identical: PositiveInt = 1
    """Contexts of the same tokens with the same target that were found among the highest (or the sampled); the highest
    of them is shown, once."""
    quantile: float | None = None
    """Share of the feature's active tokens that are lower, for a sampled context; None for one of the highest."""


class Feature(Record):
    """A feature over tokens: a column of an activation set, one polarity."""

    IDENTITY = ("source", "feature")
    INDEXES = (("source", "feature"),)

    item: str
    """Name within the step: the feature's name."""
    source: Source
    """The activation set."""
    feature: str
    """`column+`, `column-` for signed sets, else the column."""
    layer: int | None
    """Layer, where it has one."""
    projection: str | None
    """Projection, where it has one."""
    density_per_token: NonNegativeFloat
    """Share of tokens on which it is active (greater than 0)."""
    activation_sum: NonNegativeFloat
    """Sum of activations over all tokens: the paper's activation density (figure 2) before normalising."""
    activation_max: NonNegativeFloat
    """Largest activation; 0 for a dead feature."""
    n_tokens: NonNegativeInt
    """Tokens looked at."""
    exemplars: tuple[Exemplar, ...]
    """Highest activations, sorted."""
    sampled: tuple[Exemplar, ...] = ()
    """Contexts drawn uniformly over the quantiles of its active tokens, highest first: what scorers test on."""


class Evidence(Record):
    """A feature as an interpreter is shown it: window, count and order are the same for every source."""

    source: Source
    """The activation set."""
    feature: str
    """The feature."""
    layer: int | None
    """Layer, where it has one."""
    projection: str | None
    """Projection, where it has one."""
    exemplars: tuple[Exemplar, ...]
    """Highest activations, sorted; empty for a dead feature."""
    sampled: tuple[Exemplar, ...] = ()
    """Contexts drawn uniformly over the quantiles of its active tokens, highest first; not for the explainer."""
