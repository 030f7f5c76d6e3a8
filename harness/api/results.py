"""A results database from Python, read-only: its runs, their tables, features, activations and dictionaries."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from harness.api.table import Table
from harness.api.token_html import coloured_tokens, page
from harness.errors import DataError, UnknownName, UsageError
from harness.records.segments import HEADLINE, TokensOf
from harness.render.compare import load_comparison
from harness.render.dashboard import stored
from harness.render.loading import load_report
from harness.reports import load_reports
from harness.reports.common.run import open_results, resolve_run
from harness.reports.overview import OverviewRow, overview
from harness.store.schema import Step, StudyRun

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from harness.contract.codec import Codec

SHOWN = 8
"""Contexts that a notebook shows of a feature."""


def open(db: str | Path = "results.db", *, artifacts: str | Path = "artifacts") -> Results:
    """Open stored results. Nothing is ever written, and torch is not imported.

    Args:
        db: SQLite file or SQLAlchemy URL.
        artifacts: the folder of activations and dictionaries, for `Run.activations` and `Run.dictionary`.

    Raises:
        ResultsError: no such database, or one that cannot be read.
    """
    results = Results(str(db), Path(artifacts))
    results.runs()
    return results


@dataclass(frozen=True)
class Results:
    """A results database."""

    db: str
    artifacts: Path

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        with open_results(self.db) as connection:
            ids = connection.execute(select(StudyRun.id).order_by(StudyRun.id)).scalars()
            return [Run(self, i, overview(connection, i)[0]) for i in ids]

    def run(self, run: int | str = "latest") -> Run:
        """One run.

        Raises:
            ResultsError: no run is stored, or none of that id.
        """
        with open_results(self.db) as connection:
            run_id = resolve_run(connection, run)
            return Run(self, run_id, overview(connection, run_id)[0])


@dataclass(frozen=True)
class Run:
    """A run of a study.

    Attributes:
        results: where it is stored.
        id: its number.
        about: study, preset, seed, model, commit, status and times.
    """

    results: Results
    id: int
    about: OverviewRow

    def tables(self) -> list[str]:
        """The names of all reports."""
        return list(load_reports())

    def table(self, name: str, *, segment: TokensOf = HEADLINE) -> Table:
        """A report, as `harness report NAME --format json` has it.

        Args:
            name: of the report.
            segment: tokens that KLs are averaged over, in reports that have them by segment.

        Raises:
            UnknownName: no such report.
        """
        reports = load_reports()
        if name not in reports:
            raise UnknownName("report", name, reports)
        with open_results(self.results.db) as connection:
            return Table.of(load_report(connection, self.id, reports[name], segment=segment))

    def sources(self) -> list[str]:
        """What has features: probes and dictionaries."""
        with open_results(self.results.db) as connection:
            return list(dict.fromkeys(row.source for row in stored.catalogue(connection, self.id)))

    def feature(self, source: str, name: str) -> Feature:
        """A feature with its contexts and explanations.

        Raises:
            UnknownName: no such source, or it has no such feature.
        """
        with open_results(self.results.db) as connection:
            rows = stored.catalogue(connection, self.id)
            own = {row.feature: row for row in rows if row.source == source}
            if not own:
                raise UnknownName("source of features", source, {row.source for row in rows})
            if name not in own:
                raise UnknownName(f"feature of {source}", name, own)
            row = own[name]
            contexts = stored.contexts(connection, [row.feature_id])[row.feature_id]
            explained = stored.explanations(connection, self.id).get((source, name), [])
        return Feature(self, row, tuple(contexts), tuple(explained))

    def dictionary(self, name: str) -> Codec:
        """A fitted dictionary, ready to encode the activations that it was fitted on: [token, column] tensors.

        Raises:
            UnknownName: the run has no such dictionary.
            DataError: its files are not in the folder of artifacts.
        """
        from harness.records import Dictionary
        from harness.store.read import records_of
        from harness.study.manager import Manager
        from harness.study.registry import read_registry
        from harness.study.registry_file import find_registry

        with open_results(self.results.db) as connection:
            folders = {f.name: f for f in stored.dictionary_folders(connection, self.id)}
            if name not in folders:
                raise UnknownName("dictionary", name, folders)
            record = {d.name: d for d in records_of(connection, Dictionary, run_id=self.id)}[name]
            step = select(Step.plugin, Step.config_json).where(Step.artifact == folders[name].artifact)
            plugin, config = connection.execute(step).one()
        manager = Manager(read_registry(find_registry(None)))
        learner = manager.implementation(plugin, manager.config(plugin, config))
        return learner.load(record.model_copy(update={"path": self._folder(folders[name], f"dictionary {name!r}")}))

    def activations(self, source: str) -> Any:
        """The stored activations of a source: `StoredActivations`, read a document at a time.

        Raises:
            UnknownName: the run stored none of that name.
            DataError: its files are not in the folder of artifacts.
        """
        from harness.activations.store import open_set

        with open_results(self.results.db) as connection:
            folders = {f.name: f for f in stored.activation_sets(connection, self.id)}
        if source not in folders:
            raise UnknownName("activation set", source, folders)
        return open_set(self._folder(folders[source], f"activations of {source!r}"))

    def _folder(self, folder: stored.StoredFolder, what: str) -> Path:
        found = folder.within(self.results.artifacts)
        if found is None:
            raise DataError(
                f"the {what} of run {self.id} are not under {self.results.artifacts}; "
                "say where they are: harness.open(db, artifacts=FOLDER)"
            )
        return found

    def __repr__(self) -> str:
        """Which run it is."""
        a = self.about
        return f"Run({self.id}: {a.study}, preset {a.preset or 'none'}, seed {a.seed}, {a.status})"


@dataclass(frozen=True)
class Feature:
    """A feature over tokens, with its contexts and what interpreters made of it.

    Attributes:
        run: whose it is.
        about: source, name, layer, density, largest activation.
        contexts: the highest activations first, then a sample over its quantiles (`quantile` is set).
        explained: per interpreter the explanation, grade, category, purity and recall.
    """

    run: Run
    about: stored.CatalogueRow
    contexts: tuple[stored.ContextRow, ...]
    explained: tuple[stored.ExplanationRow, ...]

    @property
    def explanation(self) -> str | None:
        """The first interpreter's explanation."""
        return self.explained[0].explanation if self.explained else None

    @property
    def grade(self) -> int | None:
        """The first interpreter's grade: 0 monosemantic, 1 a mixture, 2 polysemantic."""
        return self.explained[0].grade if self.explained else None

    @property
    def purity(self) -> float | None:
        """Share of all its activation on tokens that the first interpreter's explanation covers."""
        coverage = self.explained[0].coverage if self.explained else None
        return coverage.get("purity") if coverage else None

    def activations(self) -> dict[str, Float[np.ndarray, " token"]]:
        """Document -> its activation at every token, of its own polarity.

        0 where the other sign is active, and on tokens that do not count (special ones, the chat template's).

        Raises:
            DataError: the activations' files are not in the folder of artifacts.
        """
        import numpy as np

        opened = self.run.activations(self.about.source)
        signed, name = opened.set.signed, self.about.feature
        column = list(opened.columns).index(name[:-1] if signed else name)
        sign = -1 if signed and name.endswith("-") else 1
        return {d.id: np.maximum(sign * d.window(0, len(d.ids), column), 0) * d.ranked for d in opened.documents()}

    def _repr_html_(self) -> str:
        """Its explanations, and the contexts of its highest activations, coloured."""
        a = self.about
        head = f"{a.source} · {a.feature} · active on {a.density_per_token:.2%} of {a.n_tokens:,} tokens"
        said = "".join(
            f"<p>{html.escape(e.interpreter)}: {html.escape(e.explanation or e.reason or '-')} "
            f"(grade {'-' if e.grade is None else e.grade})</p>"
            for e in self.explained
        )
        highest: Sequence[stored.ContextRow] = [c for c in self.contexts if c.quantile is None][:SHOWN]
        lines = "".join(
            f"<div>{coloured_tokens(c.tokens, c.activations, scale=a.activation_max, target=c.target)}</div>"
            for c in highest
        )
        return f"<h4>{html.escape(head)}</h4>{said}{page(lines)}"

    def __repr__(self) -> str:
        """Which feature, and what it is said to be."""
        return f"Feature({self.about.source!r}, {self.about.feature!r}: {self.explanation or 'not explained'})"


def compare(first: Run, second: Run) -> Table:
    """Two runs of one database side by side: scores paired by item, KLs by document (`harness report --compare`).

    Raises:
        UsageError: the two are the same run, or lie in different databases.
    """
    if first.results.db != second.results.db:
        raise UsageError(f"the runs lie in two databases ({first.results.db}, {second.results.db}); compare within one")
    return Table.of(load_comparison(first.results.db, (str(first.id), str(second.id))))
