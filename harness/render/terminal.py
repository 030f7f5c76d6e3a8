"""Where commands print: colours and width of a terminal, plain text in a pipe. NO_COLOR is respected."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120
"""Width in columns where the output is not a terminal."""


def make_console(*, stderr: bool = False) -> Console:
    """Make a console on stdout or stderr. Rich is imported here to keep `harness --help` fast."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(stderr=stderr, width=width, soft_wrap=False)
