"""How the supervisors' suite starts children, tells them what to do, and hears of that."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from contract import Kind
from fifo import Fifo
from supervised import Service
from trio_isolates import Child, ChildSpec, Supervisor
from trio_isolates._child_spec import RestartType
from trio_isolates.testing import InlineEngine


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

    async def kill(self, child: Child) -> None:
        """Have it die by nobody's doing. Its supervisor may not have heard of it yet."""
        self.will_die(child)
        if isinstance(self.kind.engine, InlineEngine):
            self.kind.engine.kill(child.name)
        else:
            while (pid := child.statistics().pid) is None:
                await trio.lowlevel.checkpoint()
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
