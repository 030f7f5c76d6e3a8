"""`check_plugin`: does a plugin keep the contract of its stage? Tried on tiny real inputs, in seconds."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config import Config
from harness.contract import stages
from harness.contract.context import RunContext
from harness.contract.provider import Provider
from harness.contract.stages import Registration
from harness.records.base import Record
from harness.testing.tiny import (
    MemoryCalls,
    tiny_activations,
    tiny_adapter,
    tiny_evidence,
    tiny_model,
    tiny_traces,
)

_PROTOCOLS: dict[str, type] = {
    "train": stages.Trainer,
    "probe": stages.Probe,
    "learn": stages.DictionaryLearner,
    "interpret": stages.Interpreter,
    "ablate": stages.Ablation,
    "provide": Provider,
}


def check_plugin(
    registration: Registration[Any],
    folder: Path,
    config: Mapping[str, Any] | None = None,
    *,
    provider: Provider | None = None,
    **fields: Any,
) -> list[Record]:
    """Try a plugin on tiny inputs of its stage, twice with the same seed, and return the records of the first time.

    It checks that the config survives JSON, refuses an unknown setting and describes every field; that the class has
    the methods of its stage; that the same seed gives the same records and the same weights and activations; that no
    tap is left on the model and no weight is changed; that items already stored (`run.done`) are not made again; and
    that a dictionary's dense and sparse codes are equal.

    Args:
        registration: what the plugin's hook returns.
        folder: an empty folder to work in (`tmp_path`).
        config: settings, where the defaults are not for tiny inputs.
        provider: LLM for an interpreter that asks one.
        fields: of the RunContext, e.g. `evaluate`.

    Raises:
        AssertionError: a part of the contract is broken; the sentence says which.
    """
    settings = _check_config(registration, config or {})
    implementation = registration.implementation()(settings)
    stage = _stage_of(registration.name, implementation)
    if provider is not None:
        fields = {"calls": MemoryCalls(), "provider": lambda role: (provider, provider.config.model), **fields}
    attempt = _ATTEMPTS[stage](folder)
    first, again = (
        attempt(registration.implementation()(settings), RunContext(**{"out_dir": folder / name, "seed": 1, **fields}))
        for name in ("first", "again")
    )
    assert first, f"{registration.name} made no record"
    assert _comparable(first, folder / "first") == _comparable(again, folder / "again"), "same seed, other records"
    assert _weights(folder / "first") == _weights(folder / "again"), "same seed, other weights or activations"
    if stage in ("ablate", "interpret"):
        done = frozenset(_item(record) for record in first)
        run = RunContext(**{"out_dir": folder / "done", "seed": 1, **fields, "done": done})
        assert attempt(implementation, run) == [], "items in run.done were made again"
    return first


def _check_config(registration: Registration[Any], values: Mapping[str, Any]) -> Config:
    kind = registration.config
    assert issubclass(kind, Config), f"{kind.__name__} is not a harness.Config"
    assert registration.summary, "a registration has a summary"
    for name, field in kind.model_fields.items():
        assert field.description, f"{kind.__name__}.{name} has no docstring, which `harness plugins show` prints"
    settings = kind.model_validate(dict(values))
    again = kind.model_validate_json(settings.model_dump_json())
    assert (again, again.digest()) == (settings, settings.digest()), f"{kind.__name__} does not survive JSON"
    try:
        kind.model_validate({**values, "no_such_setting": 1})
    except ValidationError:
        return settings
    raise AssertionError(f"{kind.__name__} takes a setting that it does not have")


def _stage_of(name: str, implementation: Any) -> str:
    """The stage whose methods the implementation has, with the arguments that the harness passes."""
    faults = []
    for stage, protocol in _PROTOCOLS.items():
        methods = {n: m for n, m in vars(protocol).items() if inspect.isfunction(m) and not n.startswith("_")}
        if not all(callable(getattr(implementation, method, None)) for method in methods):
            continue
        fault = ""
        for method, declared in methods.items():
            takes = list(inspect.signature(getattr(implementation, method)).parameters)
            given = list(inspect.signature(declared).parameters)[1:]
            if takes != given:
                fault = f"{name}: {method} takes {takes}, and is given {given}"
        if not fault:
            return stage
        faults.append(fault)
    raise AssertionError(faults[0] if faults else f"{name}: {type(implementation).__name__} has no stage's methods")


Attempt = Callable[[Any, RunContext], list[Record]]


def _train(folder: Path) -> Attempt:
    from harness.model.chat import ChatFormat

    base = tiny_model(folder / "base")
    return lambda trainer, run: [trainer.train(base, tiny_traces(6), ChatFormat(), run)]


def _on_subject(folder: Path, work: Callable[[Any, Any, RunContext], list[Record]]) -> Attempt:
    """Work on a tiny adapted model, which has to be as it was afterwards."""
    from harness.model.chat import ChatFormat
    from harness.model.subject import load_subject

    base = tiny_model(folder / "base")
    subject = load_subject(base, ChatFormat(), tiny_adapter(base, folder / "adapter"))

    def state() -> dict[str, bytes]:
        return {name: value.numpy().tobytes() for name, value in subject.model.state_dict().items()}

    def attempt(implementation: Any, run: RunContext) -> list[Record]:
        before = state()
        records = work(implementation, subject, run)
        left = [name for name, m in subject.model.named_modules() if m._forward_hooks or m._forward_pre_hooks]
        assert not left, f"taps are left on {', '.join(left)}"
        assert state() == before, "the model's weights were changed"
        return records

    return attempt


def _probe(folder: Path) -> Attempt:
    return _on_subject(folder, lambda probe, subject, run: [probe.read(subject, tiny_traces(4), run)])


def _ablate(folder: Path) -> Attempt:
    return _on_subject(folder, lambda ablation, subject, run: list(ablation.measure(subject, tiny_traces(4), run)))


def _learn(folder: Path) -> Attempt:
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6))
    documents = {f"d{i}": rng.laplace(size=(200, 6)) @ mixing for i in range(10)}
    activations = tiny_activations(folder / "activations", documents)

    def attempt(learner: Any, run: RunContext) -> list[Record]:
        dictionary = learner.fit(activations, run)
        codec, x = learner.load(dictionary), torch.from_numpy(documents["d0"]).float()
        codes = codec.encode(x)
        assert codes.shape == (len(x), dictionary.n_latents), f"codes have the shape {tuple(codes.shape)}"
        assert np.array_equal(codes.numpy(), codec.encode_sparse(x).toarray()), "dense and sparse codes differ"
        assert codec.decode(codes).shape == x.shape, "a reconstruction has another shape than its input"
        return [dictionary]

    return attempt


def _interpret(folder: Path) -> Attempt:
    evidence = tiny_evidence()
    explained: list[Any] = []

    def attempt(interpreter: Any, run: RunContext) -> list[Record]:
        explanations = {x.feature: x for x in interpreter.explain(evidence, run)}
        missing = {e.feature for e in evidence} - explanations.keys() - run.done
        assert not missing, f"no Explanation (not even one with a reason) of {', '.join(sorted(missing))}"
        if explanations:
            explained[:] = [(explanations[e.feature], e) for e in evidence]
        return [*explanations.values(), *interpreter.categorise(explained, run)]

    return attempt


def _complete(folder: Path) -> Attempt:
    from harness.records import LLMRequest

    async def ask(provider: Any) -> list[Record]:
        try:
            request = LLMRequest(model=provider.config.model, user="Say yes.", max_tokens=16)
            reply = await provider.complete(request)
            return [reply.model_copy(update={"request_id": None})]  # the vendor's id differs from call to call
        finally:
            await provider.aclose()

    return lambda provider, run: asyncio.run(ask(provider))


_ATTEMPTS: dict[str, Callable[[Path], Attempt]] = {
    "train": _train,
    "probe": _probe,
    "learn": _learn,
    "interpret": _interpret,
    "ablate": _ablate,
    "provide": _complete,
}


def _item(record: Any) -> str:
    return str(record.item)


def _comparable(records: list[Record], out_dir: Path) -> list[str]:
    """Records as JSON, without the folder that they were made in."""
    return [record.model_dump_json().replace(str(out_dir), "OUT") for record in records]


def _weights(out_dir: Path) -> dict[str, str]:
    """sha256 of every file of tensors."""
    files = [path for path in out_dir.rglob("*") if path.suffix in (".safetensors", ".npy", ".bin")]
    return {str(path.relative_to(out_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
