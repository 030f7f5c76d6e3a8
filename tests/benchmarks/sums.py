"""A benchmark of sums as a local lm-eval task, for tests of whatever answers it."""

from __future__ import annotations

import json
from pathlib import Path

from harness.testing import tiny_traces

TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<|im_end|>"], max_gen_toks: 12, do_sample: false}
filter_list:
  - name: answer
    filter:
      - {function: regex, regex_pattern: "([0-9])", group_select: -1}
      - {function: take_first}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""


def write_sums(folder: Path, n: int) -> Path:
    """The folder, with the task and `n` items in it."""
    rows = [{"question": t.question, "answer": t.answer} for t in tiny_traces(n)]
    (folder / "sums.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    (folder / "sums.yaml").write_text(TASK)
    return folder
