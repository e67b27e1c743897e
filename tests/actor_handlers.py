"""Classes whose objects live in isolates."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import trio

import contract_handlers
from handlers import tell
from trio_isolates import current_isolate, report_progress

T = TypeVar("T")


class CustomError(Exception):
    """What actors raise."""


class Base:
    """Something to inherit from."""

    def inherited(self) -> str:
        return type(self).__name__


class Counter(Base):
    """All its methods are sync."""

    limit = 1000
    declared: int

    class Nested:
        """Not a method, though it can be called."""

    def __init__(self, total: int = 0, *, step: int = 1) -> None:
        if total < 0:
            raise CustomError("below zero")
        self.total = total
        self.step = step

    def add(self, number: int, *, times: int = 1) -> int:
        """Add a number, and return the sum."""
        self.total += number * times * self.step
        return self.total

    def get(self) -> int:
        return self.total

    def all(self, more: int = 0) -> Iterator[int]:
        yield from range(self.total + more)

    def fail(self) -> None:
        raise CustomError("as it was told")

    def place(self) -> tuple[int, str]:
        return os.getpid(), current_isolate().name

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def give_lock(self) -> object:
        return threading.Lock()

    def report(self, *values: Any) -> str:
        for value in values:
            report_progress(value)
        return "done"

    def tell_and_spin(self, fifo: Path) -> None:
        self.total += 1
        try:
            tell(fifo, "begun")
            while True:
                pass
        finally:
            self.total += 10

    def tell_and_yield(self, fifo: Path) -> Iterator[int]:
        """Begin to compute the first item, and never end."""
        try:
            self.tell_and_spin(fifo)
            yield 1
        finally:
            self.total += 100

    @property
    def double(self) -> int:
        return 2 * self.total

    @functools.cached_property
    def triple(self) -> int:
        return 3 * self.total

    @classmethod
    def called(cls, more: str) -> str:
        return cls.__name__ + more

    @staticmethod
    def plus(a: int, b: int) -> int:
        return a + b

    def _secret(self) -> None:
        """Nobody calls this from elsewhere."""


class AsyncCounter(Counter):
    """Some of its methods are async."""

    def __init__(self, total: int = 0, *, step: int = 1) -> None:
        super().__init__(total, step=step)
        self.now = self.most = 0

    async def add_async(self, number: int, *, times: int = 1) -> int:
        await trio.lowlevel.checkpoint()
        return self.add(number, times=times)

    async def all_async(self, more: int = 0) -> AsyncIterator[int]:
        for number in range(self.total + more):
            yield number

    async def fail_async(self) -> None:
        raise CustomError("as it was told")

    async def take_part(self, fifo: Path, gate: Path) -> int:
        """Take part in what runs at the same time; return how many did, at most."""
        self.now += 1
        self.most = max(self.most, self.now)
        await contract_handlers.tell_and_wait_for(fifo, "begun", gate)
        self.now -= 1
        return self.most

    async def tell_and_wait(self, fifo: Path) -> None:
        self.total += 1
        try:
            tell(fifo, "begun")
            await trio.sleep_forever()
        finally:
            self.total += 10

    async def refuse_to_be_cancelled(self, fifo: Path) -> None:
        await contract_handlers.refuse_to_be_cancelled(fifo)


class Managed:
    """A context manager that tells what becomes of it."""

    def __init__(self, fifo: Path, fails: str = "") -> None:
        self.fifo, self.fails = fifo, fails
        self.say("made")

    def __enter__(self) -> str:
        self.say("entered")
        return "something else"

    def __exit__(self, *exc_info: object) -> None:
        self.say(f"exited {exc_info}")

    def say(self, text: str) -> str:
        tell(self.fifo, text)
        if self.fails and text.startswith(self.fails):
            raise CustomError(text)
        return text


class AsyncManaged(Managed):
    """An async one, which is both; its own methods are sync."""

    async def __aenter__(self) -> None:
        await trio.lowlevel.checkpoint()
        self.say("entered async")

    async def __aexit__(self, *exc_info: object) -> None:
        await trio.lowlevel.checkpoint()
        self.say(f"exited async {exc_info}")


class Connection:
    """Has a task of its own from its entry to its exit."""

    async def __aenter__(self) -> None:
        self.manager = trio.open_nursery()
        nursery = await self.manager.__aenter__()
        self.text: str = await nursery.start(self._serve)

    async def __aexit__(self, *exc_info: object) -> None:
        self.scope.cancel()
        await self.manager.__aexit__(None, None, None)

    async def _serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.CancelScope() as self.scope:
            task_status.started("from its task")
            await trio.sleep_forever()

    def get(self) -> str:
        return self.text


class Stack(list[T], Generic[T]):
    """It has its methods from a class that is written in C."""


class Interface(Protocol):
    def method(self) -> int: ...


class Context:
    """Sees the context that its callers are in."""

    def get(self) -> tuple[str, str]:
        return contract_handlers.get_context()


class Restarted:
    """Can be made so many times, as a folder counts."""

    def __init__(self, folder: Path, times: int) -> None:
        number = len(list(folder.iterdir()))
        if number >= times:
            raise CustomError("once too often")
        (folder / str(number)).touch()
        self.number = number

    def get(self) -> int:
        return self.number

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def apply(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)
