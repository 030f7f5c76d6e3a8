"""Executors: where a step's map over shards runs. In this process, or in workers on other GPUs and machines.

A map applies one function to a tool and to each of many items. The tool is what is expensive to build (a model with
what is read from it): every worker builds it once. Results come back in the items' order, and only the caller writes
anything. The executor is no part of a step's key: whichever runs the map, the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from harness.contract.progress import Progress

Tool = TypeVar("Tool")
Item = TypeVar("Item")
Result = TypeVar("Result")
T_co = TypeVar("T_co", covariant=True)


class Workers(Protocol[T_co]):
    """Workers; each holds its own copy of the tool.

    Attributes:
        n: how many workers; give each several items.
    """

    n: int

    def map(
        self, function: Callable[[T_co, Item, Progress], Result], items: Iterable[Item], progress: Progress
    ) -> Iterator[tuple[Item, Result]]:
        """Yield each item with `function(tool, item, progress)`, in the items' order; few are in progress at a time.

        Args:
            function: of a module or a class, so that another process can import it. It changes only the tool, and its
                result depends on the item alone: if a worker dies, another one repeats the item.
            items: read as they are needed. Items and results are pickled.
            progress: receives the calls that the function makes on its progress.

        Raises:
            HarnessError: the function raised, or an item's workers died several times.
        """
        ...


class Executor(Protocol):
    """Finds workers.

    Attributes:
        on_gpus: whether workers need the GPUs, so that the process of the run must not fill them.
    """

    @property
    def on_gpus(self) -> bool:
        """See the class."""
        ...

    def open(self, tool: Tool) -> AbstractContextManager[Workers[Tool]]:
        """Workers that hold this tool inside the block.

        A tool that goes to other processes is pickled; a `Subject` is pickled as what it was loaded from.
        """
        ...


_UNPICKLE_ON: ContextVar[str | None] = ContextVar("_UNPICKLE_ON", default=None)


@contextmanager
def arriving_on(device: str) -> Iterator[None]:
    """Put tools that are unpickled inside the block on this torch device, whatever device they were pickled on."""
    token = _UNPICKLE_ON.set(device)
    try:
        yield
    finally:
        _UNPICKLE_ON.reset(token)


def device_of_arrival() -> str | None:
    """The torch device for a tool that is being unpickled; None outside a worker."""
    return _UNPICKLE_ON.get()


class LocalWorkers:
    """One worker: this process."""

    n = 1

    def __init__(self, tool: object) -> None:
        self._tool = tool

    def map(
        self, function: Callable[..., Result], items: Iterable[Item], progress: Progress
    ) -> Iterator[tuple[Item, Result]]:
        """Loop over the items."""
        for item in items:
            yield item, function(self._tool, item, progress)


class LocalExecutor:
    """Everything in this process."""

    on_gpus = False

    @contextmanager
    def open(self, tool: Tool) -> Iterator[Workers[Tool]]:
        """The tool as it is."""
        yield LocalWorkers(tool)
