"""How much switching components of an adapter off changes a model's next-token distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from harness.contract.progress import Progress, SilentProgress
from harness.errors import DataError, ModelError
from harness.model.blocks import Blocks
from harness.model.chat import Document
from harness.model.components import Component
from harness.model.kl import Reference, compare
from harness.model.readout import Readout
from harness.model.subject import Subject
from harness.model.taps import ablate, component_sites, tap
from harness.records.segments import HEADLINE, IN_WORDS, TOKENS_OF, TokensOf
from harness.stats import Estimate, ratio_over_documents


@torch.no_grad()
def measure_kl(
    subject: Subject,
    documents: Sequence[Document],
    off: Sequence[Component],
    *,
    tokens_of: TokensOf = HEADLINE,
    seed: int = 0,
    progress: Progress | None = None,
) -> Estimate:
    """KL(full ‖ ablated), mean over tokens of the documents, in nats per token, with a 95 % interval.

    Full is the subject as it is; ablated has the scalars of `off` at 0. The interval is a bootstrap-t over documents,
    and `n` is their number. Two forward passes per document, one document at a time.

    Args:
        subject: an adapter on its base.
        documents: rendered traces: `subject.chat.document(subject.tokenizer, trace)`.
        off: components to switch off, of `subject.components`.
        tokens_of: which tokens; the response's, which training supervised, if not given. A token counts with the
            distribution that follows it.
        seed: of the bootstrap.
        progress: told of each document.

    Raises:
        ModelError: the subject has no adapter, its logits cannot be read from its hidden states (see `Readout`), or a
            KL is not finite.
        DataError: there are no documents, or none has such tokens.
    """
    if not subject.components:
        raise ModelError("there is no adapter to switch off: the checkpoint is a base or a fully fine-tuned model")
    if not documents:
        raise DataError("there are no documents to measure on")
    progress = progress or SilentProgress()
    blocks, readout = Blocks(subject.model), Readout(subject.model)
    readout.check(subject.model, {"input_ids": torch.tensor([documents[0].ids[:8]], device=subject.device)})
    sums_nats = []
    for document in documents:
        inputs = {"input_ids": torch.tensor([document.ids], device=subject.device)}
        counted = [i for i, s in enumerate(document.segments) if s in TOKENS_OF[tokens_of]]
        full = blocks.run(inputs)[0, counted]
        with tap(subject.model, component_sites(subject.components), ablate(subject.components, off)):
            ablated = blocks.run(inputs)[0, counted]
        total_nats = 0.0
        for chunk in readout.chunks(len(full)):
            reference = Reference.of(readout.precise_logits(full[chunk]))
            comparison = compare(reference, readout.difference(full[chunk], ablated[chunk]))
            total_nats += float(comparison.kl_nats.double().sum())
        if not math.isfinite(total_nats):
            raise ModelError(
                f"KL is not finite in document {document.id!r}: activations overflow there "
                "(--set model.dtype=float32 has more room)"
            )
        sums_nats.append(total_nats)
        progress.advance()
    n_tokens = [d.n_tokens(tokens_of) for d in documents]
    if not sum(n_tokens):
        raise DataError(f"the documents have none of {IN_WORDS[tokens_of]}")
    return ratio_over_documents(sums_nats, n_tokens, seed=seed)
