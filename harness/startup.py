"""What every process of the harness settles before the libraries load."""

from __future__ import annotations

import gc
import os


def prepare() -> None:
    """Threads that wait without spinning for long, and a collector that lets libraries load."""
    # OpenMP threads that wait by spinning make a shared machine 10 to 20 times slower. A short spin (tens of
    # microseconds, libgomp only) is worth a tenth: most parallel regions are as short.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # A child started by `python -c` or `-m` would import a signal.py or random.py that lies in the current folder.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    # The collector's own pace looks at every object of the libraries again and again while they load: a fifth of it.
    gc.set_threshold(50_000, 20, 20)
