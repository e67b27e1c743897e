"""One cell of the table of faults, in a process of its own: one contender, one fault, and what came of it.

    python -c "import faults_cells; faults_cells.main()" CONTENDER FAULT FOLDER

What is seen is written to FOLDER/report, a line of JSON for each thing as it is known, so that it is there
even if the cell hangs afterwards. The process ends without leaving its blocks: some would never be left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import outcome
import trio

import faults_jobs as jobs
from faults_peers import PEERS, Call, NotOfferedError

PATIENCE = 5.0
"""Seconds until what has not come counts as never."""
AFTERWARDS = 3.0
"""The same for an answer after the fault."""
TASKS, RECYCLE = 20, 2
BLOCK = 64 << 20
STILL = 0.3
"""Seconds without a beat after which a spinning function has stopped."""

Report = Callable[..., None]


class Watched:
    """A call that goes on for as long as it likes, and when and how it ended."""

    def __init__(self, nursery: trio.Nursery, call: Call, *args: Any) -> None:
        self._ended = trio.Event()
        self._scope = trio.CancelScope()
        self.result: outcome.Value[Any] | outcome.Error | None = None
        self.at = 0.0
        nursery.start_soon(self._run, call, args)

    async def _run(self, call: Call, args: tuple[Any, ...]) -> None:
        try:
            with self._scope:
                self.result = outcome.Value(await call(*args))
        except Exception as exc:
            self.result = outcome.Error(exc)
        finally:
            self.at = time.monotonic()
            self._ended.set()

    def cancel(self) -> None:
        self._scope.cancel()

    async def ends(self) -> bool:
        with trio.move_on_after(PATIENCE):
            await self._ended.wait()
        return self._ended.is_set()

    @property
    def text(self) -> str:
        if isinstance(self.result, outcome.Error):
            return f"`{type(self.result.error).__name__}`"
        return "no answer" if self.result is None else "an answer"


async def appears(path: Path) -> str:
    while not path.exists():
        await trio.sleep(0.001)
    return path.read_text()


async def kill(call: Call, nursery: trio.Nursery, folder: Path, report: Report) -> None:
    """A worker is killed in the middle of a call."""
    watched = Watched(nursery, call, jobs.tell_and_sleep, f"{folder}/pid")
    pid = int(await appears(folder / "pid"))
    start = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    await say(watched, start, report)


async def result(call: Call, nursery: trio.Nursery, _: Path, report: Report) -> None:
    """What the function returns does not pickle."""
    start = time.monotonic()
    await say(Watched(nursery, call, jobs.return_what_does_not_pickle), start, report)


async def exception(call: Call, nursery: trio.Nursery, _: Path, report: Report) -> None:
    """What the function raises pickles, and does not unpickle."""
    start = time.monotonic()
    await say(Watched(nursery, call, jobs.raise_what_does_not_unpickle), start, report)


async def say(watched: Watched, start: float, report: Report) -> None:
    if await watched.ends():
        report(saw=watched.text, seconds=watched.at - start)
    else:
        report(saw="nothing", seconds=PATIENCE, failed=True)


async def cancel(call: Call, nursery: trio.Nursery, folder: Path, report: Report) -> None:
    """A function that never ends is cancelled: when does it stop?"""
    beats = folder / "beats"
    beats.write_bytes(bytes(8))
    beat = jobs.share(str(beats))
    watched = Watched(nursery, call, jobs.tell_and_spin, f"{folder}/pid", str(beats))
    await appears(folder / "pid")
    await trio.sleep(0.1)
    start = time.monotonic()
    watched.cancel()
    while (now := time.monotonic()) < start + PATIENCE:
        if now - beat[0] > STILL:
            report(saw="stopped", seconds=max(0.0, beat[0] - start))
            return
        await trio.sleep(0.01)
    report(saw="runs on", seconds=PATIENCE, failed=True)


async def recycle(call: Call, nursery: trio.Nursery, _: Path, report: Report) -> None:
    """Every worker is replaced after two tasks; twenty are to be done."""
    start = time.monotonic()
    tasks = [Watched(nursery, call, os.getpid) for _ in range(TASKS)]
    with trio.move_on_after(PATIENCE):
        for task in tasks:
            await task.ends()
    pids = [task.result.value for task in tasks if isinstance(task.result, outcome.Value)]
    failed = len(pids) < TASKS
    seconds = PATIENCE if failed else max(task.at for task in tasks) - start
    report(saw=f"{len(pids)} of {TASKS} done by {len(set(pids))} workers", seconds=seconds, failed=failed)


async def large(call: Call, nursery: trio.Nursery, _: Path, report: Report) -> None:
    """Two calls at once, of 64 MiB each and with as much to return, for one worker."""
    block = os.urandom(BLOCK)
    start = time.monotonic()
    watched = [Watched(nursery, call, bytes, block) for _ in range(2)]
    ended = [await one.ends() for one in watched]
    right = [isinstance(one.result, outcome.Value) and one.result.value == block for one in watched]
    if all(right):
        report(saw="both came back", seconds=max(one.at for one in watched) - start)
    elif all(ended):
        report(saw=watched[right.index(False)].text, seconds=watched[0].at - start, failed=True)
    else:
        report(saw="nothing", seconds=PATIENCE, failed=True)


async def parent(call: Call, nursery: trio.Nursery, folder: Path, report: Report) -> None:
    """The program is killed while one of its workers spins and the other has nothing to do."""
    meeting = folder / "meeting"
    meeting.mkdir()
    watched = [Watched(nursery, call, jobs.meet, str(meeting), number, 2) for number in range(2)]
    await watched[1].ends()
    report(pids=[int(await appears(meeting / str(number))) for number in range(2)])
    await trio.sleep_forever()


Fault = Callable[[Call, trio.Nursery, Path, Report], Awaitable[None]]
FAULTS: dict[str, tuple[str, Fault, int]] = {
    "kill": ("worker SIGKILLed in a call", kill, 1),
    "result": ("result that does not pickle", result, 1),
    "exception": ("exception that does not unpickle", exception, 1),
    "parent": ("parent SIGKILLed", parent, 2),
    "cancel": ("cancel of a spinning call", cancel, 1),
    "recycle": (f"new worker every {RECYCLE} tasks, {TASKS} tasks", recycle, 2),
    "large": ("64 MiB both ways, twice at once", large, 1),
}
"""By name: the fault in words, how to bring it about, and how many workers are there for it."""


async def play(peer: str, fault: str, folder: Path) -> None:
    def report(**known: Any) -> None:
        with (folder / "report").open("a") as file:
            file.write(json.dumps(known) + "\n")

    _, bring_about, workers = FAULTS[fault]
    try:
        async with PEERS[peer](workers, RECYCLE if fault == "recycle" else None) as call:
            await call(os.getpid)
            async with trio.open_nursery() as nursery:
                await bring_about(call, nursery, folder, report)
                after = Watched(nursery, call, abs, -1)
                with trio.move_on_after(AFTERWARDS):
                    await after.ends()
                works = after.result == outcome.Value(1)
                report(after="works" if works else after.text, works=works)
                os._exit(0)
    except ModuleNotFoundError as missing:
        report(saw="not installed", missing=missing.name)
    except NotOfferedError as reason:
        report(saw=str(reason))
    os._exit(0)


def main() -> None:
    peer, fault, folder = sys.argv[1:]
    trio.run(play, peer, fault, Path(folder))
