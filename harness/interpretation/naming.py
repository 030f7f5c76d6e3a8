"""Whether an explanation names a class of tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache


def named_classes(explanation: str, words: Mapping[str, Sequence[str]]) -> set[str]:
    """The classes that an explanation names.

    A word names its class where it stands alone, in any case, also as a plural; a sign does where it stands alone
    between spaces or quotes.

    Args:
        explanation: a few words.
        words: class -> the words that name it.
    """
    return {name for name, own in words.items() if any(_pattern(word).search(explanation) for word in own)}


@lru_cache(maxsize=4096)
def _pattern(word: str) -> re.Pattern[str]:
    escaped = re.escape(word)
    if word[:1].isalnum():
        return re.compile(rf"(?<!\w){escaped}(?:s|es)?(?!\w)", re.IGNORECASE)
    return re.compile(rf"(?<![^\s'\"`(]){escaped}(?![^\s'\"`),.;:])")
