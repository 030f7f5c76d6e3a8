"""The dashboard's files: what they say, what no text in them can do, and how they come and go."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zlib
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from harness.activations.store import open_set
from harness.errors import ResultsError, StorageError, UsageError
from harness.model.chat import ChatFormat
from harness.model.subject import load_subject
from harness.records import ModelRef
from harness.render.dashboard.components import adapter_norms
from harness.render.dashboard.documents import Coverage
from harness.render.dashboard.numbers import BINS, LEVELS, quantise
from harness.render.dashboard.scores import accuracy_interval
from harness.render.dashboard.scripts import as_json, packed_script, plain_script
from harness.render.dashboard.site import MARK, write_dashboard
from harness.render.dashboard.stored import ScoreRow, StoredFolder
from harness.store import schema
from harness.store.database import open_database
from harness.testing import tiny_adapter
from tests.dashboard_scripts import unpack

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def site(study: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study's dashboard."""
    out = tmp_path_factory.mktemp("site") / "dashboard"
    write_dashboard(study.db, artifacts=study.artifacts, out=out, n_documents=4)
    return out


def read(site: Path, name: str) -> Any:
    return unpack((site / "data" / f"{name}.js").read_bytes())


def details(site: Path) -> dict[tuple[str, str], Any]:
    """(source, feature) -> its entry, with its words."""
    catalogue = read(site, "catalogue")
    size = catalogue["shard_features"]
    sources = catalogue["vocabulary"]["sources"]
    found = {}
    for i, (source, name) in enumerate(zip(catalogue["source"], catalogue["feature"], strict=True)):
        shard = read(site, f"features/{i // size}")
        found[sources[source], name] = {
            **shard["features"][i % size],
            "words": shard["vocabulary"],
            "scale": catalogue["scale"][i],
        }
    return found


# scripts


@given(st.text() | st.text(st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Zp"])))
def test_any_text_survives_and_no_byte_of_it_is_markup(text: str) -> None:
    for script in (plain_script("x", [text]), packed_script("x", [text])):
        (read_back,) = unpack(script)
        # Two lone surrogates in a row are one character, as in a browser.
        assert read_back.encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")
        assert not set(script) & set(b"<&\x00\x7f")
        assert script.count(b"\n") == 1
        assert script.isascii()


def test_numbers_without_a_value_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        as_json([float("nan")])


def test_what_is_packed_is_raw_deflate_in_base64() -> None:
    import base64

    script = packed_script("a/b", {"x": [1, 2]}).decode()
    match = re.fullmatch(r'dashboard\.provide\("a/b", "([A-Za-z0-9+/=]+)"\);\n', script)
    assert match
    assert json.loads(zlib.decompress(base64.b64decode(match[1]), -15)) == {"x": [1, 2]}


# what it says


def test_every_feature_is_in_the_catalogue_in_stored_order(site: Path, study: Any) -> None:
    catalogue = read(site, "catalogue")
    engine = open_database(study.db)
    with engine.connect() as connection:
        f = schema.Feature
        stored = connection.execute(select(f.source, f.feature, f.activation_max, f.density_per_token)).all()
    engine.dispose()
    names = [catalogue["vocabulary"]["sources"][s] for s in catalogue["source"]]
    assert list(zip(names, catalogue["feature"], strict=True)) == [(r.source, r.feature) for r in stored]
    np.testing.assert_allclose(catalogue["max"], [r.activation_max for r in stored], rtol=1e-4)
    np.testing.assert_allclose(catalogue["density"], [r.density_per_token for r in stored], rtol=1e-4)


def test_contexts_are_the_exemplars_with_both_signs_of_what_is_stored(site: Path, study: Any) -> None:
    stored = open_set(study.artifacts / "probe-adapter-activations" / "activations")
    for (source, name), entry in details(site).items():
        if source != "adapter-activations":
            continue
        c, column = entry["contexts"], stored.columns.index(name[:-1])
        assert c["both_signs"]
        assert sum(q is None for q in c["quantile"]) == 16
        assert c["quantile"][:16] == [None] * 16
        assert len(c["quantile"]) > 16
        at = 0
        for k, length in enumerate(c["length"]):
            document = stored.document(c["documents"][c["document"][k]])
            text = "".join(entry["words"][t] for t in c["tokens"][at : at + length])
            begin, end = document.offsets[c["start"][k], 0], document.offsets[c["start"][k] + length - 1, 1]
            assert text == document.text[begin:end]
            true = document.values[c["start"][k] : c["start"][k] + length, column].astype(np.float32)
            true[~document.ranked[c["start"][k] : c["start"][k] + length]] = 0
            shown = np.array(c["values"][at : at + length]) * entry["scale"] / LEVELS
            np.testing.assert_allclose(shown, true, atol=entry["scale"] * 0.51 / LEVELS)
            sign = -1 if name.endswith("-") else 1
            assert sign * shown[c["target"][k]] == pytest.approx(c["peak"][k], abs=entry["scale"] / LEVELS)
            at += length


def test_the_histogram_counts_every_active_token(site: Path, study: Any) -> None:
    sets = {
        "adapter-activations": open_set(study.artifacts / "probe-adapter-activations" / "activations"),
        "batch-topk": open_set(study.artifacts / "learn-batch-topk" / "latents"),
    }
    columns = {
        source: np.concatenate([d.values[d.ranked] for d in stored.documents()]).astype(np.float32)
        for source, stored in sets.items()
    }
    for (source, name), entry in details(site).items():
        values = columns[source][:, sets[source].columns.index(name.rstrip("+-"))]
        h = entry["histogram"]
        active = values[values != 0]
        assert sum(h["counts"]) == len(active)
        if len(active):
            expected, edges = np.histogram(active, bins=BINS, range=(h["low"], h["high"]))
            near_edge = sum(np.isclose(active[:, None], edges[1:-1], rtol=1e-5).any(1))
            assert np.abs(np.array(h["counts"]) - expected).sum() <= 2 * near_edge


def test_scores_and_enrichment_stand_with_their_features(site: Path) -> None:
    found = details(site)
    (scored,) = found["batch-topk", "latent6"]["scores"]
    assert (scored["kind"], scored["balanced_accuracy"], scored["auc"]) == ("detection", 0.85, 0.91)
    assert 0.6 < scored["ci_low"] < 0.85 < scored["ci_high"] < 1
    assert found["batch-topk", "latent7"]["scores"] == []
    (event,) = found["batch-topk", "latent7"]["events"]
    assert (event["event"], event["odds_ratio"], event["ci_low"]) == ("<i>Wait</i>", 12.5, 7.1)
    catalogue = read(site, "catalogue")
    at = catalogue["feature"].index("latent6")
    assert [e[4] for found in catalogue["explanations"][at : at + 2] for e in found] == [0.85, None]


def test_what_a_feature_writes_and_causes_stands_with_it(site: Path) -> None:
    causes = details(site)["batch-topk", "latent7"]["causes"]
    written = causes["written"]
    assert written["promoted"] == [" wait", "</script>"]
    assert (written["p_promoted"], written["n_null"]) == (0.0004, 200)
    assert written["raised"] == [["\u202e", 0.3, 0.05], ["b", 0.2, 0.05], ["c", 0.1, 0.05]]
    assert written["lowered"] == [["g", -0.4, 0.05], ["f", -0.3, 0.05], ["e", -0.2, 0.05], ["d", -0.1, 0.05]]
    assert causes["off"]["kl"] == {"value": 0.02, "low": 0.01, "high": 0.03}
    (dose,) = causes["steered"]
    assert (dose["effect"], dose["control"], dose["excess"]["value"], dose["p"]) == (True, "random", 0.4, 0.001)


def test_both_signs_of_a_component_have_the_effect_of_switching_it_off(site: Path) -> None:
    found = details(site)
    up, down = (found["adapter-activations", f"L1.up_proj{sign}"]["causes"] for sign in "+-")
    assert up["off"] == down["off"] == {
        "kl": {"value": 0.05, "low": 0.04, "high": 0.065}, "share": 0.1, "n_documents": up["off"]["n_documents"],
        "n_active": None, "n_tokens": None,
    }  # fmt: skip
    assert down["written"]["promoted"] == []
    assert down["written"]["reason"] == "up_proj does not write into the stream"


def test_what_is_not_known_of_a_features_effects_has_its_reason(site: Path) -> None:
    causes = details(site)["batch-topk", "latent8"]["causes"]
    assert (causes["written"], causes["off"], causes["steered"]) == (None, None, [])
    assert causes["why_unwritten"].startswith("only components of the adapter")
    assert causes["why_not_off"] == "it is not among those switched off"
    assert causes["why_unsteered"] == "this run steers batch-topk/latent7"


def test_a_dead_feature_is_there_and_says_so(site: Path) -> None:
    dead = details(site)["batch-topk", "latent39"]
    assert dead["contexts"]["length"] == []
    assert dead["full"] == {"number": None, "reason": "it is active nowhere"}


def test_the_full_document_is_the_one_of_the_strongest_context(site: Path) -> None:
    for (_, name), entry in details(site).items():
        if entry["full"]["number"] is None:
            continue
        c = entry["contexts"]
        text = read(site, f"documents/{entry['full']['number']}/text")
        assert text["document"] == entry["full"]["document"] == c["documents"][c["document"][0]]
        assert len(text["tokens"]) == len(entry["full"]["values"]) == 120
        own = [-v if name.endswith("-") else v for v in entry["full"]["values"]]
        assert max(own) == own[c["position"][0]] > 0


def test_a_kept_document_has_every_feature(site: Path, study: Any) -> None:
    run = read(site, "run")
    stored = {
        0: open_set(study.artifacts / "probe-adapter-activations" / "activations"),
        1: open_set(study.artifacts / "learn-batch-topk" / "latents"),
    }
    scales = {(e, n): d["scale"] for (e, n), d in details(site).items()}
    assert len(run["documents"]) == 4 + 1, "four that show most features, and one with an attributed token"
    assert {d["document"]: d["n_attributed"] for d in run["documents"] if d["n_attributed"]} == {"trace-0003": 1}
    for kept in run["documents"]:
        top = read(site, f"documents/{kept['number']}/top")
        for source, activations in stored.items():
            document = activations.document(kept["document"])
            columns = []
            while len(columns) < len(activations.columns):
                columns += read(site, f"documents/{kept['number']}/{source}-{len(columns) // kept['block_columns']}")
            levels = np.array(columns).T
            assert levels.shape == document.values.shape
            for j, name in enumerate(activations.columns):
                scale = scales[activations.set.source, name + ("+" if source == 0 else "")]
                true = np.where(document.ranked, document.values[:, j].astype(np.float32), 0)
                np.testing.assert_allclose(levels[:, j] * scale / LEVELS, true, atol=scale * 0.51 / LEVELS + 1e-6)
            strongest = np.abs(levels).max(1)
            for row, best in zip(top[str(source)], strongest, strict=True):
                assert (abs(row[1]) if row else 0) == (best if best >= LEVELS // 20 else 0)


def test_components_have_their_kl_their_norms_and_the_latents_that_write_to_them(site: Path, study: Any) -> None:
    from safetensors.numpy import load_file

    data = read(site, "components")
    decoder = load_file(study.artifacts / "learn-batch-topk" / "dictionary" / "sae_weights.safetensors")["W_dec"]
    adapter = load_file(study.artifacts / "train-rank1-lora" / "adapter" / "adapter_model.safetensors")
    largest = {n: e["scale"] for (s, n), e in details(site).items() if s == "batch-topk"}
    assert [c["component"] for c in data["components"]] == [
        f"L{i}.{p}" for i in range(2) for p in ("q_proj", "up_proj", "down_proj")
    ]
    assert data["notes"] == []
    for j, c in enumerate(data["components"]):
        (ablation,) = c["ablations"]
        assert ablation["kl_nats"] == pytest.approx(0.01 * (j + 1))
        assert ablation["kl_ci_low"] < ablation["kl_nats"] < ablation["kl_ci_high"]
        a = adapter[f"base_model.model.model.layers.{c['layer']}.mlp.{c['projection']}.lora_A.weight"]
        assert c["norms"]["a_norm"] == pytest.approx(float(np.linalg.norm(a)), rel=1e-5)
        assert c["norms"]["scaling"] == 4
        writes = {f"latent{i}": w * largest[f"latent{i}"] for i, w in enumerate(decoder[:, j].tolist())}
        best = sorted(writes, key=lambda n: -abs(writes[n]))[:12]
        assert [entry["feature"] for entry in c["latents"]["batch-topk"]] == best
        assert [f for _, f in c["features"]] == [c["component"] + "+", c["component"] + "-"]


@pytest.mark.parametrize(("rank", "rslora"), [(1, True), (3, False), (4, True)])
def test_norms_are_those_of_the_loaded_adapter(tiny_base: ModelRef, tmp_path: Path, rank: int, rslora: bool) -> None:
    folder = tmp_path / "train-x" / "adapter"
    made = tiny_adapter(tiny_base, folder, rank=rank, rslora=rslora)
    subject = load_subject(tiny_base, ChatFormat(), made)
    found, why = adapter_norms(StoredFolder("train/x", "train-x", str(folder)), tmp_path)
    assert why is None
    assert set(found) == {c.name for c in subject.components}
    for c in subject.components:
        values = (found[c.name].a_norm, found[c.name].b_norm, found[c.name].scaling)
        # float32 sums in another order
        assert values == pytest.approx((c.a_norm, c.b_norm, c.scaling), rel=1e-4)


def score(ratings: list[tuple[bool, float | None]], accuracy: float | None, kind: str = "detection") -> ScoreRow:
    n = sum(truth for truth, _ in ratings)
    return ScoreRow("lexical", kind, accuracy, None, n, len(ratings) - n, 0, None, ratings)


def test_a_scores_interval_holds_its_balanced_accuracy() -> None:
    ratings = [(True, 0.9)] * 18 + [(True, 0.1)] * 2 + [(False, 0.2)] * 15 + [(False, None)] * 5
    low, high = accuracy_interval(score(ratings, (0.9 + 0.75) / 2))
    # Wilson: 18 of 20 is [.699, .972], 15 of 20 is [.531, .888] (scipy's binomtest); MOVER by hand.
    assert low == pytest.approx(0.825 - ((0.9 - 0.6990) ** 2 + (0.75 - 0.5313) ** 2) ** 0.5 / 2, abs=1e-3)
    assert high == pytest.approx(0.825 + ((0.9721 - 0.9) ** 2 + (0.8881 - 0.75) ** 2) ** 0.5 / 2, abs=1e-3)
    assert accuracy_interval(score(ratings, 0.5)) == (None, None), "scored by another rule"
    assert accuracy_interval(score(ratings, None)) == (None, None)
    assert accuracy_interval(score([(True, 1.0)] * 8, 0.5, "intruder")) == pytest.approx((0.2152, 0.7848), abs=1e-3)


def test_without_artefacts_the_contexts_are_there_and_the_rest_says_why_not(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "site"
    write_dashboard(study.db, artifacts=tmp_path / "elsewhere", out=out)
    run = read(out, "run")
    assert run["documents"] == []
    assert all("--artifacts" in s["reason"] for s in run["sources"])
    entry = details(out)["adapter-activations", "L0.q_proj-"]
    assert not entry["contexts"]["both_signs"]
    assert min(entry["contexts"]["values"]) == -LEVELS
    assert max(entry["contexts"]["values"]) == 0
    assert "--artifacts" in entry["full"]["reason"]
    assert entry["histogram"]["counts"] is None
    notes = " ".join(read(out, "components")["notes"])
    assert "norms are not known" in notes
    assert "batch-topk: its decoder cannot be read" in notes


def test_a_path_in_the_database_leads_nowhere_else(study: Any, tmp_path: Path) -> None:
    db = tmp_path / "results.db"
    shutil.copy(study.db, db)
    shutil.copytree(study.artifacts, tmp_path / "secret")
    engine = open_database(db)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE step SET artifact = '../secret/' || artifact")
    engine.dispose()
    (tmp_path / "artifacts").mkdir()
    write_dashboard(db, artifacts=tmp_path / "artifacts", out=tmp_path / "site")
    assert all(s["reason"] for s in read(tmp_path / "site", "run")["sources"])


# numbers


def test_levels_keep_sign_and_stay_within_the_scale() -> None:
    values = np.array([-3.0, -1.0, 0.0, 0.0004, 0.5, 1.0, 9.0])
    assert quantise(values, 1.0).tolist() == [-1000, -1000, 0, 0, 500, 1000, 1000]
    assert quantise(values, 0.0).tolist() == [0] * 7


def test_documents_are_chosen_to_show_most_features() -> None:
    coverage = Coverage()
    for feature, documents in enumerate([["a", "b"], ["a"], ["b", "c"], ["c"], ["d"], ["a"]]):
        coverage.add(feature, documents)
    assert coverage.choose(2) == ["a", "c"]
    assert coverage.choose(10) == ["a", "c", "d", "b"]


# how it comes and goes


def test_a_new_one_replaces_the_old_one_whole(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "site"
    write_dashboard(study.db, artifacts=study.artifacts, out=out)
    (out / "data" / "stale.js").write_text("old")
    write_dashboard(study.db, artifacts=study.artifacts, out=out)
    assert not (out / "data" / "stale.js").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["site"]
    assert out.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def test_the_same_run_gives_the_same_bytes(study: Any, site: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_dashboard(study.db, artifacts=study.artifacts, out=again, n_documents=4)
    one, two = (
        {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()} for root in (site, again)
    )
    assert one == two


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_is_not_a_dashboard_is_left_alone(study: Any, tmp_path: Path, what: str) -> None:
    out = tmp_path / "precious"
    if what == "folder":
        out.mkdir()
        (out / "thesis.tex").write_text("x")
    else:
        out.write_text("x")
    with pytest.raises(UsageError, match="not a dashboard"):
        write_dashboard(study.db, artifacts=study.artifacts, out=out)
    assert out.exists()


def test_a_failure_leaves_the_old_one_and_no_rubbish(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "site"
    write_dashboard(study.db, artifacts=study.artifacts, out=out)
    before = (out / MARK).stat().st_mtime_ns
    real = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "catalogue.js":
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"catalogue\.js: No space left"):
        write_dashboard(study.db, artifacts=study.artifacts, out=out)
    assert (out / MARK).stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == ["site"]


def test_no_run_and_no_database_are_sentences(tmp_path: Path, study: Any) -> None:
    with pytest.raises(ResultsError, match="no results at"):
        write_dashboard(tmp_path / "no.db", artifacts=tmp_path, out=tmp_path / "site")
    with pytest.raises(ResultsError, match="no run '9'"):
        write_dashboard(study.db, run="9", artifacts=tmp_path, out=tmp_path / "site")
    assert list(tmp_path.iterdir()) == []


def test_the_command_names_the_page(study: Any, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from harness.cli import cli

    out = tmp_path / "site"
    arguments = ["dashboard", "--db", str(study.db), "--artifacts", str(study.artifacts), "--out", str(out)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert str(out / "index.html") in done.output
    assert "52 features" in done.output


# the pages


PAGES = files("harness.render.dashboard") / "static"


def sources() -> dict[str, str]:
    folder = Path(str(PAGES))
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in folder.rglob("*") if p.is_file()}


def test_no_page_parses_text_as_markup_or_code() -> None:
    ways = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc|\beval\b"
        r"|new Function|setTimeout\(\s*[\"'`]|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|https?://(?!www\.w3\.org/2000/svg)"
    )
    for name, text in sources().items():
        assert not ways.search(text), (name, ways.search(text))


def test_every_file_is_loaded_by_the_page_and_the_page_loads_no_other() -> None:
    index = sources()["index.html"]
    loaded = set(re.findall(r'(?:src|href)="([^"#]+)"', index))
    assert loaded == set(sources()) - {"index.html"}
    assert "default-src 'none'" in index
    assert "unsafe" not in index


def test_pages_are_short_enough_to_read() -> None:
    for name, text in sources().items():
        limit = 600 if name.endswith(".css") else 300
        assert text.count("\n") <= limit, name
        assert max(map(len, text.splitlines())) <= 160, name


def test_the_wheel_holds_the_pages() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["harness"]
    packed = {str(p.relative_to(ROOT / "harness")) for pattern in patterns for p in (ROOT / "harness").glob(pattern)}
    assert {f"render/dashboard/static/{name}" for name in sources()} <= packed


def test_the_command_line_stays_light() -> None:
    code = "import sys, harness.cli; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'sqlalchemy')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_study_of_another_size_has_as_many_shards_as_it_needs(studies: ModuleType, tmp_path: Path) -> None:
    made = studies.make_study(tmp_path, n_latents=90, n_documents=6, n_tokens=80, n_exemplars=4)
    write_dashboard(made.db, artifacts=made.artifacts, out=tmp_path / "site", n_documents=0)
    assert len(list((tmp_path / "site" / "data" / "features").iterdir())) == -(-(90 + 12) // 32)
    assert read(tmp_path / "site", "run")["documents"] == []
