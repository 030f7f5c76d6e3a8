"""Workers of Ray behave as the loop does: order, numbers, errors. Those that die are replaced."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray_tools import (
    Folder,
    Unmakeable,
    change,
    die_always,
    die_once,
    fail,
    square,
    wait_for_another,
    worker_processes,
)

from harness.contract.progress import SilentProgress
from harness.errors import HarnessError, ModelError, UnknownName
from harness.study.ray import RayExecutor

pytestmark = pytest.mark.timeout(600)
QUIET = SilentProgress()


class Told:
    """What a progress was told."""

    n = 0

    def start(self, total: int | None, unit: str) -> None:
        raise AssertionError("whoever opens the map starts the bar")

    def advance(self, n: int = 1) -> None:
        self.n += n


def run(executor: Any, folder: Path, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
    with executor.open(Folder(folder)) as workers:
        return list(workers.map(function, items, QUIET))


def test_results_come_in_the_items_order_from_both_workers(executor: RayExecutor, tmp_path: Path) -> None:
    assert run(executor, tmp_path, wait_for_another, range(20)) == [(i, i) for i in range(20)]
    assert len(list(tmp_path.glob("made-*"))) == 2, "each worker makes the tool once"


def test_progress_counts_what_workers_did_and_threads_are_the_drivers(executor: RayExecutor, tmp_path: Path) -> None:
    told = Told()
    with executor.open(Folder(tmp_path)) as workers:
        assert workers.n == 2
        results = dict(workers.map(square, range(10), told))
    assert {i: r[0] for i, r in results.items()} == {i: i * i for i in range(10)}
    assert told.n == sum(range(10))
    assert {r[2] for r in results.values()} == {torch.get_num_threads()}
    assert os.getpid() not in {r[1] for r in results.values()}


def test_workers_stay_for_the_next_tool(executor: RayExecutor, tmp_path: Path) -> None:
    run(executor, tmp_path, square, range(4))
    before = set(worker_processes(os.getpid()))
    run(executor, tmp_path, square, range(4))
    assert set(worker_processes(os.getpid())) == before
    assert len(list(tmp_path.glob("made-*"))) == 4


def test_few_items_are_under_way_at_a_time(executor: RayExecutor, tmp_path: Path) -> None:
    """So that the memory of a map does not grow with its items."""
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for i in range(40):
            read += 1
            yield i

    with executor.open(Folder(tmp_path)) as workers:
        for given, _ in enumerate(workers.map(square, items(), QUIET)):
            assert read - given <= 4


def test_arrays_arrive_whole(executor: RayExecutor, tmp_path: Path) -> None:
    sent = [np.full((1000, 500), i, dtype=np.float32) for i in range(6)]
    for item, result in run(executor, tmp_path, change, sent):
        assert np.array_equal(result, item + 1)


def test_what_a_killed_worker_held_is_done_by_another(
    executor: RayExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert run(executor, tmp_path, die_once, range(12)) == [(i, i) for i in range(12)]
    assert (tmp_path / "killed").exists()
    assert caplog.text.count("a worker died") == 1


def test_an_item_that_kills_every_worker_is_given_up(executor: RayExecutor, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"3 workers died one after the other on the same work.*out of memory"):
        run(executor, tmp_path, die_always, range(12))
    assert len(list(tmp_path.glob("killed-*"))) == 3
    assert run(executor, tmp_path, square, range(2))[1][1][0] == 1, "the executor is as good as before"


def test_errors_of_the_work_are_raised_at_once_as_they_are(executor: RayExecutor, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^the model is not one$"):
        run(executor, tmp_path, fail, ["harness"])
    with pytest.raises(UnknownName, match="no benchmark 'mmth'") as unknown:
        run(executor, tmp_path, fail, ["name"])
    assert (unknown.value.name, unknown.value.nearest, unknown.value.exit_code) == ("mmth", ("math",), 2)
    with pytest.raises(HarnessError, match=r"^TakesTwo: this and that$"):
        run(executor, tmp_path, fail, ["other"])
    assert len(list(tmp_path.glob("tried-*"))) == 3, "none was tried again"


def test_a_tool_that_cannot_be_made_or_sent_says_why(executor: RayExecutor) -> None:
    with pytest.raises(ModelError, match="no model folder /nowhere"), executor.open(Unmakeable()) as workers:
        list(workers.map(square, [1], QUIET))
    with pytest.raises(HarnessError, match="generator cannot be sent to workers"), executor.open(i for i in ()):
        pass


def test_it_listens_on_loopback_only(executor: RayExecutor, tmp_path: Path) -> None:
    run(executor, tmp_path, square, range(2))
    sockets = _listening(os.getpid())
    assert len(sockets) > 3
    assert {address for address in sockets if not address.startswith(("127.", "::1", "::ffff:127."))} == set()


def _listening(parent: int) -> list[str]:
    """Addresses at which this process and those below it listen, from the kernel's tables."""
    import ipaddress

    from ray_tools import below

    inodes = set()
    for pid in (parent, *below(parent)):
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for table, width in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                raw = bytes.fromhex(fields[1].partition(":")[0])
                raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
                address = ipaddress.ip_address(raw)
                assert len(raw) * 2 == width
                mapped = getattr(address, "ipv4_mapped", None)
                found.append(str(mapped or address))
    return found


def test_nobody_at_an_address_is_one_sentence() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # taken, and nobody listens
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        with pytest.raises(HarnessError, match=rf"^cannot reach a Ray cluster at {address}: .*refused"):
            _ = RayExecutor(address=address).on_gpus
