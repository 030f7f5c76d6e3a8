"""What can go wrong, as sentences a user can act on.

HarnessError            exit 1: the run stopped; what is stored stays stored
├── UsageError          exit 2: the command line, the registry or a config is wrong
│   ├── UnknownName     a name nobody offers; the nearest are named
│   └── RegistryError     a fault in registry.yaml (file, line, field)
├── ModelError          a model, tokenizer or adapter that cannot be used
├── DataError           a data file that cannot be used (the row is named)
├── ResultsError        results.db cannot be opened, read or written
├── ProviderError       an LLM provider refused or cannot be reached
├── Waiting   exit 75   calls are in a vendor's batch; run again to collect them
└── StorageError        the disk is full or a folder is not writable
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

_SCHEME = "[A-Za-z][A-Za-z0-9+.-]{0,30}://"  # bounded: a long text without a URL is searched in linear time
_URL = re.compile(rf"({_SCHEME})(\S+)")
_EACH_URL = re.compile(rf"({_SCHEME})((?:(?!{_SCHEME})\S)+)")
_URL_AND_REST = re.compile(rf"({_SCHEME})(.+)", re.DOTALL)
_USER_INFO = re.compile(r"(?:[^:/?#@]*:.*|[^/?#]*)@", re.DOTALL)


def masked_url(text: str) -> str:
    """`text` with the user info and the query of each URL in it replaced by ***.

    A URL ends at white space. Where a password holds a reserved character, more is masked rather than less.

    >>> masked_url("postgresql://me:secret@host/db?sslkey=k is away")
    'postgresql://***@host/db?*** is away'
    """
    for url in (_URL, _EACH_URL):  # each one: a list of URLs need not have white space in it
        text = url.sub(_masked_match, text)
    return text


def masked_argument(text: str) -> str:
    """A command line's argument or a setting's value, masked as by `masked_url`; a password in it may hold white space.

    >>> masked_argument("--db=postgresql://me:my secret@host/db")
    '--db=postgresql://***@host/db'
    """
    return masked_url(_URL_AND_REST.sub(_masked_match, text))


def _masked_match(url: re.Match[str]) -> str:
    return url[1] + _masked(url[2])


def _masked(rest: str) -> str:
    user = _USER_INFO.match(rest)
    if user is not None and set("?#") & set(user[0]):
        return "***"  # a password with a ? in it, or a query with an @: they cannot be told apart
    place = rest[user.end() :] if user else rest
    bare = re.split(r"[?#]", place, maxsplit=1)[0]
    return ("***@" if user else "") + bare + ("?***" if bare != place else "")


class HarnessError(Exception):
    """A failure with a sentence that names the thing and the cure. It survives pickling."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the sentence and the attributes: `__init__` may take other arguments."""
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(kind: type[HarnessError], args: tuple[Any, ...]) -> HarnessError:
    error = kind.__new__(kind)
    error.args = args
    return error


class UsageError(HarnessError):
    """The command line, the registry or a config value is wrong."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that nothing offers."""

    def __init__(
        self, kind: str, name: str, names: Iterable[str], *, hint: str = "", meant: Iterable[str] = ()
    ) -> None:
        """`meant`: names that people who type this one are likely to mean, said first."""
        names = sorted(set(names))
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
        near = list(dict.fromkeys([*(m for m in meant if m in names), *close]))[:3] or names[:3]
        listed = ", ".join(repr(n) for n in near) if near else "none is registered"
        super().__init__(f"no {kind} {name!r}; nearest: {listed}" + (f" ({hint})" if hint else ""))
        self.name, self.nearest = name, tuple(near)


class RegistryError(UsageError):
    """A fault in registry.yaml, with file, line and field."""


class ModelError(HarnessError):
    """A model, tokenizer or adapter that cannot be used."""


class DataError(HarnessError):
    """A data file that cannot be used."""


class ResultsError(HarnessError):
    """results.db cannot be opened, read or written."""


class ProviderError(HarnessError):
    """An LLM provider refused, cannot be reached, or has no key."""


class Waiting(HarnessError):
    """LLM calls are in a vendor's batch that has not ended yet."""

    exit_code = 75


class StorageError(HarnessError):
    """The disk is full or a folder is not writable."""
