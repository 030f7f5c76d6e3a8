"""The tap: reads and replaces, never touches a weight, and is gone afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import ModelError
from harness.model.chat import ChatFormat
from harness.model.subject import Subject, load_subject
from harness.model.taps import Gate, SetTo, Site, ablate, component_sites, tap
from harness.records import ModelRef
from harness.testing import tiny_adapter, tiny_model, tiny_traces


def logits(subject: Subject) -> torch.Tensor:
    document = subject.chat.document(subject.tokenizer, tiny_traces(1)[0])
    with torch.no_grad():
        out: torch.Tensor = subject.model(torch.tensor([document.ids]), use_cache=False).logits
    return out


def hooks(subject: Subject) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.model.modules())


@pytest.fixture(scope="module", params=["qwen2", "llama", "gpt2", "gemma", "mistral", "phi3", "stories"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Random models, and a real pretrained Llama."""
    architecture: Any = request.param
    if architecture == "stories":
        base, chat = request.getfixturevalue("stories"), ChatFormat(template="plain")
    else:
        base, chat = tiny_model(tmp_path_factory.mktemp("base"), architecture), ChatFormat()
    return load_subject(base, chat, tiny_adapter(base, tmp_path_factory.mktemp("adapter"), rank=2, chat=chat))


def test_switching_every_component_off_is_the_base_model(subject: Subject) -> None:
    full = logits(subject)
    with tap(subject.model, component_sites(subject.components), ablate(subject.components, subject.components)):
        off = logits(subject)
    with subject.model.disable_adapter():
        base = logits(subject)
    assert torch.equal(off, base)
    assert (full - base).abs().max() > 0.1


def test_an_open_gate_changes_no_bit(subject: Subject) -> None:
    with tap(subject.model, component_sites(subject.components), Gate(torch.ones(len(subject.components)))):
        gated = logits(subject)
    assert torch.equal(gated, logits(subject))


def test_putting_back_what_was_read_changes_no_bit(subject: Subject) -> None:
    sites = component_sites(subject.components)
    with tap(subject.model, sites) as reading:
        full = logits(subject)
    with tap(subject.model, sites, SetTo(reading.values())):
        assert torch.equal(logits(subject), full)


def test_every_component_matters(subject: Subject) -> None:
    """A cache that leaks between passes makes attention's keys and values read as if they did nothing."""
    full = logits(subject)
    for component in subject.components:
        with tap(subject.model, component_sites(subject.components), ablate(subject.components, [component])):
            assert not torch.equal(logits(subject), full), component.name


def test_rows_of_a_batch_have_gates_of_their_own(subject: Subject) -> None:
    document = subject.chat.document(subject.tokenizer, tiny_traces(1)[0])
    rows = torch.tensor([document.ids] * 2)
    gates = torch.stack([torch.ones(len(subject.components)), torch.zeros(len(subject.components))])
    with tap(subject.model, component_sites(subject.components), Gate(gates)), torch.no_grad():
        full, base = subject.model(rows, use_cache=False).logits
    torch.testing.assert_close(full, logits(subject)[0], rtol=1e-4, atol=1e-4)
    with subject.model.disable_adapter():
        torch.testing.assert_close(base, logits(subject)[0], rtol=1e-4, atol=1e-4)


def explode(_: torch.Tensor, __: slice) -> torch.Tensor:
    raise ZeroDivisionError


def explode_after(subject: Subject) -> None:
    logits(subject)
    raise ZeroDivisionError


@pytest.mark.parametrize("edit", [None, explode])
def test_nothing_is_left_behind_also_after_an_exception(
    subject: Subject, edit: Callable[[torch.Tensor, slice], torch.Tensor] | None
) -> None:
    before, full = hooks(subject), logits(subject)
    with pytest.raises(ZeroDivisionError), tap(subject.model, component_sites(subject.components), edit):
        explode_after(subject)
    assert hooks(subject) == before
    assert torch.equal(logits(subject), full)


def test_a_tap_that_cannot_be_attached_leaves_nothing_behind(subject: Subject) -> None:
    before = hooks(subject)
    sites = [*component_sites(subject.components), Site("no.such.module", "output", 1)]
    with pytest.raises(ModelError, match=r"no module 'no.such.module'"), tap(subject.model, sites):
        pass
    assert hooks(subject) == before


def test_weights_are_bit_identical_with_two_adapters_loaded(tiny_base: ModelRef, tmp_path: Path) -> None:
    subject = load_subject(tiny_base, ChatFormat(), tiny_adapter(tiny_base, tmp_path / "a"))
    second = tiny_adapter(tiny_base, tmp_path / "b", seed=1)
    subject.model.load_adapter(str(second.path), adapter_name="second")
    weights = {name: p.detach().clone() for name, p in subject.model.named_parameters()}
    full = logits(subject)
    off = ablate(subject.components, subject.components)
    with tap(subject.model, component_sites(subject.components), off):
        assert not torch.equal(logits(subject), full)
    with pytest.raises(ZeroDivisionError), tap(subject.model, component_sites(subject.components), off):
        explode_after(subject)
    assert torch.equal(logits(subject), full)
    for name, parameter in subject.model.named_parameters():
        assert torch.equal(parameter, weights[name]), name


def test_a_site_the_model_does_not_pass_is_named(subject: Subject) -> None:
    sites = component_sites(subject.components)
    with tap(subject.model, sites) as reading, subject.model.disable_adapter():
        logits(subject)
    with pytest.raises(ModelError, match="did not reach"):
        reading.values()


def test_an_input_cannot_be_edited(subject: Subject) -> None:
    module = subject.components[0].module
    with pytest.raises(ModelError, match="only outputs"):
        with tap(subject.model, [Site(module, "input", 1)], Gate(torch.ones(1))):
            pass
