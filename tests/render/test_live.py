"""Progress on a terminal and in a pipe, and following a run of another process."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from harness.render import live
from harness.render.live import LiveDisplay
from harness.store.writer import Store


@dataclass
class Spent:
    n_sent: int = 0
    cost_usd: float = 0.0


def test_lines_without_a_terminal_say_items_rate_time_left_and_spend(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    stream, spending = io.StringIO(), Spent()
    with LiveDisplay(Console(file=stream, width=80), spending) as display:
        progress = display.begin("interpret/x", 3, 9)
        progress.start(100, "features")
        spending.n_sent, spending.cost_usd = 12, 0.034
        now[0] += 10
        progress.advance(1)
        now[0] += 10
        progress.advance(39)
        now[0] += 10
        progress.advance(60)
        display.end("interpret/x", "done", 30.0)
    out = stream.getvalue().splitlines()
    assert out[0] == "[3/9] interpret/x ..."
    # one item foretells nothing, and all of them leave nothing to foretell
    assert out[1] == "  interpret/x: 1 of 100 features, 10.0 s/feature, 12 LLM calls, $0.0340"
    assert out[2] == "  interpret/x: 40 of 100 features, 2.0 features/s, about 30 s left, 12 LLM calls, $0.0340"
    assert out[3] == "  interpret/x: 100 of 100 features, 3.3 features/s, 12 LLM calls, $0.0340"
    assert out[4] == "  done        interpret/x  30.0 s  (12 LLM calls, $0.0340 so far)"
    assert "\x1b" not in stream.getvalue()


def test_a_step_that_has_done_nothing_for_long_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with LiveDisplay(Console(file=stream, width=80), Spent()) as display:
        progress = display.begin("judge/x", 1, 1)
        progress.start(5, "latents")
        now[0] += 20
        progress.advance(0)  # as a step does that goes on where it was
    assert stream.getvalue().splitlines()[1] == "  judge/x: 0 of 5 latents"


def test_a_terminal_gets_a_bar_and_no_color_is_respected() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, no_color=True, width=100)
    with LiveDisplay(console, Spent(3, 0.5)) as display:
        progress = display.begin("train/x", 1, 2)
        progress.start(10, "steps")
        progress.advance(4)
        display._progress.refresh()
        display.end("train/x", "done", 1.0)
    out = stream.getvalue()
    assert "4/10" in out
    assert "3 LLM calls, $0.5000" in out
    assert "\x1b[32m" not in out


WRITER = """
import sys, time
from filelock import FileLock
sys.path.insert(0, sys.argv[2])
from tests.store import synthetic
from harness.store.writer import Store
with FileLock(sys.argv[1] + ".lock"), Store.open(sys.argv[1]) as store:
    run = store.begin_run(study="s", preset=None, seed=5, provenance=synthetic.PROVENANCE)
    step, _ = store.begin_step(run, 0, **synthetic.step_values("ablate/loo", "ablate"))
    for layer in range(6):
        store.write(step, synthetic.ablation("layer", 0.1, layer=layer))
        time.sleep(0.1)
    if sys.argv[3] == "die":
        import os; os._exit(9)
    store.finish_step(step, status="done", wall_s=1.5, output={})
    store.finish_run(run, status="done")
"""


def _watch(tmp_path: Path, ending: str) -> subprocess.CompletedProcess[str]:
    """`harness report --watch` in a process of its own, begun before the run that it follows."""
    database = tmp_path / "r.db"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "NO_COLOR": "1"}
    code = "import sys; from harness.cli import main; main(sys.argv[1:])"
    watcher = subprocess.Popen(
        [sys.executable, "-c", code, "report", "components", "--watch", "--db", str(database)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    subprocess.run([sys.executable, "-c", textwrap.dedent(WRITER), str(database), str(root), ending], check=False)
    out, err = watcher.communicate(timeout=60)
    return subprocess.CompletedProcess([], watcher.returncode, out, err)


def test_watch_follows_a_run_of_another_process_and_ends_with_its_tables(tmp_path: Path) -> None:
    done = _watch(tmp_path, "finish")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "seed 5" in lines[0]
    assert any(line.startswith("done        ablate/loo  (6 records stored, 1.5 s") for line in lines)
    assert "Components switched off" in done.stdout
    assert "\x1b" not in done.stdout


def test_watch_says_that_the_run_was_killed(tmp_path: Path) -> None:
    done = _watch(tmp_path, "die")
    assert done.returncode == 1
    assert "no process is writing this run any more" in done.stderr


def test_watch_says_why_a_run_failed(filled: Path, synthetic: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with Store.open(path) as store:
        run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
        store.finish_run(run, status="failed", reason="[red]no memory[/red]")
    code = "import sys; from harness.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "report", "--watch", "--db", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "the run is failed: [red]no memory[/red]" in done.stderr
