"""The paper's numbers, for the column beside ours: "Rank-1 LoRAs Encode Interpretable Reasoning Signals".

Values are as printed; counts (`successes` of `n`) are those that the printed decimals fit. No interval is printed. The
two recoveries have different denominators: full - base in table 1, adapter - base in table 2.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Claim:
    """One number of the paper.

    Attributes:
        place: where it is printed.
        quantity: what it is, e.g. `score/adapter`, `recovery`, `share_of_adapter_gap/attention`, `grade/0`.
        subject: the benchmark or source, in the paper's name.
        value: as printed; shares between 0 and 1.
        unit: `share` or `count`.
        successes: of n, where it is a share of counted cases.
        n: cases.
        comment: what to know about it.
    """

    place: str
    quantity: str
    subject: str
    value: float
    unit: str = "share"
    successes: int | None = None
    n: int | None = None
    comment: str | None = None

    def row(self) -> dict[str, Any]:
        """Its columns in `paper_claim`."""
        return asdict(self)


_COUNTS = {
    "AIME24": (30, {"base": 7, "adapter": 15, "full": 18, "without-attention": 11, "without-mlp": 4}),
    "MATH500": (500, {"base": 417, "adapter": 455, "full": 461, "without-attention": 450, "without-mlp": 422}),
    "GPQA-Diamond": (198, {"base": 97, "adapter": 115, "full": 117, "without-attention": 102, "without-mlp": 100}),
}
"""Benchmark -> n and correct answers per variant. AIME24 is the version without figures."""

_RECOVERY = {"AIME24": 0.7273, "MATH500": 0.8636, "GPQA-Diamond": 0.8990}
_GAP_SHARES = {
    "AIME24": {"attention": 0.5002},
    "MATH500": {"attention": 0.8684, "mlp": 0.1316},
    "GPQA-Diamond": {"attention": 0.2783, "mlp": 0.1672},
}
_COMMENTS = {"GPQA-Diamond": "the printed counts give 18/20 = 0.9000"}


def _claims() -> tuple[Claim, ...]:
    found = []
    for benchmark, (n, counts) in _COUNTS.items():
        for variant, correct in counts.items():
            place = "table 2" if variant.startswith("without-") else "table 1"
            found.append(Claim(place, f"score/{variant}", benchmark, round(correct / n, 4), successes=correct, n=n))
        comment = _COMMENTS.get(benchmark)
        found.append(Claim("table 1", "recovery", benchmark, _RECOVERY[benchmark], n=n, comment=comment))
        for group, value in _GAP_SHARES[benchmark].items():
            found.append(Claim("table 2", f"share_of_adapter_gap/{group}", benchmark, value, n=n))
    found += [
        Claim("section 3.1", "grade/0", "LoRA directions", 0.22, comment="`cleanly monosemantic`"),
        Claim("section 3.1", "grade/0", "SAE latents", 0.62, comment="`cleanly monosemantic`"),
        Claim("section 3.1", "grade/1", "SAE latents", 0.22, comment="`broad but consistent`"),
        Claim("section 3.1", "n_alive", "SAE latents", 2000, unit="count", comment="roughly"),
    ]
    return tuple(found)


CLAIMS = _claims()
"""Every number of the paper that a report can stand beside ours."""

PAPER_SOURCES = {"adapter-activations": "LoRA directions", "batch-topk": "SAE latents"}
"""Our source -> the paper's name for it."""
