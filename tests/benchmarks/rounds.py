"""Playing contenders against each other: each in its own process, one round each in turn (A B C, A B C, ...).

A busy machine drifts; whoever plays in turn drifts alike. So a bar is judged by the median of its value round
by round, not by the quotient of two medians. The first round of each is a warm-up and is dropped.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import cache, partial
from math import inf
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import trio
from attrs import field, frozen

HERE = Path(__file__).resolve().parent
MAIN = "import contender; contender.main()"
ROUND_LIMIT = 120.0
CLOSE_LIMIT = 30.0


@frozen
class Contender:
    """Who plays: "module:opener" and its arguments; `fresh`: a new process for each round, and no warm-up."""

    name: str
    where: str
    args: tuple[Any, ...] = ()
    fresh: bool = False


@frozen
class Bar:
    """What must hold: a value computed from the figures of one round, and its limit on either side."""

    text: str
    value: Callable[[Mapping[str, Any]], float]
    at_most: float = inf
    at_least: float = -inf

    def passed(self, value: float) -> bool:
        return self.at_least <= value <= self.at_most

    @property
    def limit(self) -> str:
        return f"<= {self.at_most:g}" if self.at_most < inf else f">= {self.at_least:g}"


@frozen
class Row:
    """One line of the list of bars: who plays, in which unit, and what must come out."""

    name: str
    title: str
    unit: str
    contenders: Sequence[Contender]
    bars: Sequence[Bar]
    rounds: int = 5


@frozen
class Outcome:
    """All figures of a row by contender, round by round; those who failed have a reason instead."""

    figures: dict[str, list[Any]] = field(factory=dict)
    failures: dict[str, str] = field(factory=dict)


class Player:
    """A contender's process."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = b""

    async def one_round(self) -> Any:
        """Its figure for one round; `EOFError`: it fell over, `trio.TooSlowError`: it took too long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with trio.fail_after(ROUND_LIMIT):
            with suppress(trio.BrokenResourceError):
                await self._process.stdin.send_all(b"\n")
            while b"\n" not in self._buffer:
                data = await self._process.stdout.receive_some()
                if not data:
                    raise EOFError(f"exit status {await self._process.wait()}")
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


def environment() -> dict[str, str]:
    """Ours, with this checkout importable, and with compiled modules kept even if ours says not to."""
    path = [str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH")]
    changed = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    if changed.pop("PYTHONDONTWRITEBYTECODE", None):
        changed["PYTHONPYCACHEPREFIX"] = bytecode()
    return changed


@cache
def bytecode() -> str:
    """A folder for compiled modules: without, each new process would compile its sources again."""
    folder = mkdtemp()
    atexit.register(rmtree, folder, ignore_errors=True)
    return folder


@asynccontextmanager
async def open_player(
    contender: Contender, placement: str, failures: dict[str, str]
) -> AsyncIterator[Player]:
    """Start it; on leaving let it close by itself, which may fail too, else kill it with all its workers."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", MAIN, placement, contender.where, *map(json.dumps, contender.args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Player(process)
        await process.stdin.aclose()
        with trio.move_on_after(CLOSE_LIMIT):
            if status := await process.wait():
                failures.setdefault(contender.name, f"exit status {status} on closing")
        if process.returncode is None:
            failures.setdefault(contender.name, f"not closed after {CLOSE_LIMIT:g} s")
    finally:
        with suppress(ProcessLookupError):
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


async def fresh_round(contender: Contender, placement: str, failures: dict[str, str]) -> Any:
    async with open_player(contender, placement, failures) as player:
        return await player.one_round()


async def play_row(row: Row, rounds: int, placement: str) -> Outcome:
    """Play the rounds of a row; a contender that fails is out, and the others play on."""
    outcome = Outcome()
    async with AsyncExitStack() as stack:
        turns: dict[str, Callable[[], Awaitable[Any]]] = {}
        for contender in row.contenders:
            if contender.fresh:
                turns[contender.name] = partial(fresh_round, contender, placement, outcome.failures)
            else:
                opening = open_player(contender, placement, outcome.failures)
                player = await stack.enter_async_context(opening)
                turns[contender.name] = player.one_round
        if not all(contender.fresh for contender in row.contenders):
            await play_round(turns, Outcome(failures=outcome.failures))
        for _ in range(rounds):
            await play_round(turns, outcome)
    return outcome


async def play_round(turns: Mapping[str, Callable[[], Awaitable[Any]]], outcome: Outcome) -> None:
    for name, one_round in turns.items():
        if name in outcome.failures:
            continue
        try:
            figure = await one_round()
        except (EOFError, OSError, trio.TooSlowError) as error:
            outcome.failures[name] = f"{type(error).__name__}: {error}"
            outcome.figures.pop(name, None)
        else:
            outcome.figures.setdefault(name, []).append(figure)
