"""What the supervisors' suite has its children do, and how it hears of that."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio

from contract import Kind
from contract_handlers import wait_for_word
from fifo import Fifo
from handlers import tell
from trio_isolates import CallInterrupted, Child, ChildSpec, ReceivePort, SendPort, Supervisor
from trio_isolates._child_spec import RestartType
from trio_isolates.testing import InlineEngine


class Service:
    """An entry that says when it arrives in its isolate, before that is ready, and when it is stopped.

    In between it does what it is told: "r" returns, "f" fails, "F" fails whenever it is stopped.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return arrive, (self.folder, self.name)

    async def __call__(self) -> str:
        words = ""
        tell(self.folder / "serving", self.name)
        try:
            while words[-1:] not in {"r", "f"}:
                words += await wait_for_word(self.folder / self.name)
                if words[-1] == "F":
                    tell(self.folder / "fifo", f"{self.name} has heard")
        except trio.Cancelled:
            tell(self.folder / "fifo", f"{self.name} stops")
            if "F" in words:
                raise ZeroDivisionError(f"{self.name}, in its clean-up") from None
            raise
        if words[-1] == "f":
            raise ZeroDivisionError(self.name)
        return self.name


def arrive(folder: Path, name: str) -> Service:
    if (folder / f"{name} is ill").exists():
        raise ZeroDivisionError(f"{name} does not start")
    tell(folder / "fifo", f"{name} starts")
    return Service(folder, name)


class Family:
    """The services of a test, one for each name."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.folder = folder
        self.kind = kind
        self.fifo = Fifo(folder / "fifo")
        self._serving = Fifo(folder / "serving")
        self._gates: dict[str, int] = {}
        self._ignored: list[str] = []

    def spec(self, name: str, restart: RestartType = "permanent", shutdown: float = 5.0) -> ChildSpec:
        if name not in self._gates:
            os.mkfifo(self.folder / name)
            self._gates[name] = os.open(self.folder / name, os.O_RDWR)  # so that what is told is kept
        return ChildSpec(Service(self.folder, name), restart=restart, shutdown=shutdown, name=name)

    async def start(
        self, supervisor: Supervisor, names: str, restart: RestartType = "permanent"
    ) -> list[Child]:
        """Start children whose names are letters, and wait until they listen."""
        children = [await supervisor.start(self.spec(name, restart)) for name in names]
        assert await self.hear(len(names)) == [f"{name} starts" for name in names]
        await self.listen(names)
        return children

    async def listen(self, names: str) -> None:
        """Wait until so many more listen. One that is stopped before that says nothing."""
        assert sorted([await self._serving.line() for _ in names]) == sorted(names)

    async def hear(self, count: int) -> list[str]:
        """Return the next things that they have said."""
        lines: list[str] = []
        while len(lines) < count:
            line = await self.fifo.line()
            if line in self._ignored:
                self._ignored.remove(line)
            else:
                lines.append(line)
        return lines

    def tell(self, name: str, word: str) -> None:
        os.write(self._gates[name], word.encode())

    def make_ill(self, name: str) -> Callable[[], None]:
        """Have it fail to start from now on; return how to cure it."""
        path = self.folder / f"{name} is ill"
        path.touch()
        return path.unlink

    def kill(self, child: Child) -> None:
        """Have it die by nobody's doing."""
        self.will_die(child)
        if isinstance(self.kind.engine, InlineEngine):
            self.kind.engine.kill(child.name)
        else:
            pid = child.statistics().pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

    def will_die(self, child: Child) -> None:
        """Do not hear that it is stopped: one that is killed inline is told, another is not."""
        if self.kind.name == "inline":
            self._ignored.append(f"{child.name} stops")

    def close(self) -> None:
        self.fifo.close()
        self._serving.close()
        for fd in self._gates.values():
            os.close(fd)


@pytest.fixture
def family(tmp_path: Path, kind: Kind) -> Iterator[Family]:
    """Children, and what the test hears of them."""
    family = Family(tmp_path, kind)
    yield family
    family.close()


def states(supervisor: Supervisor) -> dict[str, str]:
    return {child.name: child.state for child in supervisor.children()}


async def until(supervisor: Supervisor, **expected: str) -> None:
    """Wait until the children are these, in these states."""
    while states(supervisor) != expected:
        await trio.lowlevel.checkpoint()


def listen_sync(home: SendPort[Any]) -> NoReturn:
    """A sync service: say who is there, and wait."""
    home.send_sync(os.getpid())
    try:
        ReceivePort[Any]().receive_sync()
    except CallInterrupted:
        home.send_sync("interrupted")
        raise
    raise AssertionError("a message from nowhere")


async def hold_out(fifo: Path, name: str) -> None:
    """A service that says when it begins and when it is stopped, and does not stop."""
    tell(fifo, f"{name} starts")
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        tell(fifo, f"{name} stops")
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()


# In the test's own process, under a clock that jumps: what was done, and when.

log: list[tuple[str, float]] = []


async def work(name: str, seconds: float, end: str = "fails", clean_up: float = 0) -> None:
    """Work so long, then end in this way; if stopped, clean up for so long."""
    log.append((name, trio.current_time()))
    try:
        await trio.sleep(seconds)
    except trio.Cancelled:
        with trio.CancelScope(shield=True):
            await trio.sleep(clean_up)
        log.append((f"{name} stopped", trio.current_time()))
        raise
    if end == "fails":
        raise ZeroDivisionError(name)
