"""Which half of the model does the adapter work in? Switch each half's components off and measure the KL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from harness import Ablation, AblationScore, Config, Registration, RunContext, Trace, hookimpl, measure_kl

if TYPE_CHECKING:
    from harness.model.subject import Subject


class DepthHalvesConfig(Config):
    """Settings of `depth-halves`; each shows up in `harness plugins show depth-halves`."""

    n_documents: PositiveInt = 8
    """Documents to measure on."""


class DepthHalves:
    """Measures the lower and the upper half of the adapted layers."""

    def __init__(self, config: DepthHalvesConfig) -> None:
        """Keep the settings."""
        self.config = config

    def measure(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> Iterator[AblationScore]:
        """Yield a score per half; a half that an interrupted attempt already stored is skipped."""
        documents = [subject.chat.document(subject.tokenizer, t) for t in traces[: self.config.n_documents]]
        layers = sorted({c.layer for c in subject.components if c.layer is not None})
        middle = len(layers) // 2
        for half, inside in {"lower-half": layers[:middle], "upper-half": layers[middle:]}.items():
            if f"group:{half}" not in run.done:
                off = [c for c in subject.components if c.layer in inside]
                run.progress.start(len(documents), "document")
                kl = measure_kl(subject, documents, off, seed=run.seed, progress=run.progress)
                yield AblationScore(
                    item=f"group:{half}", scope="group", group=half, kl_nats=kl, n_documents=len(documents),
                    n_tokens=sum(d.n_tokens() for d in documents), n_components=len(off),
                )  # fmt: skip


@hookimpl
def harness_ablations() -> list[Registration[Ablation]]:
    """Offer `depth-halves`."""
    return [
        Registration(
            name="depth-halves",
            config=DepthHalvesConfig,
            load="harness_depth:DepthHalves",
            summary="KL of switching off the lower and the upper half of the adapted layers",
        )
    ]
