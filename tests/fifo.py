"""How an isolate tells a test what it has come to: a named pipe, read a line at a time."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec

import trio

P = ParamSpec("P")


class Fifo:
    """The reading end. The path is what goes to the isolate."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        # Read and write: so that it opens at once, and has no end when a writer closes it.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""

    def fileno(self) -> int:
        return self._fd

    async def line(self) -> str:
        """Wait for the next line."""
        while b"\n" not in self._rest:
            await trio.lowlevel.wait_readable(self._fd)
            self._rest += os.read(self._fd, 65536)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def open_fifo(folder: Path) -> Iterator[Fifo]:
    """Make one in this folder for the length of a block."""
    fifo = Fifo(folder / "fifo")
    try:
        yield fifo
    finally:
        fifo.close()


def within(
    seconds: float,
) -> Callable[[Callable[P, Awaitable[None]]], Callable[P, Coroutine[Any, Any, None]]]:
    """Give a test a hard limit of time."""

    def decorate(test: Callable[P, Awaitable[None]]) -> Callable[P, Coroutine[Any, Any, None]]:
        @functools.wraps(test)
        async def limited(*args: P.args, **kwargs: P.kwargs) -> None:
            with trio.fail_after(seconds):
                await test(*args, **kwargs)

        return limited

    return decorate


async def wait_gone(pid: int) -> None:
    """Wait until a process has ended, whoever its parent is."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)
