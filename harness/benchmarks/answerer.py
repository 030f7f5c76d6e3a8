"""The model variants that answer benchmarks, behind one interface for all backends.

The variants of a study are the base, a full fine-tune, an adapter, and an adapter with components switched off. A
backend makes an `Answerer` of each. All are asked, recorded and scored in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from harness.benchmarks.generation import Completion, Writer
    from harness.benchmarks.lm import SubjectLM
    from harness.contract.context import RunContext
    from harness.contract.progress import Progress
    from harness.contract.settings import EvaluateConfig
    from harness.model.chat import ChatFormat
    from harness.model.components import Component
    from harness.model.loss import Loss
    from harness.model.subject import Subject
    from harness.model.taps import RowGates
    from harness.records import Trace


class BenchmarkLM(Protocol):
    """An lm-eval model that also keeps the length of each answer and why it ended."""

    @property
    def completions(self) -> Mapping[tuple[int, int], Completion]:
        """(document, repeat) -> its completion."""
        ...


class Answerer(Protocol):
    """A model variant that is loaded and can answer."""

    @property
    def chat_hash(self) -> str:
        """Hash of the format that renders its prompts."""
        ...

    @property
    def engine(self) -> str:
        """Backend, versions, dtype and kernels that generate. Answers may differ between engines."""
        ...

    @property
    def chat(self) -> ChatFormat:
        """The format that renders its prompts."""
        ...

    def losses(self, traces: Sequence[Trace], progress: Progress) -> list[Loss]:
        """How well it predicts the responses of traces.

        Raises:
            UsageError: the backend cannot say.
        """
        ...

    def check(self) -> int | None:
        """Number of modules that its adapter is applied to; None without an adapter.

        Raises:
            ModelError: the adapter has no effect, so this would measure the base model.
        """
        ...

    def answering(self, settings: EvaluateConfig, seed: int, progress: Progress) -> AbstractContextManager[BenchmarkLM]:
        """The lm-eval model to ask, for the duration of a benchmark."""
        ...


def answerer(subject: Subject, run: RunContext, off: Sequence[Component] = ()) -> Answerer:
    """A loaded subject with components switched off, behind the backend of the run's benchmarks.

    With vLLM the subject's weights are moved to the CPU first, because an engine takes all free GPU memory.
    `RunState.subject` moves them back.

    Raises:
        ModelError: vLLM cannot serve it.
    """
    if run.evaluate.backend == "hf" or run.engines is None:
        return InMemory(subject, off)
    from harness.benchmarks.served import serve_subject

    return serve_subject(subject, run, off)


def answerers(subject: Subject, run: RunContext, offs: Sequence[Sequence[Component]]) -> list[Answerer]:
    """Variants of a subject with components switched off. In memory, they answer in shared batches.

    Raises:
        ModelError: vLLM cannot serve it.
    """
    # with a thinking budget each variant continues its own text, so prompts are not shared
    if run.evaluate.backend != "hf" or run.evaluate.thinking_tokens is not None:
        return [answerer(subject, run, off) for off in offs]
    import torch

    from harness.benchmarks.together import Together, Variant
    from harness.model.taps import ablate

    together = Together(torch.stack([ablate(subject.components, off).gates for off in offs]))
    return [InMemory(subject, off, writer=partial(Variant, together, i)) for i, off in enumerate(offs)]


_CACHE_BYTES = 512 * 2**20


def _cache_bytes_per_token(model: Any) -> int:
    """Bytes of the keys and values of all layers, per token."""
    config, first = model.config.get_text_config(), next(model.parameters())
    heads = config.num_attention_heads
    key_value_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * key_value_heads * width * first.element_size())


class InMemory:
    """A subject in this process, through transformers; components are switched off by the tap."""

    def __init__(
        self,
        subject: Subject,
        off: Sequence[Component] = (),
        *,
        tokens_per_batch: int | None = None,
        writer: Callable[[SubjectLM], Writer] | None = None,
        edit: RowGates | None = None,
    ) -> None:
        """Nothing is generated yet.

        Args:
            subject: the model.
            off: components of its adapter that are switched off.
            tokens_per_batch: most tokens in a batch, prompts and answers together; lowers the batch size for long
                answers. None is 65,536, or as many as a cache of 512 MiB holds.
            writer: makes the writer of an lm-eval model; None lets the model write for itself.
            edit: what is done to its scalars in place of switching `off` off.
        """
        self._subject, self._off, self._tokens_per_batch = subject, tuple(off), tokens_per_batch
        self._writer, self._edit = writer, edit

    @property
    def chat_hash(self) -> str:
        """Hash of the subject's chat format."""
        return self._subject.chat_hash

    @property
    def engine(self) -> str:
        """Versions, dtype and device."""
        import torch
        import transformers

        dtype = str(next(self._subject.model.parameters()).dtype).removeprefix("torch.")
        return f"hf transformers {transformers.__version__} torch {torch.__version__} {dtype} {self._subject.device}"

    @property
    def chat(self) -> ChatFormat:
        """The subject's chat format."""
        return self._subject.chat

    def losses(self, traces: Sequence[Trace], progress: Progress) -> list[Loss]:
        """Cross-entropy of each trace's response."""
        from harness.model.loss import response_losses

        return response_losses(self._subject, traces, self._off, progress=progress)

    def check(self) -> int | None:
        """Number of modules with an adapter. An adapter without ablations must change the base's logits."""
        return check_bound(self._subject, probe=not self._off and self._edit is None)

    @contextmanager
    def answering(self, settings: EvaluateConfig, seed: int, progress: Progress) -> Iterator[BenchmarkLM]:
        """lm-eval's HF model over the subject."""
        from harness.benchmarks.lm import SubjectLM
        from harness.model.taps import RowGates, ablate, component_sites, tap

        subject = self._subject
        tokens = self._tokens_per_batch or max(65536, _CACHE_BYTES // _cache_bytes_per_token(subject.model))
        gates = self._edit
        if gates is None and (self._off or self._writer):
            gates = RowGates(ablate(subject.components, self._off).gates)
        lm = SubjectLM(
            subject,
            settings=settings,
            seed=seed,
            tokens_per_batch=tokens,
            progress=progress,
            gates=gates,
            writer=self._writer,
        )
        with ExitStack() as stack:
            if gates is not None:
                stack.enter_context(tap(subject.model, component_sites(subject.components), gates, read=False))
            yield lm


def check_bound(subject: Subject, *, probe: bool = True) -> int | None:
    """Number of modules that the subject's adapter is applied to; None without an adapter.

    Raises:
        ModelError: it binds none, or (with `probe`) the next-token logits are those of the base model, bit for bit.
    """
    if subject.checkpoint is None or subject.checkpoint.kind != "adapter":
        return None
    n_bound = len({c.module for c in subject.components})
    if not n_bound:
        raise ModelError(f"the adapter {subject.checkpoint.path} binds no module: this would measure the base model")
    if probe and not _changes_logits(subject):
        raise ModelError(idle(str(subject.checkpoint.path), n_bound))
    return n_bound


def idle(adapter: str, n_bound: int) -> str:
    """The error message about an adapter that is applied and changes nothing."""
    return (
        f"the adapter {adapter} binds {n_bound} modules but does not change the model's output; "
        "is it untrained (all B zero) or switched off?"
    )


def _changes_logits(subject: Subject) -> bool:
    import torch

    encoded = subject.tokenizer(
        canary(subject.chat, subject.tokenizer), add_special_tokens=False, return_tensors="pt"
    ).to(subject.device)
    inputs: dict[str, Any] = {k: encoded[k] for k in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        on = subject.model(**inputs, use_cache=False).logits
        with subject.model.disable_adapter():
            off = subject.model(**inputs, use_cache=False).logits
    return not torch.equal(on, off)


def canary(chat: ChatFormat, tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt for which adapter and base must give different logits."""
    return chat.prompt(tokenizer, "1 + 1 = ?")
