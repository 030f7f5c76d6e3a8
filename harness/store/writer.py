"""The only writer of results. The runner owns it; plugins return records and never see it.

Each record is one transaction, so a run that is killed keeps what it had. Writing an item again replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from sqlalchemy import Connection, Engine, delete, func, insert, inspect, select, union_all, update
from sqlalchemy.exc import IntegrityError

from harness.errors import ResultsError
from harness.paper.claims import paper
from harness.records import Record
from harness.store import schema
from harness.store.database import (
    check_places,
    checkpoint,
    database_url,
    now,
    open_database,
    sqlite_path,
    transaction,
    translate_db_errors,
)
from harness.store.journal import Journal
from harness.store.lock import run_lock
from harness.store.plugin_tables import bring_up_to_date
from harness.store.read import records_of
from harness.store.schema import table_of

R = TypeVar("R", bound=Record)


class ProvenanceLike(Protocol):
    """The commit, versions and command line of a run, as `harness.study.provenance` collects them."""

    @property
    def git_sha(self) -> str | None:
        """Commit."""

    @property
    def git_dirty(self) -> bool | None:
        """Whether tracked files differ from it."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Installed versions."""

    @property
    def argv(self) -> Sequence[str]:
        """Command line."""


@dataclass(frozen=True)
class StepRow:
    """A stored step.

    Attributes:
        id: its row.
        key: hash of everything it depends on.
        status: `running`, `done`, `failed` or `interrupted`; a killed one is `running` until the next begins.
        reason: why it is not done.
        output: its artefact records by type name, as the runner gave them; None before it is done.
    """

    id: int
    key: str
    status: str
    reason: str | None
    output: dict[str, Any] | None


class Store:
    """Writes runs, steps, records and LLM calls to one database."""

    def __init__(self, engine: Engine, name: str | None = None) -> None:
        """Wrap an engine from `open_database`; `name` is what error messages call it."""
        self.engine = engine
        self._plugin_records: tuple[type[Record], ...] = ()
        self._up_to_date: set[type[Record]] = set()
        self.name = name or engine.url.render_as_string(hide_password=True)

    @classmethod
    def open(cls, target: str | Path) -> Self:
        """Open (create, upgrade) the database at a path or URL.

        Raises:
            ResultsError, StorageError: see `open_database`.
        """
        name = database_url(target) if "://" in str(target) else str(target)
        return cls(open_database(target), name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @property
    def path(self) -> Path | None:
        """The SQLite file; None for other databases."""
        return sqlite_path(self.engine.url)

    def accept(self, record_classes: Iterable[type[Record]]) -> None:
        """Store records of these classes, too: those that plugins bring (`Manager.records`)."""
        self._plugin_records = tuple(record_classes)

    # runs

    @contextmanager
    def locked(self, artifacts: Path, waiting: Callable[[str], None]) -> Iterator[None]:
        """Be the only one that writes to this database and to the artefact folder; see `run_lock`.

        Runs and steps that are still `running` then are those of killed processes; they become `interrupted`.
        """
        unlocked = self.engine
        with run_lock(unlocked, self.name, artifacts, waiting) as self.engine:
            try:
                self._mark_killed()
                yield
            finally:
                self.engine = unlocked

    def _mark_killed(self) -> None:
        ended = {
            "status": "interrupted",
            "reason": "its process was killed, or the machine went down",
        }
        with self._transaction() as connection:
            for table in (schema.StudyRun, schema.Step):
                connection.execute(update(table).where(table.status == "running").values(**ended))

    def begin_run(
        self,
        *,
        study: str,
        preset: str | None,
        seed: int,
        provenance: ProvenanceLike,
        device: str | None = None,
        model: str | None = None,
        paper_benchmarks: Mapping[str, str] | None = None,
        controls: Mapping[str, str] | None = None,
        seeds: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> int:
        """Store that a run begins; returns its id.

        Args:
            study: name of the study.
            preset: its preset.
            seed: of the run.
            provenance: commit, versions and command line.
            device: as asked for, e.g. `auto`.
            model: the base model, in words.
            seeds: all seeds of the command, where it has several.
            paper_benchmarks: our benchmark -> the paper's (see `harness.paper.claims`), for the column beside ours.
            controls: source of features -> its control.
            settings: of the study, as resolved.
        """
        values = {
            "study": study,
            "preset": preset,
            "seed": seed,
            "seeds": seeds,
            "model": model,
            "device": device,
            "argv": " ".join(provenance.argv),
            "started_at": now(),
            "status": "running",
            "git_sha": provenance.git_sha,
            "git_dirty": provenance.git_dirty,
            "versions_json": dict(provenance.versions),
            "paper_names_json": dict(paper_benchmarks or {}),
            "controls_json": dict(controls or {}),
            "settings_json": dict(settings or {}),
        }
        self._import_missing_claims()
        with self._transaction() as connection:
            return _inserted(connection, schema.StudyRun, values)

    def finish_run(self, run_id: int, *, status: str, reason: str | None = None) -> None:
        """Store that a run ended as `done`, `failed` or `interrupted`, and why; a step that was about to begin, too."""
        with self._transaction() as connection:
            changed = update(schema.StudyRun).where(schema.StudyRun.id == run_id)
            connection.execute(changed.values(status=status, reason=reason, finished_at=now()))
            begun = update(schema.Step).where(schema.Step.status == "running")
            connection.execute(begun.values(status="interrupted", reason="the run ended before it"))
        with translate_db_errors(self.name):
            checkpoint(self.engine)

    # steps

    def find_step(self, key: str) -> StepRow | None:
        """The step with this key, whatever its status."""
        check_places(self.engine)  # else a new connection would make a new, empty file
        step = schema.Step
        columns = (step.id, step.key, step.status, step.reason, step.output_json)
        with translate_db_errors(self.name), self.engine.connect() as connection:
            row = connection.execute(select(*columns).where(step.key == key)).first()
        return StepRow(*row) if row else None

    def begin_step(
        self,
        run_id: int,
        position: int,
        *,
        key: str,
        name: str,
        stage: str,
        kind: str,
        plugin: str | None,
        plugin_version: str | None,
        config: Mapping[str, Any],
        inputs: Sequence[Any],
        seed: int,
        provenance: ProvenanceLike,
        device: str | None = None,
        engine: str | None = None,
        artifact: str | None = None,
        recipe: str | None = None,
        restart: bool = False,
    ) -> tuple[int, frozenset[str]]:
        """Store that a step begins; an attempt that did not finish is taken up again.

        Args:
            run_id: the run.
            position: of the step within it.
            key: hash of everything that the result depends on.
            name: e.g. `ablate/leave-one-out`.
            stage: that it belongs to.
            kind: what is done; a stage may have several, e.g. `judge` after `learn`.
            plugin: who does it.
            plugin_version: of it.
            config: its settings.
            inputs: names of the steps it reads.
            seed: of the step.
            provenance: commit of this attempt.
            device: torch device.
            engine: what computes: backend, version and dtype.
            artifact: its folder, relative to the artefact folder.
            recipe: the key without the seed.
            restart: forget what earlier attempts stored, also that of a finished one.

        Returns:
            The step's id, and the items that are already stored.

        Raises:
            ResultsError: the step is done already and `restart` is not set.
        """
        values = {
            "key": key, "recipe": recipe, "name": name, "stage": stage, "kind": kind, "plugin": plugin,
            "plugin_version": plugin_version,
            "config_json": dict(config), "inputs_json": list(inputs), "seed": seed, "device": device, "engine": engine,
            "git_sha": provenance.git_sha, "git_dirty": provenance.git_dirty, "artifact": artifact,
            "status": "running", "reason": None, "output_json": None, "started_at": now(), "finished_at": None,
        }  # fmt: skip
        step = schema.Step
        with self._transaction() as connection:
            earlier = connection.execute(select(step.id, step.status).where(step.key == key)).first()
            if earlier is None:
                step_id = _inserted(connection, step, values)
            else:
                step_id = int(earlier.id)
                if earlier.status == "done" and not restart:
                    raise ResultsError(f"{name} is done already (step {step_id}); use restart to do it again")
                if restart:
                    for table in self._record_tables(connection):
                        connection.execute(delete(table).where(table.step_id == step_id))
                if earlier.status == "done":
                    values["wall_s"] = None
                connection.execute(update(step).where(step.id == step_id).values(**values))
            _link(connection, run_id, step_id, position, reused=False)
            items = (select(table.item).where(table.step_id == step_id) for table in self._record_tables(connection))
            return step_id, frozenset(connection.execute(union_all(*items)).scalars())

    def finish_step(
        self,
        step_id: int,
        *,
        status: str,
        reason: str | None = None,
        wall_s: float | None = None,
        output: Mapping[str, Any] | None = None,
    ) -> None:
        """Store that a step ended as `done`, `failed` or `interrupted`.

        Args:
            step_id: the step.
            status: how it ended.
            reason: why it is not `done`.
            wall_s: wall time of this attempt in seconds; added to that of the attempts which it takes up again.
            output: its artefact records by type name, JSON-able.
        """
        values: dict[str, Any] = {
            "status": status, "reason": reason, "output_json": dict(output) if output else None, "finished_at": now(),
        }  # fmt: skip
        step = schema.Step
        if wall_s is not None:
            values["wall_s"] = func.coalesce(step.wall_s, 0.0) + wall_s
        with self._transaction() as connection:
            connection.execute(update(step).where(step.id == step_id).values(**values))

    def link_reused(self, run_id: int, step_id: int, position: int) -> None:
        """Store that a run uses a step that was done before."""
        with self._transaction() as connection:
            _link(connection, run_id, step_id, position, reused=True)

    # records

    def write(self, step_id: int, record: Record) -> None:
        """Store one record in a transaction of its own; the same item again replaces it.

        Raises:
            ResultsError: two different things of the step have the same item name, or the database is locked.
            StorageError: the disk is full or the file is read-only.
            TypeError: not a record of the harness, or of a plugin that offers it (hook `harness_records`).
        """
        self.write_many(step_id, [record])

    def write_many(self, step_id: int, many: Iterable[Record]) -> None:
        """Store records, all or none."""
        with self._transaction() as connection:
            of_plugins = set()
            for record in many:
                if not schema.is_built_in(type(record)):
                    of_plugins.add(type(record))
                    self._prepare(connection, type(record))
                _write(connection, step_id, record)
        self._up_to_date |= of_plugins

    def _prepare(self, connection: Connection, record_class: type[Record]) -> None:
        """Make the table of a plugin's record fit its class, the first time that this store writes one."""
        if record_class not in self._plugin_records:
            raise TypeError(
                f"{record_class.__name__} is not a record that the runner stores; a plugin offers its own with the "
                "hook harness_records"
            )
        if record_class not in self._up_to_date:
            bring_up_to_date(connection, record_class)

    def records(self, step_id: int, record_class: type[R]) -> list[R]:
        """A step's records of one class, in the order in which they were stored."""
        with translate_db_errors(self.name), self.engine.connect() as connection:
            return records_of(connection, record_class, step_id=step_id)

    # LLM calls and claims

    def calls(self, step_id: int | None) -> Journal:
        """The journal of LLM calls; calls stored through it carry the step."""
        return Journal(self.engine, self.name, step_id)

    def has_calls(self, provider: str) -> bool:
        """Whether a call of the provider is stored."""
        call = schema.LLMCall
        with self.engine.connect() as connection:
            return connection.execute(select(call.id).where(call.provider == provider).limit(1)).first() is not None

    def import_claims(self, claims: Iterable[Mapping[str, Any]]) -> None:
        """Replace the paper's numbers; keys as in `harness.paper.claims.Claim`."""
        rows = [dict(claim) for claim in claims]
        with self._transaction() as connection:
            connection.execute(delete(schema.PaperClaim))
            if rows:
                connection.execute(insert(schema.PaperClaim), rows)

    def _import_missing_claims(self) -> None:
        claims = [claim.model_dump() for claim in paper().numbers]
        table = schema.PaperClaim
        with translate_db_errors(self.name), self.engine.connect() as connection:
            rows = connection.execute(select(*(getattr(table, name) for name in claims[0])).order_by(table.id))
            stored = [dict(row) for row in rows.mappings()]
        if stored != claims:
            self.import_claims(claims)

    def _record_tables(self, connection: Connection) -> list[schema.Columns]:
        """The tables of what steps make, those of plugins included that are there."""
        of_plugins = [table_of(record) for record in self._plugin_records]
        present = inspect(connection).get_table_names() if of_plugins else []
        return [*schema.RECORDS, *(table.columns for table in of_plugins if table.name in present)]

    def _transaction(self) -> AbstractContextManager[Connection]:
        return transaction(self.engine, self.name)


def _write(connection: Connection, step_id: int, record: Record) -> None:
    stored = table_of(type(record))
    table, values = stored.columns, stored.values(record)
    identity = {"step_id": step_id, **{name: values[name] for name in ("item", *record.IDENTITY)}}
    connection.execute(delete(table).where(*(getattr(table, name) == value for name, value in identity.items())))
    try:
        record_id = _inserted(connection, table, {"step_id": step_id, **values})
    except IntegrityError as error:
        if "foreign key" in str(error.orig).lower():
            raise ResultsError(f"step {step_id} is not in the database any more; run again") from error
        raise ResultsError(
            f"{type(record).__name__} {values['item']!r}: another one of this step has the same item name; "
            "a plugin must name its items uniquely"
        ) from error
    for part, rows in stored.part_values(record):
        if rows:
            connection.execute(insert(part.columns), [{part.owner_id: record_id, **row} for row in rows])


def _inserted(connection: Connection, table: schema.Columns, values: Mapping[str, Any]) -> int:
    """Insert one row; returns its id."""
    key = connection.execute(insert(table).values(**values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _link(connection: Connection, run_id: int, step_id: int, position: int, *, reused: bool) -> None:
    link = schema.RunStep
    connection.execute(delete(link).where(link.run_id == run_id, link.position == position))
    connection.execute(delete(link).where(link.run_id == run_id, link.step_id == step_id))
    connection.execute(insert(link).values(run_id=run_id, step_id=step_id, position=position, reused=reused))
