"""The demonstration: JSON of its own making, parsed in the event loop and in a pool, and a worker killed.

It measures, and accounts for every document. It does not know how its lines reach a terminal.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar, final

import attrs
import outcome
import trio

from trio_isolates import IsolateDied, Pool, open_pool
from trio_isolates._screen import Screen

_T = TypeVar("_T")
_TICK = 0.001  # seconds
_DOCUMENTS_PER_MEGABYTE = 3


@final
@attrs.frozen
class Totals:
    """What a document is boiled down to: small, and equal for equal documents."""

    values: int
    characters: int
    sum: float


def load(path: str) -> Any:
    """Read and parse one document."""
    with open(path, "rb") as file:
        return json.loads(file.read())


def total(path: str) -> Totals:
    """Read and parse one document, and visit every value in it."""
    values, characters, numbers = 0, 0, 0.0
    waiting = [load(path)]
    while waiting:
        value = waiting.pop()
        values += 1
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, str):
            characters += len(value)
        elif value is not None:
            numbers += value
    return Totals(values, characters, numbers)


async def run_demo(screen: Screen, megabytes: int, workers: int | None) -> bool:
    """Show it all, in a temporary folder; False if the killed worker made a difference to any document."""
    with tempfile.TemporaryDirectory(prefix="trio-isolates-demo-") as folder:
        started = time.perf_counter()
        paths = make_documents(screen, folder, megabytes)
        size = sum(map(os.path.getsize, paths))
        made = time.perf_counter() - started
        screen.row(f"{len(paths)} JSON documents, {size / 1e6:.1f} MB, made in {made:.1f} s\n")
        screen.expect("measuring", 4)
        expected, inline = await _measured(partial(_inline, paths))
        screen.row(_HEADER)
        screen.row(inline.row("inline, in the event loop", len(paths), size))
        async with open_pool(total, workers=workers) as pool:
            pids = await _started(pool)
            _step(screen)
            _, summaries = await _measured(partial(pool.map, paths))
            screen.row(summaries.row(f"pool of {len(pids)}, totals come home", len(paths), size))
            _step(screen)
            _, trees = await _measured(partial(_trees, pool, paths))
            screen.row(trees.row(f"pool of {len(pids)}, trees come home", len(paths), size))
            _step(screen)
            screen.row(_EXPLAINED + _compared(inline, summaries, len(pids)))
            totals = await _parse_while_killing(screen, pool, paths, pids[0])
            replaced = pool.statistics().restarted + pool.statistics().replaced
        return _account(screen, expected, totals, replaced)


_HEADER = f"{'':30}  documents/s   MB/s  main-loop CPU  longest gap"
_EXPLAINED = """
Each document is read, parsed and visited value by value. CPU and gaps are the event loop's: a gap is
the longest time in which a task that wakes up every millisecond did not run. Where totals come home,
all the work is done in the workers. Where trees come home, the loop has to rebuild every parsed
document: ask workers for what you need of it.
"""


@final
@attrs.frozen
class _Figures:
    seconds: float
    cpu: float
    gap: float

    def row(self, name: str, documents: int, size: int) -> str:
        rate, speed = documents / self.seconds, size / self.seconds / 1e6
        return f"{name:30}  {rate:11.0f}  {speed:5.1f}  {self.cpu:11.2f} s  {self.gap * 1000:8.1f} ms"


def _compared(inline: _Figures, pool: _Figures, workers: int) -> str:
    times = inline.seconds / pool.seconds
    gaps = f"from {inline.gap * 1000:.1f} to {pool.gap * 1000:.1f} ms"
    return f"Here the pool took the longest gap {gaps}, and was {times:.1f} times as fast as inline.\n"


def _step(screen: Screen) -> None:
    screen.advance()
    screen.refresh()


async def _measured(work: Callable[[], Awaitable[_T]]) -> tuple[_T, _Figures]:
    gc.collect()
    async with trio.open_nursery() as nursery:
        ticker = _Ticker()
        nursery.start_soon(ticker.run)
        started, cpu = time.perf_counter(), time.thread_time()
        result = await work()
        figures = _Figures(time.perf_counter() - started, time.thread_time() - cpu, ticker.longest())
        nursery.cancel_scope.cancel()
    return result, figures


@final
class _Ticker:
    """Notes the longest time between two of its turns."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._longest = 0.0

    async def run(self) -> None:
        while True:
            self.longest()
            await trio.sleep(_TICK)

    def longest(self) -> float:
        now = time.perf_counter()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        return self._longest


async def _inline(paths: Sequence[str]) -> list[Totals]:
    totals = []
    for path in paths:
        totals.append(total(path))
        await trio.lowlevel.checkpoint()
    return totals


async def _trees(pool: Pool[[str], Totals], paths: Sequence[str]) -> None:
    async with pool.open_map(paths, load) as trees:
        async for _ in trees:
            pass


async def _started(pool: Pool[[str], Totals]) -> list[int]:
    pids = await pool.broadcast(os.getpid)
    while len(pids) < pool.statistics().workers:
        await trio.sleep(_TICK)
        pids = await pool.broadcast(os.getpid)
    return pids


async def _parse_while_killing(
    screen: Screen, pool: Pool[[str], Totals], paths: Sequence[str], victim: int
) -> list[Totals | None]:
    totals: list[Totals | None] = [None] * len(paths)
    died: list[tuple[int, IsolateDied]] = []
    position = 0
    async with pool.open_map(paths, return_errors=True) as results:
        async for result in results:
            if isinstance(result, outcome.Value):
                totals[position] = result.value
            elif isinstance(result.error, IsolateDied):
                died.append((position, result.error))
            else:
                raise result.error
            position += 1
            if position == len(paths) // 2:
                os.kill(victim, signal.SIGKILL)
                screen.row(f"After {position} of {len(paths)} documents, a worker (pid {victim}) was killed by SIGKILL.")
    for position, error in died:
        name = os.path.basename(paths[position])
        screen.row(f"Its call for {name} raised IsolateDied: {error.signal}, maybe_executed={error.maybe_executed}.")
        totals[position] = await pool.call(paths[position])
        screen.row("Parsing may safely be repeated, so the call was made again, and answered.")
    if not died:
        screen.row("It was between two documents: there was nothing to repeat.")
    return totals


def _account(screen: Screen, expected: list[Totals], totals: list[Totals | None], replaced: int) -> bool:
    same = sum(one == other for one, other in zip(expected, totals, strict=True))
    screen.row(f"{same} of {len(expected)} documents have the same totals as inline; workers replaced: {replaced}.")
    return same == len(expected)


def make_documents(screen: Screen, folder: str, megabytes: int) -> list[str]:
    """Write varied JSON, the same at each run, and return the paths."""
    rng = random.Random(20)
    kinds = _orders, _readings, _articles, _outline
    paths = []
    screen.expect("making documents", megabytes * _DOCUMENTS_PER_MEGABYTE)
    for number in range(megabytes * _DOCUMENTS_PER_MEGABYTE):
        kind = kinds[number % len(kinds)]
        # Most documents are small, a few are ten times as large: so it is with real ones.
        length = 10**6 / _DOCUMENTS_PER_MEGABYTE * min(rng.lognormvariate(-0.5, 1.0), 8)
        path = os.path.join(folder, f"{kind.__name__[1:]}-{number:03}.json")
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(kind(rng, length), ensure_ascii=False))
        paths.append(path)
        _step(screen)
    return paths


def _orders(rng: random.Random, length: float) -> Any:
    return [
        {
            "id": rng.getrandbits(40),
            "customer": {"name": _words(rng, 2), "city": rng.choice(_WORDS), "since": rng.randrange(1990, 2025)},
            "lines": [
                {"article": rng.choice(_WORDS), "price": rng.randrange(10**5) / 100, "count": rng.randrange(1, 9)}
                for _ in range(rng.randrange(1, 6))
            ],
            "paid": rng.random() < 0.8,
            "note": None,
        }
        for _ in range(int(length / 280))
    ]


def _readings(rng: random.Random, length: float) -> Any:
    rows = [[rng.gauss(20, 5) for _ in range(10)] for _ in range(int(length / 205))]
    return {"station": _words(rng, 1), "unit": "°C", "start": 1_700_000_000, "rows": rows}


def _articles(rng: random.Random, length: float) -> Any:
    return [
        {"title": _words(rng, 5), "tags": [_words(rng, 1) for _ in range(3)], "body": _words(rng, 120)}
        for _ in range(int(length / 1000))
    ]


def _outline(rng: random.Random, length: float) -> Any:
    root: dict[str, Any] = {"title": _words(rng, 3), "parts": []}
    places = [root]
    for number in range(int(length / 75)):
        place = {"title": _words(rng, 3), "number": number, "parts": []}
        rng.choice(places)["parts"].append(place)
        places = [*places[-50:], place] if number % 1000 else [root]  # deep, but within json's limit
    return root


_WORDS = (
    "rain river stone light winter paper window garden letter mountain bread harbour copper evening silver"
    " naïve façade Ærø Žilina Łódź Zürich København 東京 北京市 서울 Москва Αθήνα עברית 🙂 \"quoted\" back\\slash"
).split()


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(_WORDS, k=count))
