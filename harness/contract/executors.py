"""Executors: where a step's map over shards runs. In this process, or in workers on other GPUs and machines.

A map applies one function to a tool and to each of many items. The tool is what is dear to make (a model with what is
read from it): every worker makes it once. Results come back in the items' order, and only the caller writes anything.
The executor is no part of a step's key: whichever runs the map, the bytes are the same.
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
    """Who hold a tool each.

    Attributes:
        n: how many they are; work is best cut into several items for each.
    """

    n: int

    def map(
        self, function: Callable[[T_co, Item, Progress], Result], items: Iterable[Item], progress: Progress
    ) -> Iterator[tuple[Item, Result]]:
        """Each item with `function(tool, item, progress)`, in the items' order; few are under way at a time.

        Args:
            function: of a module or a class, so that another process finds it by its name. It changes nothing but the
                tool, and its result depends on the item alone: a worker may be lost, and another does the item again.
            items: read as they are needed. Items and results travel between processes.
            progress: told what the function tells the progress it is given.

        Raises:
            HarnessError: what the function raised, or an item lost its worker again and again.
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
        """Workers that hold this tool, for the while.

        A tool that goes to other processes is pickled; a `Subject` travels as what it was loaded from.
        """
        ...


_ARRIVING_ON: ContextVar[str | None] = ContextVar("_ARRIVING_ON", default=None)


@contextmanager
def arriving_on(device: str) -> Iterator[None]:
    """Tools that are unpickled in the block are for this torch device, whatever the one they were sent from had."""
    token = _ARRIVING_ON.set(device)
    try:
        yield
    finally:
        _ARRIVING_ON.reset(token)


def device_of_arrival() -> str | None:
    """The device that a tool which is being unpickled is for; None where it was not sent to a worker."""
    return _ARRIVING_ON.get()


class LocalWorkers:
    """The one worker that is this process."""

    n = 1

    def __init__(self, tool: object) -> None:
        self._tool = tool

    def map(
        self, function: Callable[..., Result], items: Iterable[Item], progress: Progress
    ) -> Iterator[tuple[Item, Result]]:
        """A loop."""
        for item in items:
            yield item, function(self._tool, item, progress)


class LocalExecutor:
    """Everything in this process."""

    on_gpus = False

    @contextmanager
    def open(self, tool: Tool) -> Iterator[Workers[Tool]]:
        """The tool as it is."""
        yield LocalWorkers(tool)
