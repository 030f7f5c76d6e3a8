"""The runner does the steps that are not done, stores every record as it comes, and is the only writer of results.

An interrupted step keeps its folder and its stored items, and continues from them. One run at a time writes to a
database and to an artefact folder; a second one waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from harness.contract.context import RunContext
from harness.contract.executors import Executor, LocalExecutor
from harness.contract.hooks import StepFinished, StepProgressed, StepStarted
from harness.contract.progress import Progress
from harness.contract.session import Session
from harness.contract.settings import EvaluateConfig
from harness.errors import HarnessError, ResultsError, StorageError, Waiting
from harness.records import Record
from harness.store.journal import Journal
from harness.store.writer import Store
from harness.study.artefacts import ARTEFACTS, damage, folder_name, inventory, portable, read_outputs
from harness.study.check import check_device, check_plan
from harness.study.display import Display, Quiet, RunSummary
from harness.study.examples import check_examples
from harness.study.machine import Machine
from harness.study.manager import Manager
from harness.study.provenance import Provenance, collect
from harness.study.state import FreeingGPUs, RunState, prepare_folder
from harness.study.step import Plan, Step
from harness.study.steps import kind_of
from harness.study.worker_process import (
    Job,
    Outcome,
    PollingProgress,
    ProgressMessage,
    WorkerProcess,
    jobs_for,
    open_worker,
)

R = TypeVar("R", bound=Record)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _RunningStep:
    """A step in progress.

    Attributes:
        position: in the plan.
        step: the step.
        step_id: its row in the database.
        run: what it got.
        began: start on the monotonic clock, in seconds.
    """

    position: int
    step: Step
    step_id: int
    run: RunContext
    began: float


class Runner:
    """Runs a plan against a database and an artefact folder."""

    def __init__(
        self,
        plan: Plan,
        manager: Manager,
        store: Store,
        artifacts: Path,
        *,
        device: str = "cpu",
        force: bool = False,
        display: Display | None = None,
        provenance: Provenance | None = None,
        llm: Session | None = None,
        accept_failed: bool = False,
        executor: Executor | None = None,
        jobs: int | None = 1,
        seeds: str | None = None,
        fresh: set[str] | None = None,
    ) -> None:
        """Nothing runs yet.

        Args:
            plan: what to do.
            manager: the loaded plugins.
            store: the database.
            artifacts: folder for checkpoints, activations and dictionaries.
            device: torch device, or `auto`.
            force: do every step again, also those that are done.
            display: where a person watches.
            provenance: of the run; collected here where it is not given.
            llm: budget of the run's LLM calls.
            accept_failed: a step is done though LLM calls failed that may succeed when they are asked again.
            executor: where maps over shards run; None is this process.
            jobs: 2 for a worker process that does steps beside this one; None is what suits the plan and machine.
            seeds: all seeds of the command, where it has several.
            fresh: keys of the steps that the command did; `force` does none of them again. The run adds its own.
        """
        self.plan, self.manager, self.store, self.artifacts = plan, manager, store, artifacts.resolve()
        store.accept(manager.records(load=False))  # of the plan's plugins: planning has loaded them
        self.force, self.display = force, display or Quiet()
        self.llm, self.accept_failed = llm or Session(), accept_failed
        self._wanted_device, self._device = device, None if device == "auto" else device
        self.provenance = provenance or collect()
        self.folders = {s.name: self.artifacts / folder_name(s) for s in plan.steps}
        self.state = RunState(plan, manager, self.folders, self._stored)
        self._jobs, self._seeds, self._fresh = jobs, seeds, set() if fresh is None else fresh
        self._worker: WorkerProcess | None = None
        self._in_worker: _RunningStep | None = None
        self._failed_in_worker: set[str] = set()
        self._damaged: dict[str, str] = {}
        self._compared: set[str] = set()
        self._noted: set[str] = set()
        self._waiting: dict[int, Step] = {}
        self._captured_by: dict[str, str] = {}
        self._ended: dict[str, str] = {}
        self.executor: Executor = FreeingGPUs(executor, self.state) if executor else LocalExecutor()

    def check(self, *, dry_run: bool = False) -> None:
        """Find what would fail after minutes of work: a bad row of data, and what `harness.study.check` looks at.

        Args:
            dry_run: only a plan is wanted: the data need not be there, and no device is needed.
        """
        if not dry_run:
            self._compare_inputs()
        pending = [self.plan.step(name) for name in self.pending()]
        asks_llm = any(self._asks_llm(step) for step in pending)
        check_plan(self.plan, pending, self.store, self.llm, asks_llm=asks_llm, dry_run=dry_run)
        if pending and not dry_run:
            check_examples(self.plan, self.pending(), self.state.training_traces())
            check_device(self.plan, pending, self.device())

    def planned(self) -> set[str]:
        """Keys of the steps that would run; nothing but the plan is looked at.

        Raises:
            HarnessError: see `check`.
        """
        self.check(dry_run=True)
        return {self.plan.step(name).key for name in self.pending()}

    def machine(self) -> Machine:
        """What the steps would run on, measured now. Without a GPU torch, whose import takes seconds, is left alone."""
        without = self._wanted_device == "auto" and not Path("/dev/nvidiactl").exists()
        device = "cpu" if without else self.device()
        jobs = self._jobs if self._jobs is not None else jobs_for(self.plan, device)
        return Machine.measured(device, self.plan.study.model.dtype, jobs)

    def pending(self) -> list[str]:
        """Names of the steps that would run."""
        return [s.name for s in self.plan.steps if self._outputs_before(s) is None]

    def run(self) -> RunSummary:
        """Do the steps that are not done.

        Raises:
            HarnessError: a step failed that most of the others need; what it stored stays, and the next run continues
                from there. Without another step the run goes on (`RunSummary.failed`).
            KeyboardInterrupt: likewise.
        """
        began = time.monotonic()
        with self.store.locked(self.artifacts, self.display.note):
            run_id = self.store.begin_run(
                study=self.plan.name,
                preset=self.plan.preset,
                seed=self.plan.seed,
                seeds=self._seeds,
                device=self._wanted_device,
                provenance=self.provenance,
                model=self.plan.study.model.path,
                paper_benchmarks=self.plan.study.paper_benchmarks,
                controls=self.plan.controls,
                settings=self.plan.study.resolved(),
            )
            status, reason = "failed", "ended unexpectedly"
            unfinished: dict[str, str] = {}
            statuses = self._ended = {}
            try:
                self._damaged.clear()  # while this run waited for the lock, another one may have done the step again
                self._compare_inputs()
                self._open_worker()
                self._waiting = dict(enumerate(self.plan.steps))
                while self._waiting or self._in_worker is not None:
                    position = self._next()
                    if position is None:  # all that is left needs the step that the worker process is doing
                        self._poll_worker(run_id, block=True)
                        continue
                    step = self._waiting.pop(position)
                    held = next((name for name in step.inputs if name in unfinished), None)
                    if held is not None:
                        unfinished[step.name] = f"needs {held}"
                        statuses[step.name] = "held"
                        self.display.end(step.name, "held", 0.0)
                        continue
                    ended, why = self._step(run_id, position, step)
                    statuses[step.name] = ended
                    if ended in ("incomplete", "waiting", "failed"):
                        unfinished[step.name] = why
                ended_as = [s for s in ("failed", "waiting") if s in statuses.values()]
                status = ended_as[0] if ended_as else "incomplete" if unfinished else "done"
                reason = "; ".join(f"{name}: {why}" for name, why in unfinished.items())
            except KeyboardInterrupt:
                status, reason = "interrupted", "interrupted by the user"
                raise
            except HarnessError as error:
                reason = str(error)
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise
            finally:
                self._close_worker()
                self.state.engines.close()
                self.store.finish_run(run_id, status=status, reason=reason or None)
        wall_s = time.monotonic() - began
        ends = list(statuses.values())
        failed = {name: why for name, why in unfinished.items() if statuses[name] == "failed"}
        left = {name: why for name, why in unfinished.items() if name not in failed}
        return RunSummary(run_id, len(ends), ends.count("reused"), wall_s, left, "waiting" in ends, failed)

    def _next(self) -> int | None:
        """The first step whose inputs, and the step that makes its pass, have all ended."""
        return next((p for p, s in self._waiting.items() if all(n in self._ended for n in self._awaited(s))), None)

    def _awaited(self, step: Step) -> Iterator[str]:
        """The steps that must have ended before this one begins."""
        yield from step.inputs
        if step.name in self._captured_by:
            yield self._captured_by[step.name]

    def _find_companions(self, run_id: int, step: Step) -> None:
        """Have a step that begins make its pass for all pending steps that need the same one.

        They are stored as interrupted, so that they go on from what it captured, in this run or the next.
        """
        kind = kind_of(step)
        shared = kind.shared_pass(step) if kind.shared_pass else None
        if shared is None or step.name in self.state.companions or step.name in self._captured_by:
            return
        companions = {
            position: other
            for position, other in self._waiting.items()
            if kind_of(other) is kind and kind.shared_pass and kind.shared_pass(other) == shared
            and other.name not in self._captured_by and self._outputs_before(other) is None
        }  # fmt: skip
        for position, other in companions.items():
            step_id, _, _ = self._take_up(run_id, position, other)
            self.store.finish_step(step_id, status="interrupted", reason=f"its pass is made by {step.name}", wall_s=0.0)
            self._captured_by[other.name] = step.name
        self.state.companions[step.name] = tuple(other.name for other in companions.values())

    # the worker process

    def _open_worker(self) -> None:
        pending = [self.plan.step(name) for name in self.pending()]
        if pending and not isinstance(self.executor, FreeingGPUs):
            jobs = self._jobs if self._jobs is not None else jobs_for(self.plan, self.device())
            able = [step for step in pending if self._suits_worker(step)]
            self._worker = open_worker(self.plan, able, self.manager, self.folders, jobs=jobs, device=self.device())

    def _suits_worker(self, step: Step) -> bool:
        reads_database = step.plugin is not None and self.state.registration(step).reads
        able = kind_of(step).in_worker and not reads_database and not self._asks_llm(step)
        return able and step.name not in self._failed_in_worker

    def _start_in_worker(self, run_id: int) -> None:
        """Give an idle worker process the last step that can begin: this process does the first ones."""
        if self._worker is None or not self._worker.usable or self._in_worker is not None:
            return
        for position, step in reversed(self._waiting.items()):
            ready = all(self._ended.get(name) in ("done", "reused") for name in step.inputs)
            ready = ready and all(name in self._ended for name in self._awaited(step))
            if not ready or not self._suits_worker(step):
                continue
            if self._outputs_before(step) is not None:
                continue
            del self._waiting[position]
            self._in_worker = running = self._begin(run_id, position, step)
            outputs = {name: self.state.outputs[name] for name in step.inputs}
            companions = self.state.companions.get(step.name, ())
            self._worker.start(Job(step.name, running.run.done, outputs, companions))
            return

    def _poll_worker(self, run_id: int, *, block: bool = False) -> None:
        """Store records received from the worker process; assign its next step."""
        running = self._in_worker
        if self._worker is not None and running is not None:
            for message in self._worker.poll(block=block):
                if isinstance(message, ProgressMessage):
                    message.repeat_on(running.run.progress)
                elif not isinstance(message, Outcome):
                    self._store_record(running, message)
                elif message.failure is None:
                    self._in_worker = None
                    self._ended[running.step.name] = "done"
                    self._finish(running, "done", "", message.wall_s)
                else:
                    self._in_worker = None
                    self._put_back(running, message)
        self._start_in_worker(run_id)

    def _put_back(self, running: _RunningStep, outcome: Outcome) -> None:
        """The step failed in the worker process: this process will do it again."""
        _log.warning("%s: %s; it is done again in the first process", running.step.name, outcome.failure)
        self._finish(running, "interrupted", outcome.failure or "", outcome.wall_s)
        self._failed_in_worker.add(running.step.name)
        self._waiting = dict(sorted({**self._waiting, running.position: running.step}.items()))

    def _close_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()
        if self._in_worker is not None:
            running, self._in_worker = self._in_worker, None
            reason = "the run ended before it"
            self._finish(running, "interrupted", reason, time.monotonic() - running.began)

    # steps

    def _step(self, run_id: int, position: int, step: Step) -> tuple[str, str]:
        """Run or reuse one step; returns how it ended, and why it is not done."""
        outputs = self._outputs_before(step)
        if outputs is not None:
            self.state.outputs[step.name] = outputs
            self.store.link_reused(run_id, self._step_id(step), position)
            self.display.end(step.name, "reused", 0.0)
            return "reused", ""
        running = self._begin(run_id, position, step)
        run = replace(running.run, progress=PollingProgress(running.run.progress, lambda: self._poll_worker(run_id)))
        self._start_in_worker(run_id)
        status, reason = "failed", "ended unexpectedly"
        try:
            self.manager.run_step(step.name, step.stage, lambda: self._store_records(running, run))
            status, reason = self._complete(run)
        except Waiting as waiting:
            status, reason = "waiting", str(waiting)
        except KeyboardInterrupt:
            status, reason = "interrupted", "interrupted by the user"
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
            if not self._goes_on_without(step, error):
                raise
            _log.debug("%s failed", step.name, exc_info=True)
        finally:
            self._finish(running, status, reason, time.monotonic() - running.began)
        return status, reason

    def _goes_on_without(self, failed: Step, error: Exception) -> bool:
        """Whether the run goes on: at least half of what is left needs the failed step in no way, and can be stored."""
        if isinstance(error, ResultsError | StorageError):
            return False
        needing = {failed.name}
        for step in self.plan.steps:
            needing |= {step.name} if needing & {*step.inputs} else set()
        left = [step.name for step in self._waiting.values()]
        left += [self._in_worker.step.name] if self._in_worker else []
        n_free = sum(name not in needing for name in left)
        return 2 * n_free >= len(left) > 0 or (not left and "failed" in self._ended.values())

    def _begin(self, run_id: int, position: int, step: Step) -> _RunningStep:
        step_id, folder, done = self._take_up(run_id, position, step)
        self._find_companions(run_id, step)
        progress = self.display.begin(step.name, position + 1, len(self.plan.steps))
        run = self._context(step, step_id, folder, done, progress)
        self.manager.notify(self.manager.pm.hook.harness_step_started, StepStarted(step.name, step.key, len(done)))
        return _RunningStep(position, step, step_id, run, time.monotonic())

    def _take_up(self, run_id: int, position: int, step: Step) -> tuple[int, Path, frozenset[str]]:
        """A step's row, its folder, and the items that an interrupted attempt stored."""
        stale = self.store.find_step(step.key)
        forced = self.force and step.name not in self._captured_by
        redo = stale is not None and (forced or stale.status == "done")
        # LLM calls are in the journal: a step that asks one starts again, replays them, and repeats those that failed.
        again = redo or (stale is not None and self._asks_llm(step))
        step_id, done = self.store.begin_step(
            run_id, position, **self._describe(step), provenance=self.provenance, restart=again
        )
        return step_id, prepare_folder(self.folders[step.name], keep=bool(stale) and not redo), done

    def _finish(self, running: _RunningStep, status: str, reason: str, wall_s: float) -> None:
        step = running.step
        outputs = self.state.outputs.get(step.name, {}) if status == "done" else {}
        output = portable(outputs, self.artifacts, inventory(self.folders[step.name], outputs))
        if status == "done":
            self._fresh.add(step.key)
        self.store.finish_step(running.step_id, status=status, reason=reason or None, wall_s=wall_s, output=output)
        self.display.end(step.name, status, wall_s)
        finished = StepFinished(step.name, step.key, status, wall_s, reason or None)
        self.manager.notify(self.manager.pm.hook.harness_step_finished, finished)

    def _complete(self, run: RunContext) -> tuple[str, str]:
        """Status and reason of a step that ran to its end: incomplete if LLM calls failed that may succeed later."""
        n = len(run.calls.unanswered) if isinstance(run.calls, Journal) else 0
        if not n or self.accept_failed:
            return "done", ""
        return "incomplete", f"{n} LLM call{'s' if n > 1 else ''} failed; the next run asks again (or --accept-failed)"

    def _asks_llm(self, step: Step) -> bool:
        return kind_of(step).asks_llm or (step.plugin is not None and self.state.registration(step).asks_llm)

    def _store_records(self, running: _RunningStep, run: RunContext) -> int:
        stored = 0
        self.state.outputs.setdefault(running.step.name, {})
        for record in kind_of(running.step).execute(running.step, self.state, run):
            self._store_record(running, record)
            stored += 1
        return stored

    def _store_record(self, running: _RunningStep, record: Record) -> None:
        self.store.write(running.step_id, record)
        kind = type(record).__name__
        if kind in ARTEFACTS:
            self.state.outputs.setdefault(running.step.name, {})[kind] = record
        event = StepProgressed(running.step.name, str(getattr(record, "item", "")))
        self.manager.notify(self.manager.pm.hook.harness_step_progressed, event)

    def _context(self, step: Step, step_id: int, folder: Path, done: frozenset[str], progress: Progress) -> RunContext:
        return RunContext(
            out_dir=folder,
            seed=step.seed,
            device=self.device(),
            done=done,
            progress=progress,
            calls=self.store.calls(step_id),
            provider=self.state.provider,
            roles=frozenset(self.plan.llms),
            evaluate=self.plan.study.settings(EvaluateConfig),
            held_out=self.state.held_out,
            engines=self.state.engines,
            llm=self.llm,
            executor=self.executor,
        )

    def device(self) -> str:
        """The torch device; `auto` is the first GPU, else the CPU."""
        if self._device is None:
            import torch

            self._device = "cuda:0" if torch.cuda.is_available() else "cpu"
        return self._device

    def _device_of(self, step: Step) -> str:
        """Where a step's passes run, for the record."""
        mapped = kind_of(step).on_executor and self.executor.on_gpus
        return "cuda (workers)" if mapped else self.device()

    def _compare_inputs(self) -> None:
        """Compare the files that pending steps are going to read with what was written, each once in a run.

        A step whose files are damaged is pending, too, and so its own inputs are compared: hence from the last step on.
        """
        read: set[str] = set()
        for step in reversed(self.plan.steps):
            if self._outputs_before(step, contents=step.name in read - self._compared) is None:
                read.update(step.inputs)
            elif step.name in read:
                self._compared.add(step.name)

    def _outputs_before(self, step: Step, *, contents: bool = False) -> dict[str, Any] | None:
        """A finished step's artefact records; None where it must run: not done, or its files are missing or damaged.

        Args:
            step: the step.
            contents: compare the files' contents, not only their sizes.
        """
        forced = self.force and step.key not in self._fresh
        row = None if forced else self.store.find_step(step.key)
        if row is None or row.status != "done" or step.name in self._damaged:
            return None
        output = row.output or {}
        why = damage(output, self.folders[step.name], contents=contents)
        if why is None:
            return read_outputs(output, self.artifacts)
        self._damaged[step.name] = why
        if step.name not in self._noted:
            self.display.note(f"{step.name}: {why}; the step runs again")
            self._noted.add(step.name)
        return None

    def _describe(self, step: Step) -> dict[str, Any]:
        return {
            "key": step.key,
            "recipe": step.recipe,
            "name": step.name,
            "stage": step.stage,
            "kind": step.kind,
            "plugin": step.plugin,
            "plugin_version": self.state.registration(step).version if step.plugin else None,
            "config": step.config.model_dump(mode="json"),
            "inputs": list(step.inputs),
            "seed": step.seed,
            "device": self._device_of(step),
            "artifact": self.folders[step.name].name,
        }

    def _step_id(self, step: Step) -> int:
        row = self.store.find_step(step.key)
        if row is None:
            raise ResultsError(f"{step.name} is not in the database any more; run again")
        return row.id

    def _stored(self, step_name: str, record_class: type[R]) -> list[R]:
        return self.store.records(self._step_id(self.plan.step(step_name)), record_class)
