"""Several training seeds: how they are written, and runs one after another of which none stops the others."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

from harness.errors import HarnessError, UsageError
from harness.study.display import RunSummary

MOST = 1000
"""Seeds or runs that one list names at most: more is a slip of the keyboard."""
_PART = re.compile(r"(\d+)(?:-(\d+))?")
_log = logging.getLogger(__name__)


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """`0-4` or `0,3,7` or `0-2,7` -> the numbers, each once, in that order.

    Raises:
        UsageError: not such a list, a range that runs backwards, or more than `MOST` numbers.
    """
    numbers: dict[int, None] = {}
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"{option} {text!r}: {part.strip()!r} is no number or range; write 0-4 or 0,3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"{option} {text!r}: {part.strip()} runs backwards; write {last}-{first}")
        if last - first >= MOST or len(numbers) >= MOST:
            raise UsageError(f"{option} {text!r}: more than {MOST} numbers")
        numbers.update(dict.fromkeys(range(first, last + 1)))
    return tuple(numbers)


def run_seeds(
    seeds: Sequence[int], run: Callable[[int], RunSummary], tell: Callable[[str], None]
) -> tuple[dict[int, RunSummary], dict[int, str]]:
    """Run each seed; one that fails does not stop the others.

    Returns:
        Seed -> summary of its run, of those that ran to their end; seed -> why it failed.

    Args:
        seeds: in this order.
        run: does a seed.
        tell: takes a sentence for the user.

    Raises:
        UsageError: a mistake of the user's, which every seed would meet.
        KeyboardInterrupt: what is done is kept.
    """
    runs: dict[int, RunSummary] = {}
    failed: dict[int, str] = {}
    for number, seed in enumerate(seeds, 1):
        tell(f"seed {seed} ({number} of {len(seeds)})")
        try:
            runs[seed] = run(seed)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever ends one seed, the others are not to pay for it
            failed[seed] = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
            _log.debug("seed %s", seed, exc_info=True)
            tell(f"seed {seed} failed: {failed[seed]}")
    return runs, failed
