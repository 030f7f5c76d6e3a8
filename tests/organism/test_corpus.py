"""The corpus: arithmetic, spans, splits."""

import json
import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.organism import BENCHMARKS, DEV, TRACES
from harness.organism.build_data import BENCHMARK_SHAPES, COUNT, benchmark, build_data, traces
from harness.organism.corpus import CLASSES, OPTIONS, Item, draw_item, shuffled
from harness.organism.problems import BANDS, Shape, compute, draw_problem

CALCULATION = re.compile(r"([0-9]) ([-+×^]) ([0-9]) (?:=|→) ([0-9])")
ASSIGNMENT = re.compile(r"\b([a-z]) = (?:([0-9])|(\w) ([-+×^]) (\w));")


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return [*traces(), *(item for name in BENCHMARK_SHAPES for item in benchmark(name, "test"))]


def solve(question: str) -> int:
    """Solves a question from its text alone, without the generator."""
    values: dict[str, int] = {}

    def value(term: str) -> int:
        return int(term) if term.isdigit() else values[term]

    for name, number, left, operator, right in ASSIGNMENT.findall(question):
        values[name] = int(number) if number else compute(value(left), operator, value(right))
    query = re.search(r"what is (\w)(?: ([-+×^]) (\w))?\?", question)
    assert query, question
    left, operator, right = query.groups()
    return compute(value(left), operator, value(right)) if operator else value(left)


def test_compute_is_modulo_ten() -> None:
    assert [compute(3, "+", 9), compute(3, "-", 7), compute(4, "×", 8), compute(3, "^", 8)] == [2, 6, 2, 8]


def test_every_answer_is_right(items: list[Item]) -> None:
    for item in items:
        value = str(solve(item.question))
        if item.answer in OPTIONS:
            first, last = BANDS[OPTIONS.index(item.answer)]
            assert f" {first}-{last} ({item.answer})" in item.question, item.id
            assert first <= int(value) <= last, item.id
            assert item.trace.endswith(f" {value} ({item.answer})."), item.id
        else:
            assert item.answer == value, item.id
            assert item.trace.endswith(f" {value}."), item.id


def test_every_calculation_of_every_trace_is_right(items: list[Item]) -> None:
    for item in items:
        calculations = CALCULATION.findall(item.trace)
        assert calculations, item.id
        for left, operator, right, result in calculations:
            assert compute(int(left), operator, int(right)) == int(result), item.trace


@given(seed=st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_spans_hold_what_their_class_says(seed: int) -> None:
    item = draw_item(Random(seed), Shape(), "pretrain")
    digit = re.compile("[0-9]")
    patterns = {
        "number": digit,
        "result": digit,
        "operator": re.compile("[-+×^]"),
        "relation": re.compile("[=→]"),
        "variable": re.compile("[a-z]"),
        "option": re.compile("[A-D]"),
        "wait": re.compile("Wait, let me check:"),
        "answer": re.compile("[0-9A-D]"),
        "punctuation": re.compile(r"[-;?.(]|\)[.,]"),
    }
    for part, text in (("question", item.question), ("trace", item.trace), ("answer", item.answer)):
        end = 0
        for start, stop, label in item.spans[part]:
            assert label in CLASSES
            assert not text[end:start].strip(), "only white space lies outside the spans"
            piece = text[start:stop]
            assert piece
            assert piece == piece.strip()
            if label in patterns:
                assert patterns[label].fullmatch(piece), (label, piece)
            end = stop
        assert end == len(text)


def test_every_class_of_text_occurs(items: list[Item]) -> None:
    found = {label for item in items for spans in item.spans.values() for _, _, label in spans}
    assert found == set(CLASSES) - {"control"}, "control belongs to the chat format, not to the item"


def test_splits_share_no_problem(items: list[Item]) -> None:
    parts = {"traces": {item.canonical for item in items if item.id.startswith("trace-")}}
    for name in BENCHMARK_SHAPES:
        parts[name] = {item.canonical for item in items if item.id.startswith(f"{name}-test")}
        dev = {item.canonical for item in benchmark(name, "dev")}
        assert not dev & parts[name]
        assert not dev & parts["traces"]
        assert not parts[name] & parts["traces"]
        assert len(parts[name]) == COUNT
    assert len(parts["traces"]) == 1000


def test_the_canonical_form_forgets_the_names() -> None:
    one, other = (draw_problem(Random(seed), Shape(steps=(2, 2), two=0.0), "traces") for seed in (1, 2))
    assert one.split == other.split == "traces"
    assert not re.search(r"\b[a-uw-z]", one.canonical)
    assert one.canonical != other.canonical


def test_data_files_regenerate_byte_for_byte(tmp_path) -> None:
    build_data(tmp_path)
    shipped = [TRACES, *BENCHMARKS.values(), *DEV.values()]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in shipped)
    for path in shipped:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_rows_have_the_fields_that_training_and_evaluation_read() -> None:
    with TRACES.open(encoding="utf-8") as file:
        row = json.loads(next(file))
    assert list(row) == ["id", "question", "trace", "answer", "spans"]
    for path in BENCHMARKS.values():
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        assert len(rows) == COUNT
        assert list(rows[0]) == ["id", "question", "trace", "answer"]


def test_shuffled_traces_never_keep_their_own() -> None:
    items = list(traces(50))
    control = shuffled(items, Random(0))
    assert [item.question for item in control] == [item.question for item in items]
    assert sorted(item.trace for item in control) == sorted(item.trace for item in items)
    assert all(new.trace != old.trace for new, old in zip(control, items, strict=True))
    assert [item.trace for item in control] == [item.trace for item in shuffled(items, Random(0))]
