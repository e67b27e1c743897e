"""Running whole programs: scripts that a test starts, watches and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import trio

import handlers
import trio_isolates
from fifo import wait_gone

FOLDERS = [str(Path(handlers.__file__).parent), str(Path(trio_isolates.__file__).parent.parent)]


def environment() -> dict[str, str]:
    """The environment of a program that imports what the tests import."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(FOLDERS), "PYTHONUNBUFFERED": "1"}


class Program:
    """A running script. It has a temporary folder of its own."""

    def __init__(self, process: trio.Process, temporary: Path) -> None:
        self.process = process
        self.temporary = temporary
        self._rest = b""

    async def line(self) -> str:
        """Wait for the next line of its output, which has both stdout and stderr."""
        assert self.process.stdout is not None
        while b"\n" not in self._rest:
            more = await self.process.stdout.receive_some()
            assert more, f"the program ended: {self._rest.decode()}"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    async def wait_for(self, word: str) -> list[str]:
        """Wait for a line that starts with this word; return its other words."""
        while True:
            first, *others = (await self.line()).split() or [""]
            if first == word:
                return others

    async def rest(self) -> str:
        """Wait for its end; return what else it has written."""
        assert self.process.stdout is not None
        async for more in self.process.stdout:
            self._rest += more
        await self.process.wait()
        return self._rest.decode()

    async def ends_bare(self, pids: Iterable[int]) -> None:
        """Check that it ends as Ctrl-C ends a program, by an interrupt in no group, and these with it."""
        text = await self.rest()
        assert self.process.returncode == -signal.SIGINT
        assert text.rstrip().endswith("KeyboardInterrupt")
        assert "Group" not in text
        for pid in pids:
            await wait_gone(pid)

    def descendants(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]


@asynccontextmanager
async def running(folder: Path, script: str, *args: object) -> AsyncIterator[Program]:
    """Run a script, in a process group of its own, for the length of a block. It is killed if it is left."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(script))
    temporary = folder / "temporary"
    temporary.mkdir()
    process = await trio.lowlevel.open_process(
        [sys.executable, "-W", "error", str(path), *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**environment(), "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    try:
        yield Program(process, temporary)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        assert process.stdout is not None
        await process.stdout.aclose()
