"""Executors: the loop, room on the GPUs, what travels to other processes, and Ray that is not installed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from harness import errors
from harness.activations.store import open_set
from harness.cli import cli
from harness.contract.executors import LocalExecutor, Workers, arriving_on
from harness.contract.progress import SilentProgress
from harness.errors import HarnessError, UnknownName, UsageError
from harness.model.chat import ChatFormat
from harness.model.subject import Subject
from harness.study import ray as ray_executor
from harness.study.state import FreeingGPUs, RunState
from harness.testing import tiny_activations


def test_the_loop_gives_items_with_their_results() -> None:
    with LocalExecutor().open(10) as workers:
        found = workers.map(lambda tool, item, _: tool * item, iter((1, 2, 3)), SilentProgress())
        assert next(found) == (1, 10)
        assert list(found) == [(2, 20), (3, 30)]


class OnGpus:
    """An executor that says where the run's model is while its workers are there."""

    on_gpus = True

    def __init__(self, subject: Any) -> None:
        self.subject, self.seen = subject, ""

    @contextmanager
    def open(self, tool: Any) -> Iterator[Workers[Any]]:
        self.seen = self.subject.device
        with LocalExecutor().open(tool) as workers:
            yield workers


@pytest.mark.parametrize("fails", [False, True])
def test_the_runs_model_leaves_the_gpu_while_workers_need_it(fails: bool) -> None:
    placed: list[str] = []
    subject = SimpleNamespace(device="cuda:0")
    subject.place = lambda device: (placed.append(device), setattr(subject, "device", device))
    state = RunState(*[None] * 5, _subject=((None, "cuda:0"), subject))  # type: ignore[arg-type]
    executor = OnGpus(subject)
    try:
        with FreeingGPUs(executor, state).open("tool"):
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert executor.seen == "cpu"
    assert placed == ["cpu", "cuda:0"]


def test_a_subject_travels_as_what_it_was_loaded_from(tiny_subject: Subject) -> None:
    tiny_subject.chat, tiny_subject.chat_hash = ChatFormat(template="unclosed"), "what probes read"
    sent = pickle.dumps(tiny_subject)
    assert len(sent) < 10_000, "no weights"
    arrived = pickle.loads(sent)
    ours, theirs = tiny_subject.model.state_dict(), arrived.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("chat", "chat_hash", "checkpoint", "components", "device"):
        assert getattr(arrived, name) == getattr(tiny_subject, name), name


def test_a_subject_arrives_on_the_workers_device(tiny_subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(base: object, device: str) -> object:
        asked.append(device)
        raise HarnessError("enough")

    monkeypatch.setattr("harness.model.subject.load_base", load)
    sent = pickle.dumps(tiny_subject)
    with pytest.raises(HarnessError, match="enough"), arriving_on("cuda:0"):
        pickle.loads(sent)
    with pytest.raises(HarnessError, match="enough"):
        pickle.loads(sent)
    assert asked == ["cuda:0", "cpu"]


def test_a_subject_of_a_relative_path_is_found_from_elsewhere(
    tiny_subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = Path(tiny_subject.base.path)
    tiny_subject.base = tiny_subject.base.model_copy(update={"path": f"./{folder.name}"})
    monkeypatch.chdir(folder.parent)
    sent = pickle.dumps(tiny_subject)
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(sent).base.path == str(folder)


def test_an_activation_set_travels_as_its_folder(tmp_path: Path) -> None:
    made = open_set(tiny_activations(tmp_path / "set", {"d": torch.ones(3, 2).numpy()}))
    arrived = pickle.loads(pickle.dumps(made))
    assert arrived.document_ids == ("d",)
    assert (arrived.document("d").values == 1).all()


def test_every_error_survives_pickling() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, HarnessError)]
    assert len(kinds) >= 9
    for kind in kinds:
        made = UnknownName("probe", "a", ["b"], hint="c") if kind is UnknownName else kind("a sentence")
        arrived = pickle.loads(pickle.dumps(made))
        assert (type(arrived), str(arrived), vars(arrived)) == (kind, str(made), vars(made))


def test_ray_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs Ray: pip install 'interp-harness\[ray\]'"):
        ray_executor.RayExecutor()


def test_rays_options_without_it_are_refused(tmp_path: Path) -> None:
    args = ["run", "--plugin", "rank1-lora", "--dry-run", "--db", str(tmp_path / "r.db"), "--ray-workers", "2"]
    done = CliRunner().invoke(cli, args)
    assert isinstance(done.exception, UsageError)
    assert "--executor ray" in str(done.exception)
