"""Where commands print: colours and width of a terminal, plain text in a pipe. NO_COLOR is respected."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def paged(console: Console) -> Iterator[None]:
    """Inside the block, what is printed goes to $PAGER once it is complete; pipes and NO_PAGER=1 get it as it is."""
    if not sys.stdout.isatty() or os.environ.get("NO_PAGER"):
        yield
        return
    import click

    with console.capture() as captured:
        yield
    os.environ.setdefault("LESS", "FRX")  # as git does: colours, no pager for what fits on a screen
    click.echo_via_pager(captured.get(), color=console.color_system is not None)
