from __future__ import annotations

import csv
import html
import io
import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from harness.contract.cells import visible, with_interval
from harness.errors import ResultsError, UnknownName, UsageError
from harness.records.flat import flat_keys
from harness.records.segments import HEADLINE, TokensOf
from harness.render.formats import FORMATS
from harness.render.formats.latex import latex_text
from harness.render.formats.md import markdown_text
from harness.render.render import render
from harness.reports import load_reports, report_names
from harness.reports.common.heat import HeatMap, HeatRow
from harness.reports.components import components, heatmap
from harness.reports.features import FeatureRow
from harness.reports.recovery import RecoveryRow
from harness.stats import Estimate
from harness.store.writer import Store

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def _render(
    db: Path, *sections: str, form: str = "table", width: int = 110, segment: TokensOf = HEADLINE, **console: Any
) -> str:
    stream = io.StringIO()
    render(sections, db=db, form=form, console=Console(file=stream, width=width, **console), segment=segment)
    return stream.getvalue()


OF_SEVERAL_ADAPTERS = ("adapters", "adapter-modules", "adapter-scores", "shared-features")
"""Of these the filled run, which has one adapter, has no row: their CSV is empty (tests/reports/test_adapters.py)."""


@pytest.mark.parametrize("name", report_names())
@pytest.mark.parametrize("form", FORMATS)
def test_every_report_in_every_format(filled: Path, name: str, form: str) -> None:
    out = _render(filled, name, form=form)
    assert out or (form == "csv" and name in OF_SEVERAL_ADAPTERS)
    assert not CONTROL.search(out)
    if form == "table":
        assert max(map(len, out.splitlines())) <= 110
        assert load_reports()[name].title in out


def test_header_names_the_run(filled: Path) -> None:
    assert _render(filled, "recovery", width=300).splitlines()[0] == (
        "Run 1: study rank1-lora, preset demo, seed 0, model package://harness/organism/checkpoint, "
        "commit 0123456789 (dirty), done"
    )


@pytest.mark.parametrize("width", [100, 110, 120])
def test_nothing_important_is_cut(filled: Path, width: int) -> None:
    out = _render(filled, "overview", "recovery", "groups", "dictionaries", "components", width=width)
    for needed in ("23 of 23 done", "[0.209, 0.330]", "unbounded: ", "organism_choice", "187 alive", "<0.001",
                   "40 documents", "interpret/lexical/adapter-activations"):  # fmt: skip
        assert needed in out


def test_notes_say_why_a_number_is_missing(filled: Path) -> None:
    out = _render(filled, "recovery", "groups", width=300)
    assert "organism_choice: full - base: there is no gap: it is 0 on average (n=200)" in out
    assert "gate_proj: no benchmark was run with this group switched off" in out


def test_colour_is_the_consoles_business(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in _render(filled, "components")
    assert "\x1b[" in _render(filled, "components", force_terminal=True, color_system="truecolor")
    plain = _render(filled, "components", force_terminal=True, no_color=True)
    assert "38;2" not in plain


def test_json_is_a_list_of_flat_objects_with_stable_keys(filled: Path) -> None:
    rows = json.loads(_render(filled, "recovery", form="json"))
    assert list(rows[0]) == flat_keys(RecoveryRow)
    assert {"benchmark", "n_items", "recovery", "recovery_ci_low", "p_value", "paper_recovery"} <= set(rows[0])
    assert rows[2]["recovery"] is None
    whole_layers = [r for r in json.loads(_render(filled, "components", form="json")) if r["projection"] is None]
    assert len(whole_layers) == 6


def test_json_keeps_hostile_text_exactly(filled: Path, synthetic: ModuleType) -> None:
    out = _render(filled, "features", form="json")
    rows = json.loads(out)
    assert f"operators {synthetic.HOSTILE}" in {r["explanation"] for r in rows}
    assert len(out.splitlines()) == len(rows) + 2


def test_csv_has_a_line_per_row_and_every_column(filled: Path, synthetic: ModuleType) -> None:
    out = _render(filled, "features", form="csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == flat_keys(FeatureRow)
    assert len(rows) == 96 == len(out.splitlines()) - 1
    assert f"operators {visible(synthetic.HOSTILE)}" in {r["explanation"] for r in rows}
    failed = next(r for r in rows if r["reason"] == "the reply was not JSON")
    assert failed["grade"] == failed["explanation"] == ""


def test_markdown_rows_have_as_many_cells_as_the_head(filled: Path, synthetic: ModuleType) -> None:
    out = _render(filled, "features", "categories", form="md")
    tables = [block.splitlines() for block in out.split("\n\n") if block.startswith("|")]
    assert len(tables) == 1 + 2 + 2
    for head, _rule, *rows in tables:
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", head))
    assert "</script>" not in out
    assert r"\[red\]a\[/red\] &lt;/script&gt;" in out


def test_markdown_text_is_undone_by_unescaping() -> None:
    text = "a|b \\ *c* _d_ `e` [f](g) <h> & $i$ ~j~"
    assert html.unescape(re.sub(r"\\([\\`*_\[\]|~$])", r"\1", markdown_text(text))) == text


def test_latex_is_balanced_and_escaped(filled: Path) -> None:
    out = _render(filled, "recovery", "features", form="latex")
    body = re.sub(r"\\[{}%$#&_]", "", "\n".join(x for x in out.splitlines() if not x.startswith("%")))
    assert body.count("{") == body.count("}")
    assert not re.search(r"[%$#^~]", body)
    for environment in ("table*", "threeparttable", "tabularx", "tabular*", "tablenotes"):
        assert out.count(rf"\begin{{{environment}}}") == out.count(rf"\end{{{environment}}}")
    assert r"\textbackslash{}f \{g\} \$h\$ \& \_i\_" in out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % of #1 & $2_a^b~", r"50 \% of \#1 \& \$2\_a\textasciicircum{}b\textasciitilde{}"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("a -- b --- c", "a -{}- b -{}-{}- c"),
        ("<|x|>", r"\textless{}\textbar{}x\textbar{}\textgreater{}"),
    ],
)
def test_latex_text(text: str, expected: str) -> None:
    assert latex_text(text) == expected


def test_markup_and_terminal_escapes_are_shown_not_obeyed(filled: Path) -> None:
    out = _render(filled, "features", width=250, force_terminal=True, color_system="truecolor")
    assert "[red]a[/red] </script> b\\u2028c | d % e" in out
    assert "\x1b[31m" not in out
    assert "\\x1b[31m" in out


def test_visible() -> None:
    assert visible("a\nb\tc\x1b[0m\u202e\u2028\x85") == "a\\nb\\tc\\x1b[0m\\u202e\\u2028\\x85"
    assert visible("all ASCII\n\x1b[0m\x7f") == "all ASCII\\n\\x1b[0m\\x7f"
    assert visible("Größe × → 你好 👩\u200d🔬") == "Größe × → 你好 👩\u200d🔬"


def test_intervals_are_never_silent() -> None:
    assert with_interval(None) == "-"
    assert with_interval(Estimate(0.5, -math.inf, math.inf)) == ("0.500", "[unbounded]")
    assert with_interval(Estimate(0.5, -math.inf, 0.75)) == ("0.500", "[-, 0.750]")
    assert with_interval(Estimate(0.5, 0.25, 0.75)) == ("0.500", "[0.250, 0.750]")


def test_heat_map_of_many_layers_is_one_glyph_each(synthetic: ModuleType, tmp_path: Path) -> None:
    with Store.open(tmp_path / "r.db") as store:
        run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
        step, _ = store.begin_step(run, 0, **synthetic.step_values("ablate/leave-one-out", "ablate"))
        store.write_many(step, synthetic._leave_one_out(random.Random(0), 64))
        with store.engine.connect() as connection:
            rows = components(connection, run)
    stream = io.StringIO()
    Console(file=stream, width=100).print(heatmap(rows))
    gate = next(x for x in stream.getvalue().splitlines() if x.startswith("gate_proj"))
    assert len(re.findall("[<▁▂▃▄▅▆▇█]", gate)) == 64
    assert "…" not in stream.getvalue()


@pytest.mark.parametrize("n_layers", [2, 12])
def test_heat_map_marks_what_is_below_the_null_floor(n_layers: int) -> None:
    """Layer 1's floor is above its cell; layer 0's is not. With many layers the mark stands in place of the glyph."""
    rows = [
        SimpleNamespace(
            mode="zero", layer=layer, scope="component", projection="q_proj", method="exact",
            kl_nats=Estimate(1e-3, 0.0, 2e-3), null_floor_nats=2e-3 if layer == 1 else 1e-9,
            segment="response",
        )
        for layer in range(n_layers)
    ]  # fmt: skip
    stream = io.StringIO()
    Console(file=stream, width=100).print(heatmap(rows))
    lines = stream.getvalue().splitlines()
    cells = next(x for x in lines if x.startswith("q_proj")).split()[2:]
    assert cells == (["0.001", "<0.001"] if n_layers == 2 else ["█<" + 10 * "█"])
    assert any(x.startswith("null floor") for x in lines) == (n_layers == 2)


def test_cells_of_a_heat_map_have_a_scale_of_their_own_which_is_logarithmic_over_decades() -> None:
    """Whole layers a thousand times as large, and floors far below, leave the cells' colours as they are."""
    whole, floor = HeatRow("whole layer", (2000.0, 9000.0), apart=True), HeatRow("floor", (1e-12, 1e-12), plain=True)
    narrow = HeatMap("KL (x", (0, 1), (whole, HeatRow("q", (1.0, 4.0)), floor))
    assert (narrow.scale.share(1.0), narrow.scale.share(4.0)) == (0.25, 1.0)
    wide = HeatMap("KL (x", (0, 1, 2), (whole, HeatRow("q", (0.01, 0.1, 1.0)), floor))
    assert [wide.scale.share(v) for v in (0.01, 0.1, 1.0)] == pytest.approx([0.0, 0.5, 1.0])
    assert wide.heading() == "KL (x; colours from 0.01 to 1, logarithmic; whole layer: own scale)"
    assert [cell["share"] for cell in narrow.as_data()["rows"][0]["cells"]] == pytest.approx([2 / 9, 1.0])


@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_a_heat_map_is_as_wide_as_the_terminal_and_shows_every_layer(width: int) -> None:
    heat = HeatMap("KL (x", tuple(range(96)), (HeatRow("down_proj", tuple(float(i + 1) for i in range(96))),))
    lines = [line.plain for line in heat.as_lines(width)]
    assert max(map(len, lines)) <= width
    assert sum(len(re.findall("[▁▂▃▄▅▆▇█]", line)) for line in lines) == 96


def test_the_segment_is_said_above_the_numbers_and_in_the_heat_map(filled: Path) -> None:
    headline, prompt = _render(filled, "components"), _render(filled, "components", segment="prompt")
    assert "KL over the response's tokens (trace and answer, what training supervises): 20,480 tokens." in headline
    assert "KL over the prompt's tokens (training does not supervise them): 4,096 tokens." in prompt
    assert "in nats per response token, by layer" in headline
    assert "in nats per prompt token, by layer" in prompt
    assert "measured no KL over the answer's tokens" in _render(filled, "components", segment="answer")


def test_heat_map_needs_components() -> None:
    assert heatmap([]) is None


def test_an_empty_section_says_why(tmp_path: Path, synthetic: ModuleType) -> None:
    path = tmp_path / "r.db"
    with Store.open(path) as store:
        run = store.begin_run(study="[bold]s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
        step, _ = store.begin_step(run, 0, **synthetic.step_values("learn/x", "learn"))
        store.finish_step(step, status="failed", reason="[red]out of memory[/red]")
        store.finish_run(run, status="failed", reason="learn/x failed")
    assert "no dictionaries in run 1: learn/x is failed ([red]out of memory[/red])" in _render(path, "dictionaries")
    assert "study [bold]s" in _render(path, "overview")
    assert json.loads(_render(path, "dictionaries", form="json")) == []
    assert _render(path, "dictionaries", form="csv") == ""
    assert "% no dictionaries in run 1" in _render(path, "dictionaries", form="latex")
    for name in report_names():
        for form in FORMATS:
            _render(path, name, form=form)


def test_wrong_questions(filled: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="'recovery'"):
        _render(filled, "recover")
    with pytest.raises(UnknownName, match="'json'"):
        _render(filled, "recovery", form="jsn")
    with pytest.raises(UsageError, match="prints one report"):
        _render(filled, "recovery", "groups", form="csv")
    with pytest.raises(ResultsError, match="no results at"):
        _render(tmp_path / "none.db", "recovery")
    assert not (tmp_path / "none.db").exists()


def test_reports_import_nothing_heavy(filled: Path) -> None:
    code = (
        "import sys; from rich.console import Console; from harness.render.render import render\n"
        f"render([], db={str(filled)!r}, console=Console(file=open('/dev/null', 'w')))\n"
        "print([m for m in ('torch', 'scipy', 'pandas', 'alembic', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_comparisons_of_answers_of_different_engines_are_marked(
    store: Store, synthetic: ModuleType, tmp_path: Path
) -> None:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    step, _ = store.begin_step(run, 0, **synthetic.step_values("evaluate/all", "evaluate"))
    for benchmark, other in (("apart", "vllm 0.32"), ("alike", "hf")):
        for variant, right in (("base", 2), ("adapter", 5), ("full", 8), ("without-mlp", 4)):
            engine = other if variant == "without-mlp" or (variant == "full" and benchmark == "apart") else "hf"
            scores = [int(i < right) for i in range(10)]
            store.write(step, synthetic.evaluation(variant, benchmark, scores, engine=engine))
    store.finish_run(run, status="done")
    db = tmp_path / "results.db"
    for section, what in (("recovery", "apart"), ("groups", "mlp on apart")):
        rows = json.loads(_render(db, section, form="json"))
        assert {r["benchmark"] for r in rows if r["engines_differ"]} == {"apart"}
        table = _render(db, section, width=200)
        assert f"{what}: different engines: base: hf" in table, "the note names them"
        assert table.count("different engines") == 2, "and the cell says it"
