"""`harness report --across 1-5`: runs that differ by the seed alone, each number with its spread between them.

A run is one observation: nothing is pooled over items, documents or features of several runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from sqlalchemy import Connection, select

from harness.contract.cells import Cell, count, fixed, percent, significant, with_interval
from harness.contract.report import Block, Column, Report
from harness.errors import UsageError
from harness.records.base import Estimate
from harness.render.formats import DATA_FORMATS, find_format
from harness.render.loading import Loaded
from harness.reports.card.clauses import ATTENTION
from harness.reports.common.benchmarks import item_scores, paired_scores
from harness.reports.common.differences import group_difference, independent_difference, paired_difference
from harness.reports.common.run import open_results, resolve_run
from harness.reports.common.seeds import RULE, between_seeds, rank_agreement, verdict
from harness.reports.components import ComponentRow, components
from harness.reports.dictionaries import dictionaries
from harness.reports.grades import grades
from harness.reports.recovery import recovery
from harness.reports.scores import scores
from harness.store.schema import RunStep, Step, StudyRun
from harness.study.seeds import parse_numbers

TABLES = {
    "recovery": "Benchmarks",
    "components": "KL(adapter || ablated), nats per token",
    "grades": "Grades: shares of each source's features",
    "dictionaries": "Dictionaries",
    "scores": "Detection: balanced accuracy of explanations on held-out contexts",
}
"""Report -> title of what is taken from it."""

MOST_DIFFERENCES = 6
"""Settings named in a refusal; `harness report --compare` has all."""

DIRECTIONS = "adapter-activations"
_SET_TO = " set to "
CONTROLS = ("random-directions", "shuffled-directions", "mlp-neurons")


@dataclass(frozen=True)
class AcrossRow:
    """One number, or one conclusion, over runs that differ by the seed alone.

    `mean` has Student's 95 % interval over the `n` runs that have the number (a rank agreement: jackknife over runs),
    `sd` is the standard deviation between them (n - 1), `values` are the runs' own in the order of `runs`. Of a
    conclusion they are the difference that must be above 0; `n_holds` runs have it above 0, `n_clear` by their own 95 %
    interval, `resolved` says whether it holds by the rule of the legend. All of these are null for numbers.
    """

    table: str
    what: str
    unit: str
    runs: tuple[int, ...]
    n: int
    mean: Estimate
    sd: float | None
    values: tuple[float | None, ...]
    n_holds: int | None = None
    n_clear: int | None = None
    resolved: bool | None = None
    verdict: str | None = None
    note: str | None = None


class Name(NamedTuple):
    """What a number is called in every run."""

    table: str
    what: str
    unit: str


Numbers = dict[Name, Estimate]
"""The numbers of one run, with its own intervals."""


def render_across(spec: str, names: Sequence[str], *, db: str | Path, form: str, console: Console) -> None:
    """Print runs of several seeds as one, in one of `harness.render.formats.FORMATS`.

    Args:
        spec: ids, ranges and `latest`; a single run stands for the newest finished runs of its `--seeds`.
        names: of `TABLES`; all of them if empty.
        db: path or URL of the database.
        form: JSON and CSV have numbers and conclusions as rows of one table.
        console: where to.

    Raises:
        UnknownName: no such format.
        UsageError: fewer than two runs, two of one seed, runs that differ by more than the seed, or another report.
        ResultsError: no such database or run.
    """
    formatted = find_format(form)
    for name in names:
        if name not in TABLES:
            raise UsageError(f"--across has {', '.join(TABLES)}, not {name}; take it run by run: --run ID")
    with open_results(db) as connection:
        runs = _runs(connection, spec)
        notes = check_alike(connection, runs)
        rows = [r for r in across(connection, runs) if not names or r.table in names]
        conclusions, numbers = [r for r in rows if r.verdict], [r for r in rows if not r.verdict]
        if form in DATA_FORMATS:
            formatted.print_report(Loaded(_numbers_report(runs), rows, ""), console)
            return
        formatted.print_header(_title(connection, runs), console)
        empty = "these runs have no such numbers"
        formatted.print_report(Loaded(_conclusions_report(runs), conclusions, "" if conclusions else empty), console)
        formatted.print_report(Loaded(_numbers_report(runs), numbers, " ".join(notes) if numbers else empty), console)


# which runs


def _runs(connection: Connection, spec: str) -> list[int]:
    """The runs that are meant, in the order in which they are named, each once."""
    ids: dict[int, None] = {}
    for part in spec.split(","):
        found = ["latest"] if part.strip() == "latest" else map(str, parse_numbers(part, "--across"))
        ids.update(dict.fromkeys(resolve_run(connection, run) for run in found))
    return list(ids) if len(ids) > 1 else _group(connection, next(iter(ids)))


def _group(connection: Connection, run_id: int) -> list[int]:
    """The newest finished run of each seed of the command that a run was one of."""
    r = StudyRun
    one = connection.execute(select(r.__table__).where(r.id == run_id)).one()
    if one.seeds is None:
        raise UsageError(f"run {run_id} is one seed; name several runs, for example --across 1-5")
    alike = (r.study == one.study, r.preset == one.preset, r.model == one.model, r.seeds == one.seeds)
    of_group = connection.execute(select(r.id, r.seed).where(*alike, r.status == "done").order_by(r.id)).all()
    newest = {run.seed: run.id for run in of_group}
    if len(newest) < 2:
        raise UsageError(f"of the seeds {one.seeds} of run {run_id}, {len(newest)} are done: two are needed")
    return [newest[seed] for seed in sorted(newest)]


def check_alike(connection: Connection, runs: Sequence[int]) -> list[str]:
    """Refuse runs that differ by more than the seed; what else is to be known of them, as sentences.

    Raises:
        UsageError: two runs have one seed, or steps of one name differ in more than the seed; it names the differences.
    """
    stored = {r.id: r for r in connection.execute(select(StudyRun.__table__).where(StudyRun.id.in_(runs)))}
    by_seed: dict[int, int] = {}
    for run in runs:
        other = by_seed.setdefault(stored[run].seed, run)
        if other != run:
            raise UsageError(f"runs {other} and {run} have the same seed {stored[run].seed}: they are one, not two")
    steps = {run: _steps(connection, run) for run in runs}
    first = steps[runs[0]]
    for run in runs[1:]:
        if different := list(_differences(first, steps[run])):
            different = [*_changed(stored[runs[0]].settings_json, stored[run].settings_json), *different]
            more = f" and {len(different) - MOST_DIFFERENCES} more" if len(different) > MOST_DIFFERENCES else ""
            raise UsageError(
                f"runs {runs[0]} and {run} differ by more than the seed: {'; '.join(different[:MOST_DIFFERENCES])}"
                f"{more} (harness report --compare {runs[0]} {run})"
            )
    return list(_remarks(stored, steps, runs))


def _steps(connection: Connection, run_id: int) -> dict[str, Any]:
    columns = (Step.id, Step.name, Step.recipe, Step.config_json, Step.plugin_version)
    of_run = connection.execute(
        select(*columns)
        .join(RunStep, RunStep.step_id == Step.id)
        .where(RunStep.run_id == run_id)
        .order_by(RunStep.position)
    )
    return {s.name: s for s in of_run}


def _differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """How steps of one name differ beside the seed: settings first; what only follows from them is left out."""
    named = False
    for name in (name for name in first if name in other):
        a, b = first[name], other[name]
        changed = list(_changed(a.config_json, b.config_json, f"{name}: "))
        yield from changed
        if not changed and not named and (a.recipe, a.plugin_version) != (b.recipe, b.plugin_version):
            yield f"{name}: model, data, chat format, version or another setting of the study"
        named |= bool(changed) or a.recipe != b.recipe


def _changed(first: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The settings of two sides that differ, by their dotted names."""
    for key in dict.fromkeys([*first, *other]):
        a, b = first.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _changed(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key} is {a} and {b}"


def _remarks(stored: Mapping[int, Any], steps: Mapping[int, Mapping[str, Any]], runs: Sequence[int]) -> Iterator[str]:
    ids = set.intersection(*({s.id for s in of_run.values()} for of_run in steps.values()))
    if shared := [name for name, s in steps[runs[0]].items() if s.id in ids]:
        yield f"Done once and shared by all runs: {', '.join(shared)}."
    for run in runs:
        if stored[run].status != "done":
            yield f"Run {run} is {stored[run].status}."
    commits = dict.fromkeys((stored[run].git_sha or "unknown")[:10] for run in runs)
    if len(commits) > 1:
        yield f"The runs are of different commits: {', '.join(commits)}."
    every = {name for of_run in steps.values() for name in of_run}
    if lacking := [f"run {run} has {len(steps[run])} of {len(every)}" for run in runs if len(steps[run]) < len(every)]:
        yield f"Not all runs have every step: {', '.join(lacking)}."


# rows


def across(connection: Connection, runs: Sequence[int]) -> list[AcrossRow]:
    """Conclusions, then numbers, of runs that differ by the seed alone."""
    ids = tuple(runs)
    numbers = [_numbers(connection, run) for run in runs]
    rows = [_conclusion(name, ids, values) for name, values in _by_name([_claims(connection, r) for r in runs]).items()]
    rows += [_conclusion(name, ids, values) for name, values in _extremes(numbers)]
    rows.sort(key=lambda r: list(TABLES).index(r.table))
    rows += [_number(name, ids, values) for name, values in _by_name(numbers).items()]
    kls = [{r.component: r.kl_nats.value for r in _singles(connection, run)} for run in runs]
    if (agreement := rank_agreement(kls)) is not None:
        mean, each = agreement
        what = "rank agreement of single components' KLs (Spearman, mean over pairs of runs)"
        rows.append(AcrossRow("components", what, "correlation", ids, len(ids), mean, between_seeds(each)[1], each))
    return rows


def _by_name(runs: Sequence[Numbers]) -> dict[Name, list[Estimate | None]]:
    return {name: [run.get(name) for run in runs] for name in dict.fromkeys(name for run in runs for name in run)}


def _number(name: Name, runs: tuple[int, ...], numbers: Sequence[Estimate | None]) -> AcrossRow:
    values = [number.value for number in numbers if number is not None]
    mean, sd = between_seeds(values)
    same = "every run has the same value: nothing is known of its spread" if len(values) > 1 and sd == 0 else None
    each = tuple(None if number is None else number.value for number in numbers)
    return AcrossRow(*name, runs, len(values), mean, sd, each, note=same)


def _conclusion(name: Name, runs: tuple[int, ...], differences: Sequence[Estimate | None]) -> AcrossRow:
    row = _number(name, runs, differences)
    measured = [d for d in differences if d is not None]
    resolved, words = verdict([d.value for d in measured], len(runs))
    n_holds, n_clear = sum(d.value > 0 for d in measured), sum(d.low > 0 for d in measured)
    return AcrossRow(*name, runs, row.n, row.mean, row.sd, row.values, n_holds, n_clear, resolved, words, row.note)


def _numbers(connection: Connection, run: int) -> Numbers:
    """What is compared over runs."""
    found: dict[Name, Estimate | None] = {}
    for r in recovery(connection, run):
        found |= {
            Name("recovery", f"{v} on {r.benchmark}", "nats per token" if r.unit == "nats" else "score"): getattr(r, v)
            for v in ("base", "adapter", "full")
        }
        found[Name("recovery", f"recovery on {r.benchmark}", "share")] = r.recovery
    for c in components(connection, run):
        if c.scope in ("adapter", "layer", "projection"):
            found[Name("components", f"{c.component}{_SET_TO}{c.mode}", "nats per token")] = c.kl_nats
    for g in grades(connection, run):
        if g.grade is not None:
            found[Name("grades", f"{g.source}: {g.label}, by {g.interpreter}", "share")] = g.share
    for d in dictionaries(connection, run):
        found[Name("dictionaries", f"{d.name}: FVU", "share of variance")] = d.fvu
        found[Name("dictionaries", f"{d.name}: L0", "latents per token")] = d.l0
        found[Name("dictionaries", f"{d.name}: KL recovered", "share")] = d.kl_recovered
        found[Name("dictionaries", f"{d.name}: stability", "cosine")] = d.stability
    for s in scores(connection, run):
        if s.kind == "detection":
            found[Name("scores", f"{s.source}, by {s.interpreter}", "accuracy")] = s.balanced_accuracy
    return {name: number for name, number in found.items() if number is not None}


def _claims(connection: Connection, run: int) -> Numbers:
    """Conclusion -> the difference that must be above 0, with the run's own interval."""
    claims: Numbers = {}
    for benchmark, variants in item_scores(connection, run).items():
        for above, below in (("adapter", "base"), ("full", "adapter")):
            if above in variants and below in variants:
                paired = paired_scores({v: variants[v] for v in (above, below)})
                if not paired.scores[above]:
                    continue
                if paired.unit == "nats":  # the lower loss is the better one
                    name = Name("recovery", f"{above} below {below} on {benchmark}", "nats per token")
                    claims[name] = paired_difference(paired.scores[below], paired.scores[above])
                else:
                    name = Name("recovery", f"{above} above {below} on {benchmark}", "score")
                    claims[name] = paired_difference(paired.scores[above], paired.scores[below])
    singles = _singles(connection, run)
    attention = [r.kl_nats.value for r in singles if r.projection in ATTENTION]
    mlp = [r.kl_nats.value for r in singles if r.projection not in ATTENTION]
    if attention and mlp:
        name = Name("components", "mean KL of MLP components above attention's", "nats per token")
        claims[name] = group_difference(mlp, attention).difference
    monosemantic = {(g.interpreter, g.source): g.share for g in grades(connection, run) if g.grade == 0}
    detected = {
        (s.interpreter, s.source): s.balanced_accuracy
        for s in scores(connection, run)
        if s.kind == "detection" and s.balanced_accuracy is not None
    }
    claims |= _above("grades", "monosemantic more often", "share", monosemantic)
    return claims | _above("scores", "explanations predict better", "accuracy", detected)


def _singles(connection: Connection, run: int) -> list[ComponentRow]:
    """Single components, as the first mode of the sweep set them."""
    singles = [r for r in components(connection, run) if r.scope == "component"]
    return [r for r in singles if r.mode == singles[0].mode]


def _above(table: str, words: str, unit: str, numbers: Mapping[tuple[str, str], Estimate]) -> Numbers:
    """Dictionaries' latents above the adapter's directions, and those above each control, by the same interpreter."""
    claims: Numbers = {}
    for (interpreter, source), number in numbers.items():
        directions = numbers.get((interpreter, DIRECTIONS))
        if source == DIRECTIONS or directions is None:
            continue
        pair = (DIRECTIONS, source) if source in CONTROLS else (source, DIRECTIONS)
        a, b = (directions, number) if source in CONTROLS else (number, directions)
        claims[Name(table, f"{words}: {pair[0]} than {pair[1]}, by {interpreter}", unit)] = independent_difference(a, b)
    return claims


def _extremes(runs: Sequence[Numbers]) -> Iterator[tuple[Name, list[Estimate | None]]]:
    """What is largest (or smallest) on average over runs: by how much it leads the next one in each run."""
    families: tuple[tuple[str, str, str, Callable[[str], bool], bool], ...] = (
        ("components", "has the largest KL of the layers", "nats per token", _is_layer, True),
        ("components", "has the largest KL of the projections", "nats per token", _is_projection, True),
        ("dictionaries", "has the lowest FVU", "share of variance", lambda what: what.endswith(": FVU"), False),
        ("dictionaries", "recovers most of the KL", "share", lambda what: what.endswith(": KL recovered"), True),
    )
    for table, words, unit, belongs, largest in families:
        of_runs = [{n.what: e for n, e in run.items() if n.table == table and belongs(n.what)} for run in runs]
        shared = [what for what in of_runs[0] if all(what in run for run in of_runs)]
        shared = [what for what in shared if what.partition(_SET_TO)[2] == shared[0].partition(_SET_TO)[2]]  # one mode
        if len(shared) < 2:
            continue
        sign = 1 if largest else -1
        means = {what: sign * sum(run[what].value for run in of_runs) for what in shared}
        best = max(means, key=means.__getitem__)
        leads: list[Estimate | None] = []
        for run in of_runs:
            rival = max((w for w in shared if w != best), key=lambda w: sign * run[w].value)
            pair = (run[best], run[rival]) if largest else (run[rival], run[best])
            leads.append(independent_difference(*pair))
        yield Name(table, f"{best.partition(_SET_TO)[0].partition(': ')[0]} {words}", unit), leads


def _is_layer(what: str) -> bool:
    return what.startswith("L") and what[1:2].isdigit()


def _is_projection(what: str) -> bool:
    return not _is_layer(what) and not what.startswith("adapter ")


# what people see


def _title(connection: Connection, runs: Sequence[int]) -> str:
    stored = {r.id: r for r in connection.execute(select(StudyRun.__table__).where(StudyRun.id.in_(runs)))}
    one = stored[runs[0]]
    seeds = ", ".join(str(stored[run].seed) for run in runs)
    return (
        f"Runs {', '.join(map(str, runs))}: study {one.study}, preset {one.preset or 'none'}, seeds {seeds}, "
        f"model {one.model or 'unknown'}, commit {(one.git_sha or 'unknown')[:10]}"
    )


def _nothing(connection: Connection, run_id: int) -> list[Any]:
    """Stands in for a query: the rows are read from several runs."""
    return []


def _form(unit: str) -> Callable[[float | None], str]:
    forms: dict[str, Callable[[float | None], str]] = {"nats per token": significant, "share": percent}
    return forms.get(unit, fixed)


def _interval(row: AcrossRow) -> Cell:
    return with_interval(row.mean, _form(row.unit))


def _values(row: AcrossRow) -> str:
    return " ".join(_form(row.unit)(None if value is None else value + 0.0).removesuffix(" %") for value in row.values)


def _numbers_report(runs: Sequence[int]) -> Report[AcrossRow]:
    return Report[AcrossRow](
        "across",
        f"Over {len(runs)} seeds",
        _nothing,
        (
            Column("what", lambda r: r.what, "left", wrap=True, ratio=3),
            Column("n", lambda r: count(r.n)),
            Column("mean", _interval),
            Column("sd", lambda r: _form(r.unit)(r.sd)),
            Column("in each run", _values, "left", wrap=True, ratio=3),
        ),
        noun="numbers",
        label=lambda r: r.what,
        legend=(
            "n: runs, each one seed. Mean over runs with Student's 95 % interval over runs (rank agreement: jackknife "
            "over runs), sd: between runs (n - 1). Nothing is pooled over items, documents or features. A number that "
            "all runs share has no spread, so no interval."
        ),
        blocks=lambda rows: [
            Block(title, group) for name, title in TABLES.items() if (group := [r for r in rows if r.table == name])
        ],
    )


def _conclusions_report(runs: Sequence[int]) -> Report[AcrossRow]:
    return Report[AcrossRow](
        "conclusions",
        f"What holds in {len(runs)} seeds",
        _nothing,
        (
            Column("conclusion", lambda r: r.what, "left", wrap=True, ratio=3),
            Column("difference", _interval),
            Column("alone", lambda r: f"{r.n_clear} of {r.n}"),
            Column("verdict", lambda r: r.verdict or "", "left", wrap=True, ratio=2),
        ),
        noun="conclusions",
        label=lambda r: r.what,
        legend=(
            f"{RULE} Alone: runs whose own 95 % interval is above 0. Largest and lowest: by how much what leads on "
            "average leads the next one. Each conclusion is judged by itself, without a correction for their number."
        ),
    )
