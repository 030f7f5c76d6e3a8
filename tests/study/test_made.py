"""What earlier steps made reaches an ablation that asks for it, in a run of the study."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness import Ablation, Dictionary, Registration, hookimpl
from harness.config import Config
from harness.contract.context import Made
from harness.errors import UnknownName, UsageError
from harness.study.manager import Manager
from harness.study.plan import make_plan
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry
from harness.study.step import Plan
from tests.commands import command_environment

PLUGIN = '''
import json
from harness import ActivationSet, Config, Dictionary, Record, Registration, hookimpl


class Counted(Record):
    """What was handed over."""

    item: str
    """Name within the step."""
    counts_json_text: str
    """Name -> number, as JSON."""


class Counts:
    def __init__(self, config):
        pass

    def measure(self, subject, traces, run):
        import torch
        from harness.activations.store import open_set
        from harness.records import Explanation, Feature, LatentEffect

        made = run.made
        sets = {a.source: a for a in made.records(ActivationSet)}
        raw = open_set(sets["adapter-activations"])
        x = torch.from_numpy(next(raw.documents()).values).float()
        codes = {}
        for dictionary in made.records(Dictionary):
            codec = made.codec(dictionary)
            latents = next(open_set(sets[dictionary.name]).documents()).values
            codes[dictionary.name] = float((codec.encode(x) - torch.from_numpy(latents)).abs().max())
        yield Counted(item="counts", counts_json_text=json.dumps({
            "sets": sorted(sets), "codes": codes,
            "features": len(made.records(Feature)), "effects": len(made.records(LatentEffect)),
            "explanations": len(made.records(Explanation)),
            "std": int((raw.moments().std > 0).sum()), "components": len(subject.components),
        }))


@hookimpl
def harness_ablations():
    reads = ("probe", "learn", "judge")
    return [Registration("counts", Config, "counts_plugin:Counts", "counts what was handed over", reads=reads)]


@hookimpl
def harness_records():
    return [Counted]


@hookimpl
def harness_reports():
    from harness import Column, Report, records_of

    def stored(connection, run_id):
        return records_of(connection, Counted, run_id=run_id)

    return [Report("counts", "Counts", stored, (Column("what", lambda r: r.counts_json_text),), noun="counts")]
'''


def test_an_ablation_gets_the_dictionaries_and_features_that_it_asks_for(tiny_study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_study, tmp_path / "study"))
    (folder / "counts_plugin.py").write_text(PLUGIN)
    registry = find_registry(None).read_text()
    row = "  - {name: counts, stage: ablate, module: counts_plugin}\n"
    registry = registry.replace("\nplugins:\n", f"\nplugins:\n{row}", 1)
    (folder / "registry.yaml").write_text(registry)
    env = {**command_environment(), "PYTHONPATH": str(folder), "HARNESS_JOBS": "2"}

    def harness(*arguments: str) -> str:
        command = [sys.executable, "-m", "harness.cli", *arguments]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        return done.stdout

    harness("run", "--plugin", "counts", "--preset", "tiny", "--device", "cpu")
    (row_shown,) = json.loads(harness("report", "counts", "--format", "json"))
    counts = json.loads(row_shown["counts_json_text"])
    assert counts["sets"] == [
        "adapter-activations", "batch-topk", "batch-topk-on-random", "mlp-neurons", "random-directions",
    ]  # fmt: skip
    # float16 of what is stored: the codes are those of the adapter's scalars as the probe stored them
    assert counts["codes"]["batch-topk"] < 0.05
    assert counts["codes"]["batch-topk-on-random"] > 1, "it was fitted on other columns"
    assert counts["effects"] == 4, "judging.ablated_latents of the preset; random directions cannot be switched off"
    assert counts["explanations"] == 0, "it did not ask for `interpret`"
    assert counts["features"] > 2 * counts["components"]
    assert counts["std"] == counts["components"]


def reader_plan(monkeypatch: pytest.MonkeyPatch, *reads: str) -> Plan:
    """The plan of an ablation `reader` that reads these kinds of steps."""

    @hookimpl
    def harness_ablations() -> list[Registration[Ablation]]:
        return [Registration("reader", Config, "nowhere:Reader", "reads", reads=reads)]

    module = ModuleType("reader")
    module.harness_ablations = harness_ablations  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reader", module)
    shipped = read_registry(find_registry(None))
    row = shipped.plugins[-1].model_copy(update={"name": "reader", "stage": "ablate", "module": "reader"})
    registry = shipped.model_copy(update={"plugins": (*shipped.plugins, row)})
    return make_plan(registry, Manager(registry), "reader")


def test_the_steps_that_it_reads_are_its_inputs_but_no_dictionary_that_is_not_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert reader_plan(monkeypatch, "learn", "judge").step("ablate/reader").inputs == (
        "train/rank1-lora", "learn/batch-topk", "judge/batch-topk", "learn/batch-topk-on-random",
        "judge/batch-topk-on-random",
    )  # fmt: skip
    assert reader_plan(monkeypatch).step("ablate/reader").inputs == ("train/rank1-lora",)


def test_a_kind_of_step_that_there_is_not_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match=r"no kind of step that reader reads 'lern'; nearest: 'learn'"):
        reader_plan(monkeypatch, "lern")


def test_a_dictionary_that_nobody_handed_over_is_refused() -> None:
    dictionary = Dictionary(name="d", path=Path(os.devnull), columns=("L0.q_proj",), n_latents=1, k=1)
    assert Made().records(Dictionary) == []
    with pytest.raises(UsageError, match="add 'learn'"):
        Made().codec(dictionary)
