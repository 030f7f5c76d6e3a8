"""gsm8k_cot is graded twice from one generation: strictly, and by the last number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.benchmarks.answerer import InMemory
from harness.benchmarks.evaluate import evaluate
from harness.benchmarks.grading import box_last_number, grade_number
from harness.contract.settings import EvaluateConfig
from harness.model.chat import ChatFormat
from harness.model.subject import load_subject
from harness.testing import tiny_model


@pytest.mark.parametrize("more", [{}, {"repeats": 2, "temperature": 1.0}])
def test_every_answer_has_both_grades(tmp_path: Path, more: dict[str, float]) -> None:
    subject = load_subject(tiny_model(tmp_path / "base"), ChatFormat())
    rows = [{"question": f"what is 3 + {i}?", "answer": f"3 + {i} = {3 + i}\n#### {3 + i}"} for i in range(3)]
    file = tmp_path / "gsm8k.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = EvaluateConfig.model_validate(
        {"data": {"gsm8k_cot": str(file)}, "max_gen_toks": 24, "batch_size": 8, **more}
    )
    result = evaluate(InMemory(subject), "gsm8k_cot", variant="base", settings=settings)
    assert len(result.samples) == 3 * int(more.get("repeats", 1))
    for sample in result.samples:
        (((boxed,),),) = (box_last_number([[sample.response]]),)
        assert sample.score == grade_number({"answer": f"#### {sample.target}"}, [sample.response])["exact_match"]
        assert sample.score_flexible == grade_number({"answer": f"#### {sample.target}"}, [boxed])["exact_match"]
