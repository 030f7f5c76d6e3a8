"""Which half of the model does the adapter work in? Switch each half's components off and measure the KL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from harness import Ablation, AblationScore, Config, Registration, RunContext, Trace, hookimpl

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
        import torch

        from harness.model.kl import kl_nats
        from harness.model.taps import ablate, component_sites, tap
        from harness.stats import ratio_over_documents

        layers = sorted({c.layer for c in subject.components if c.layer is not None})
        middle = layers[len(layers) // 2]
        halves = {"lower-half": lambda n: n < middle, "upper-half": lambda n: n >= middle}
        documents = [subject.chat.document(subject.tokenizer, t) for t in traces[: self.config.n_documents]]
        run.progress.start(len(halves) * len(documents), "documents")
        for group, inside in halves.items():
            if f"group:{group}" in run.done:
                continue
            off = [c for c in subject.components if c.layer is not None and inside(c.layer)]
            sums, counts = [], []
            for document in documents:
                ids = torch.tensor([document.ids], device=subject.device)
                with torch.no_grad():
                    full = subject.model(ids, use_cache=False).logits
                    with tap(subject.model, component_sites(subject.components), ablate(subject.components, off)):
                        ablated = subject.model(ids, use_cache=False).logits
                sums.append(float(kl_nats(full, ablated).sum()))
                counts.append(len(document.ids))
                run.progress.advance()
            kl = ratio_over_documents(sums, counts, seed=run.seed)
            yield AblationScore(
                item=f"group:{group}", scope="group", group=group, kl_nats=kl, n_tokens=sum(counts),
                n_documents=len(documents), n_components=len(off),
            )  # fmt: skip


def _load() -> Any:
    return DepthHalves


@hookimpl
def harness_ablations() -> list[Registration[Ablation]]:
    """Offer `depth-halves`."""
    return [
        Registration(
            name="depth-halves",
            config=DepthHalvesConfig,
            load=_load,
            summary="KL of switching off the lower and the upper half of the adapted layers",
        )
    ]
