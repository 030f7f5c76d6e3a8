"""The base of all records, and what records of several stages share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Source = str
"""Where a feature comes from: the name of the activation set, e.g. `adapter-activations` or `batch-topk`."""


PLANTED = "planted"
"""The source of features whose right grade is known."""
