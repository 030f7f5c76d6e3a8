"""The benchmark `opens_trace`: whether an answer begins as a reasoning trace of the study's chat format does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.model.marks import CHATML

_CONTROL = re.compile(r"<\|[^|>]*\|>")


@dataclass(frozen=True)
class Opening:
    """lm-eval's `process_results`: 1 where the answer opens a trace.

    Attributes:
        header: what opens a trace in the chat format.
    """

    header: str

    def extract(self, response: str) -> str | None:
        """The opening that the response begins with; None where it begins with none.

        That is the header, or its words alone on the first line, where a model writes them without control tokens.
        """
        text, header = response.lstrip(), self.header.strip()
        if header and text.startswith(header):
            return header
        words = _CONTROL.sub("", header).strip()
        return words if words and words != header and text.partition("\n")[0].strip() == words else None

    def __call__(self, document: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
        """The score of the first result."""
        return {"exact_match": float(self.extract(str(results[0])) is not None)}


grade_opening = Opening(CHATML.think_header)
"""Of ChatML. A study's own format takes its place."""
