"""data.cut: long traces are cut at paragraphs and fit; what people train on is recognised by its fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import DataError, UsageError
from harness.model.chat import ChatFormat
from harness.model.cut import cut_traces, refuse_most_left_out
from harness.model.subject import Subject
from harness.model.traces import DataConfig, load_traces
from harness.records import Trace
from harness_plugins.trainers.examples import make_examples

PARAGRAPHS = [f"Step {i}: {i} × {i + 1} → {i * (i + 1)}." for i in range(60)]
LONG = Trace(
    id="long",
    question="What is 59 × 60?",
    trace="\n\n".join(PARAGRAPHS),
    answer="\n\n".join([*(f"First {i}." for i in range(40)), "So it is 3540."]),
    spans={"trace": ((0, 4, "step"), (len("\n\n".join(PARAGRAPHS)) - 1, len("\n\n".join(PARAGRAPHS)), "stop"))},
)
SHORT = Trace(id="short", question="1 + 1?", trace="1 + 1 = 2.", answer="2")


def n_tokens(subject: Subject, trace: Trace) -> int:
    return len(subject.chat.document(subject.tokenizer, trace).ids)


@pytest.mark.parametrize("limit", [100, 120, 300])
def test_a_long_trace_is_question_paragraphs_in_a_row_and_the_answers_end(tiny_subject: Subject, limit: int) -> None:
    cut = cut_traces([SHORT, LONG], ChatFormat(), tiny_subject.tokenizer, limit)
    short, long = cut.traces
    assert short == SHORT
    assert n_tokens(tiny_subject, long) <= limit
    assert n_tokens(tiny_subject, long) > limit / 2, "room is used"
    assert long.question == LONG.question
    assert LONG.answer.endswith(long.answer)
    assert long.answer.endswith("So it is 3540.")
    kept = long.trace.split("\n\n")
    start = PARAGRAPHS.index(kept[0])
    assert kept == PARAGRAPHS[start : start + len(kept)]
    assert (cut.n_cut, cut.n_tokens) == (1, sum(n_tokens(tiny_subject, t) for t in (short, long)))
    assert cut.n_tokens_before == sum(n_tokens(tiny_subject, t) for t in (SHORT, LONG))
    assert cut.kept_share == pytest.approx(cut.n_tokens / cut.n_tokens_before)


def test_the_window_is_drawn_by_the_id_and_differs_between_rows(tiny_subject: Subject) -> None:
    many = [LONG.model_copy(update={"id": f"r{i}"}) for i in range(20)]
    first = cut_traces(many, ChatFormat(), tiny_subject.tokenizer, 120).traces
    again = cut_traces(many[::-1], ChatFormat(), tiny_subject.tokenizer, 120).traces
    assert first == again[::-1]
    assert len({t.trace for t in first}) > 10


def test_spans_move_with_the_text(tiny_subject: Subject) -> None:
    labelled = LONG.model_copy(
        update={
            "spans": {
                "trace": tuple((a, a + 4, "step") for a in range(len(LONG.trace)) if LONG.trace[a:].startswith("Step"))
            }
        }
    )
    (cut,) = cut_traces([labelled], ChatFormat(), tiny_subject.tokenizer, 120).traces
    assert cut.spans["trace"]
    assert len(cut.spans["trace"]) == cut.trace.count("Step")
    assert {cut.trace[a:b] for a, b, _ in cut.spans["trace"]} == {"Step"}


def test_a_trace_without_paragraphs_is_cut_at_lines_and_one_without_lines_is_left_out(tiny_subject: Subject) -> None:
    lines = LONG.model_copy(update={"trace": LONG.trace.replace("\n\n", "\n"), "spans": {}})
    block = LONG.model_copy(update={"id": "b", "trace": LONG.trace.replace("\n\n", " "), "spans": {}})
    cut = cut_traces([lines, block], ChatFormat(), tiny_subject.tokenizer, 120)
    assert n_tokens(tiny_subject, cut.traces[0]) <= 120
    assert set(cut.traces[0].trace.split("\n")) <= set(PARAGRAPHS)
    assert (len(cut.traces), cut.n_cut, cut.n_too_long) == (1, 1, 1)
    with pytest.raises(DataError, match="2 of 3 examples are longer than max_length=120"):
        cut_traces([lines, block, block], ChatFormat(), tiny_subject.tokenizer, 120)


def test_more_than_half_left_out_is_an_error_that_names_the_cures(tiny_subject: Subject) -> None:
    many = [SHORT, *(LONG.model_copy(update={"id": f"r{i}"}) for i in range(3))]
    with pytest.raises(DataError, match=r"3 of 4 examples .* max_length=120 .* data\.cut=paragraphs"):
        make_examples(many, ChatFormat(), tiny_subject.tokenizer, 120)
    cut = cut_traces(many, ChatFormat(), tiny_subject.tokenizer, 120).traces
    assert len(make_examples(cut, ChatFormat(), tiny_subject.tokenizer, 120).rows) == 4
    refuse_most_left_out(2, 4, 120)


@pytest.mark.parametrize("value", ["none", "paragraphs", "paragraphs:64"])
def test_the_setting(value: str) -> None:
    assert DataConfig(path="x", cut=value).cut_tokens == (64 if ":" in value else None)
    with pytest.raises(UsageError, match=r"data\.cut"):
        DataConfig.merged("data", {"path": "x", "cut": value + ":x"})


# Data sets that people train on

THOUGHT = "<think>\nSo 1 + 1 = 2.\n</think>\n\nIt is 2."
LAYOUTS: dict[str, dict[str, Any]] = {
    "s1K-1.1": {"solution": "2", "question": "1 + 1?", "cot_type": "math", "metadata": "{}", "cot": None,
                "deepseek_thinking_trajectory": "So 1 + 1 = 2.", "deepseek_attempt": "It is 2.",
                "gemini_thinking_trajectory": "other", "gemini_attempt": "other"},
    "s1K": {"solution": "2", "question": "1 + 1?", "cot_type": "math", "source_type": "x", "metadata": "{}",
            "thinking_trajectories": ["So 1 + 1 = 2."], "attempt": "It is 2."},
    "OpenThoughts-114k": {"system": "Think.", "conversations": [
        {"from": "user", "value": "1 + 1?"},
        {"from": "assistant", "value": "<|begin_of_thought|>\n\nSo 1 + 1 = 2.\n\n<|end_of_thought|>\n\n"
                                       "<|begin_of_solution|>\n\nIt is 2.\n\n<|end_of_solution|>"}]},
    "OpenThoughts3": {"difficulty": 1, "conversations": [{"from": "human", "value": "1 + 1?"},
                                                         {"from": "gpt", "value": THOUGHT}]},
    "OpenThoughts, metadata": {"problem": "1 + 1?", "deepseek_reasoning": "So 1 + 1 = 2.",
                               "deepseek_solution": "It is 2.", "ground_truth_solution": "2"},
    "LIMO": {"question": "1 + 1?", "solution": "So 1 + 1 = 2.", "answer": "It is 2."},
    "OpenR1-Math": {"problem": "1 + 1?", "solution": "2", "answer": "2",
                    "generations": ["<think>\nno end", "<think>wrong</think>3", THOUGHT],
                    "correctness_math_verify": [False, False, True]},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("array", [False, True])
def test_fields_of_known_data_sets_are_recognised(name: str, array: bool, tmp_path: Path) -> None:
    file = tmp_path / ("d.json" if array else "d.jsonl")
    file.write_text(json.dumps([LAYOUTS[name]], indent=1) if array else json.dumps(LAYOUTS[name]) + "\n")
    (trace,) = load_traces(DataConfig(path=str(file)))
    assert (trace.question, trace.trace, trace.answer) == ("1 + 1?", "So 1 + 1 = 2.", "It is 2.")


def test_a_named_field_wins_over_the_layout(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps(LAYOUTS["s1K-1.1"]) + "\n")
    (trace,) = load_traces(DataConfig(path=str(tmp_path / "d.jsonl"), trace="gemini_thinking_trajectory"))
    assert (trace.trace, trace.answer) == ("other", "It is 2.")


def test_an_unknown_file_names_its_fields_and_the_settings(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps({"prompt": "a", "reasoning": "b", "reply": "c"}) + "\n")
    with pytest.raises(DataError) as caught:
        load_traces(DataConfig(path=str(tmp_path / "d.jsonl")))
    for word in (
        "prompt, reasoning, reply",
        "--set data.question=FIELD",
        "--set data.trace=FIELD",
        "--set data.answer=",
    ):
        assert word in str(caught.value)


def test_a_generation_without_an_end_is_no_trace(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps({**LAYOUTS["OpenR1-Math"], "generations": ["<think>\nno end"]}) + "\n")
    with pytest.raises(DataError, match="row 1, field 'generations'"):
        load_traces(DataConfig(path=str(tmp_path / "d.jsonl")))


def test_one_object_of_rows_is_read(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"a": LAYOUTS["LIMO"], "b": LAYOUTS["LIMO"]}, indent=1))
    assert [t.id for t in load_traces(DataConfig(path=str(tmp_path / "d.json")))] == ["a", "b"]


def test_one_object_of_texts_says_what_it_is(shared_data: Path) -> None:
    file = shared_data / "s1k11_rollouts100" / "rollout_contexts.json"
    with pytest.raises(DataError, match=r"one JSON object with the keys 0, 1, 2, \.\.\., not rows"):
        load_traces(DataConfig(path=str(file)))
