"""Writes the dashboard: collects a run's features a shard at a time, and swaps the finished folder in as a whole."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from sqlalchemy import Connection

from harness.contract.progress import Progress
from harness.contract.report import Report
from harness.errors import UsageError
from harness.files import replaced_folder
from harness.records import DocumentDivergence
from harness.render.dashboard import stored
from harness.render.dashboard.attributions import attribution_data, attributions_of
from harness.render.dashboard.causes import Causes
from harness.render.dashboard.columns import Columns, open_columns
from harness.render.dashboard.components import adapter_norms, component_data, latents_that_write
from harness.render.dashboard.documents import (
    Coverage,
    Texts,
    block_columns,
    divergence_data,
    full_document,
    write_document,
)
from harness.render.dashboard.features import SHARD_FEATURES, Catalogue, Vocabulary, contexts_of, explanation_data
from harness.render.dashboard.overview import overview_data, run_data
from harness.render.dashboard.pictures import write_pictures
from harness.render.dashboard.scores import event_data, score_data
from harness.render.dashboard.scripts import ScriptFolder
from harness.render.loading import why_empty
from harness.reports import load_reports
from harness.reports.common.run import open_results, resolve_run
from harness.reports.components import components
from harness.store.read import records_of
from harness.study.display import Display, Quiet

MARK = "harness-dashboard.txt"
"""The file by which a dashboard's folder is known; no other folder is replaced."""

COMPONENTS = "adapter-activations"
"""The source whose columns are the adapter's components."""

_ATTRIBUTED = 3
"""Documents with attributed tokens that are kept whole beside the others."""

_COVERING = 8
"""Contexts of a feature whose documents count for choosing the documents that are kept whole."""


@dataclass(frozen=True)
class Dashboard:
    """What was written."""

    path: Path
    run_id: int
    n_features: int
    n_contexts: int
    n_documents: int
    n_bytes: int


def write_dashboard(
    db: str | Path,
    *,
    run: str | int = "latest",
    artifacts: Path,
    out: Path,
    n_documents: int = 6,
    display: Display | None = None,
    reports: Mapping[str, Report[Any]] | None = None,
) -> Dashboard:
    """Write a run's dashboard, replacing an earlier one; a reader never meets half of one.

    Args:
        db: path or URL of the database; it is not created.
        run: `latest` or an id.
        artifacts: where the run's activations, dictionary and adapter are.
        out: folder to write.
        n_documents: documents that are kept whole, with the activations of every feature.
        display: where a person watches.
        reports: the tables on its first page; the harness's own if not given.

    Raises:
        ResultsError: no such database or run.
        UsageError: `out` exists and is no dashboard.
        StorageError: the disk is full or the folder is not writable.
    """
    refuse_foreign(out)
    with open_results(db) as connection, replaced_folder(out) as folder:
        run_id = resolve_run(connection, run)
        reports = load_reports() if reports is None else reports
        site = _Site(connection, run_id, artifacts, ScriptFolder(folder / "data"), display or Quiet(), reports)
        site.write(n_documents)
        _copy_pages(folder)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return Dashboard(out, run_id, len(site.rows), site.n_contexts, len(site.whole_documents), size)


def refuse_foreign(out: Path) -> None:
    """A folder that is not a dashboard is not replaced.

    Raises:
        UsageError: `out` is a file, or a folder with something else in it.
    """
    if out.is_dir() and ((out / MARK).is_file() or not any(out.iterdir())):
        return
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} exists and is not a dashboard; choose another --out, or move it away")


class _Site:
    """One run's data, written script by script."""

    def __init__(
        self, connection: Connection, run_id: int, artifacts: Path, scripts: ScriptFolder, display: Display,
        reports: Mapping[str, Report[Any]],
    ) -> None:  # fmt: skip
        self.connection, self.run_id, self.artifacts = connection, run_id, artifacts
        self.scripts, self.display, self.reports = scripts, display, reports
        self.rows = stored.catalogue(connection, run_id)
        self.explained = stored.explanations(connection, run_id)
        self.scored = stored.scores(connection, run_id)
        self.by_source: dict[str, list[stored.CatalogueRow]] = defaultdict(list)
        for row in self.rows:
            self.by_source[row.source].append(row)
        self.columns: dict[str, Columns] = {}
        self.absent: dict[str, str] = {}
        self.texts, self.coverage = Texts(scripts), Coverage()
        self.ablated = components(connection, run_id)
        self.causes = Causes(connection, run_id, self.ablated, COMPONENTS)
        self.n_contexts = 0
        self.whole_documents: list[dict[str, Any]] = []

    def write(self, n_documents: int) -> None:
        """Everything, the run's own script last."""
        self._open_sets()
        with _timed(self.display, "histograms", 1) as bar:
            histograms = {source: columns.histograms(bar) for source, columns in self.columns.items()}
        with _timed(self.display, "features", 2) as bar:
            self._write_features(histograms, bar)
        with _timed(self.display, "documents", 3) as bar:
            self._write_documents(n_documents, bar)
        with _timed(self.display, "components, tables and figures", 4):
            by_component, notes = self._components()
            self.scripts.write("components", {"components": by_component, "notes": notes})
            pictures = write_pictures(self.connection, self.run_id, self.scripts.folder.parent)
            self.scripts.write("overview", overview_data(self.connection, self.run_id, self.reports, pictures))
        self.scripts.write("run", self._run(len(by_component)), packed=False)

    def _open_sets(self) -> None:
        for folder in stored.activation_sets(self.connection, self.run_id):
            columns, why = open_columns(folder, self.artifacts, self.by_source)
            if columns is not None:
                self.columns[folder.name] = columns
            elif why is not None:
                self.absent[folder.name] = why

    def _write_features(self, histograms: Mapping[str, np.ndarray], bar: Progress) -> None:
        catalogue = Catalogue()
        bar.start(len(self.rows), "features")
        for number, at in enumerate(range(0, len(self.rows), SHARD_FEATURES)):
            rows = self.rows[at : at + SHARD_FEATURES]
            contexts_of_shard = stored.contexts(self.connection, [r.feature_id for r in rows])
            events = stored.events(self.connection, self.run_id, [r.feature for r in rows])
            words = Vocabulary()
            shard = []
            for row in rows:
                contexts = contexts_of_shard.get(row.feature_id, [])
                columns = self.columns.get(row.source)
                explained = self.explained.get((row.source, row.feature), [])
                scored = self.scored.get((row.source, row.feature), [])
                catalogue.add(row, contexts, explained, scored, columns)
                shard.append(
                    {
                        "explanations": explanation_data(explained),
                        "scores": [score_data(s) for s in scored],
                        "events": event_data(events.get((row.source, row.feature), [])),
                        "histogram": self._histogram(row, histograms),
                        "contexts": contexts_of(row, contexts, columns, words),
                        "full": self._full(row, contexts),
                        "causes": self.causes.of(row.source, row.feature),
                    }
                )
                self.n_contexts += len(contexts)
                self.coverage.add(row.feature_id, [c.document for c in contexts[:_COVERING]])
                bar.advance()
            self.scripts.write(f"features/{number}", {"features": shard, "vocabulary": words.words})
        self.scripts.write("catalogue", catalogue.data())

    def _histogram(self, row: stored.CatalogueRow, histograms: Mapping[str, np.ndarray]) -> dict[str, Any]:
        columns = self.columns.get(row.source)
        column = columns.column(row.feature) if columns else None
        if columns is None or column is None:
            return {"counts": None, "reason": self._why_absent(row.source)}
        low = -float(columns.scale[column]) if columns.signed else 0.0
        return {"counts": histograms[row.source][column].tolist(), "low": low, "high": float(columns.scale[column])}

    def _full(self, row: stored.CatalogueRow, contexts: Sequence[stored.ContextRow]) -> dict[str, Any]:
        columns = self.columns.get(row.source)
        if not contexts:
            return {"number": None, "reason": "it is active nowhere"}
        if columns is None:
            return {"number": None, "reason": self._why_absent(row.source)}
        top = contexts[0]
        full = full_document(columns, row.feature, top.document, top.position, self.texts)
        return full or {"number": None, "reason": f"{row.source} has no column {row.feature} on disk"}

    def _why_absent(self, source: str) -> str:
        return self.absent.get(source, "the run stored no activation set of this source")

    def _write_documents(self, n_documents: int, bar: Progress) -> None:
        sources = {i: self.columns[name] for i, name in enumerate(self.by_source) if name in self.columns}
        if not sources:
            return
        index: dict[tuple[int, int, int], int] = {}
        for i, row in enumerate(self.rows):
            columns = self.columns.get(row.source)
            column = columns.column(row.feature) if columns else None
            if columns is not None and column is not None:
                index[list(self.by_source).index(row.source), column, columns.sign(row.feature)] = i
        parted = {d.item: d for d in records_of(self.connection, DocumentDivergence, run_id=self.run_id)}
        attributed = attributions_of(self.connection, self.run_id)
        shown = [d for d in attributed if any(d in c.stored.document_ids for c in sources.values())]
        chosen = [*dict.fromkeys([*self.coverage.choose(n_documents, parted), *shown[: min(n_documents, _ATTRIBUTED)]])]
        bar.start(len(chosen), "documents")
        for document in chosen:
            held = {i: c for i, c in sources.items() if document in c.stored.document_ids}
            if held:
                first = next(iter(held.values())).stored
                number = self.texts.number(first, document)
                write_document(number, document, held, index, self.scripts)
                if document in attributed:
                    self.scripts.write(f"documents/{number}/sources", attribution_data(attributed[document]))
                n_tokens = first.n_tokens([document])
                measured = parted.get(document)
                if measured is not None and measured.chat_hash != first.set.chat_hash:
                    measured = None  # it was measured on text of another format
                if measured is not None:
                    self.scripts.write(f"documents/{number}/divergence", divergence_data(measured, n_tokens))
                self.whole_documents.append(
                    {"number": number, "document": document, "n_tokens": n_tokens, "sources": list(held),
                     "block_columns": block_columns(n_tokens), "n_attributed": len(attributed.get(document, [])),
                     "divergence": measured is not None}
                )  # fmt: skip
            bar.advance()

    def _components(self) -> tuple[list[dict[str, Any]], list[str]]:
        norms, no_norms = adapter_norms(stored.adapter_folder(self.connection, self.run_id), self.artifacts)
        folders = stored.dictionary_folders(self.connection, self.run_id)
        writers, why = latents_that_write(folders, self.artifacts, self.by_source)
        if not self.ablated:
            why.append(why_empty(self.connection, self.run_id, ("ablate",), "components switched off"))
        if not folders:
            why.append(why_empty(self.connection, self.run_id, ("learn",), "dictionaries"))
        if no_norms:
            why.append(no_norms)
        return component_data(self.ablated, norms, writers, self.rows, COMPONENTS), why

    def _run(self, n_components: int) -> dict[str, Any]:
        return {
            "run": run_data(self.connection, self.run_id),
            "sources": [
                {
                    "source": name,
                    "n_features": len(rows),
                    "signed": name in self.columns and self.columns[name].signed,
                    "reason": None if name in self.columns else self._why_absent(name),
                }
                for name, rows in self.by_source.items()
            ],
            "documents": self.whole_documents,
            "n_components": n_components,
            "n_contexts": self.n_contexts,
        }


@contextmanager
def _timed(display: Display, name: str, position: int) -> Iterator[Progress]:
    start = monotonic()
    yield display.begin(name, position, 4)
    display.end(name, "done", monotonic() - start)


def _copy_pages(folder: Path) -> None:
    with as_file(files("harness.render.dashboard") / "static") as pages:
        shutil.copytree(pages, folder, dirs_exist_ok=True)
    (folder / MARK).write_text(
        "Written by `harness dashboard`. Open index.html. Running it again replaces this folder.\n"
    )
