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
from typing import Any, TypeAlias, TypeVar, cast, final

import attrs
import trio

from trio_isolates import IsolateDied, Pool, current_default_isolate_limiter, open_pool
from trio_isolates._screen import Screen

_T = TypeVar("_T")
Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | None"
_TICK = 0.001  # seconds
_START_TIME = 30  # seconds
_DOCUMENTS_PER_MEGABYTE = 3


@final
@attrs.frozen
class Totals:
    """What a document is boiled down to: small, and equal for equal documents."""

    values: int
    characters: int
    sum: float


def load(path: str) -> Json:
    """Read and parse one document."""
    with open(path, "rb") as file:
        return cast(Json, json.loads(file.read()))


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
        _step(screen)
        count = workers or int(current_default_isolate_limiter().total_tokens)
        async with open_pool(total, workers=count) as pool:
            await _started(pool, count)
            _, summaries = await _measured(partial(pool.map, paths))
            screen.row(summaries.row(f"pool of {count}, totals come home", len(paths), size))
            _step(screen)
            _, trees = await _measured(partial(_trees, pool, paths))
            screen.row(trees.row(f"pool of {count}, trees come home", len(paths), size))
            _step(screen)
            screen.row(_EXPLAINED + _compared(inline, summaries))
            totals = await _parse_while_killing(screen, pool, paths)
            replaced = pool.statistics().restarted + pool.statistics().replaced
        return _account(screen, expected, totals, replaced)


_HEADER = f"{'':30}  documents/s   MB/s  main-loop CPU  longest gap"
_EXPLAINED = """
Each document is read, parsed and visited value by value. CPU and gaps are the
event loop's: a gap is the longest time in which a task that wakes up every
millisecond did not run. Where totals come home, all the work is done in the
workers. Where trees come home, the loop has to rebuild each parsed document,
so ask workers for what you need of it.
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


def _compared(inline: _Figures, pool: _Figures) -> str:
    times = inline.seconds / pool.seconds
    gaps = f"from {inline.gap * 1000:.1f} to {pool.gap * 1000:.1f} ms"
    return f"Here: the longest gap {gaps}; the pool {times:.1f} times as fast.\n"


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
    totals: list[Totals] = []
    for path in paths:
        totals.append(total(path))
        await trio.lowlevel.checkpoint()
    return totals


async def _trees(pool: Pool[[str], Totals], paths: Sequence[str]) -> None:
    async with pool.open_map(paths, load) as trees:
        async for _ in trees:
            pass


async def _started(pool: Pool[[str], Totals], workers: int) -> None:
    with trio.fail_after(_START_TIME):  # the pool serves from its first worker on; the figures want all
        while pool.statistics().workers < workers:  # noqa: ASYNC110, nothing tells of it
            await trio.sleep(_TICK)


async def _parse_while_killing(
    screen: Screen, pool: Pool[[str], Totals], paths: Sequence[str]
) -> list[Totals | None]:
    totals: list[Totals | None] = [None] * len(paths)
    died: list[tuple[int, IsolateDied]] = []
    done, half, step = 0, len(paths) // 2, max(1, len(paths) // 12)
    victims = (await pool.broadcast(os.getpid))[:3]  # who dies often without a call is not replaced
    # All documents are queued at once, so that every worker is busy until the end.
    async with pool.open_map(paths, return_errors=True, max_pending=len(paths)) as results:
        async for result in results:
            try:
                totals[done] = result.unwrap()
            except IsolateDied as death:
                died.append((done, death))
            done += 1
            # Once, as a rule; again if the kill fell between two documents, which shows nothing.
            if done >= half and (done - half) % step == 0 and victims and not died:
                await trio.sleep(_TICK)  # its next document reaches the worker
                os.kill(victim := victims.pop(), signal.SIGKILL)
                screen.row(f"After {done} of {len(paths)} documents, worker {victim} got a SIGKILL.")
    for position, died_of in died:
        begun = f"maybe_executed={died_of.maybe_executed}"
        screen.row(f"Its call for {os.path.basename(paths[position])} raised IsolateDied, {begun}.")
        totals[position] = await pool.call(paths[position])
        screen.row("Parsing may safely be repeated, so the call was made again, and answered.")
    if not died:
        screen.row("No document was being parsed there, so that there was none to repeat.")
    return totals


def _account(screen: Screen, expected: list[Totals], totals: list[Totals | None], replaced: int) -> bool:
    same = sum(one == other for one, other in zip(expected, totals, strict=True))
    screen.row(f"{same} of {len(expected)} documents: same totals as inline; workers replaced: {replaced}.")
    return same == len(expected)


def make_documents(screen: Screen, folder: str, megabytes: int) -> list[str]:
    """Write varied JSON, the same at each run, and return the paths."""
    rng = random.Random(20)
    kinds = _orders, _readings, _articles, _outline
    paths: list[str] = []
    # Most documents are small, a few are ten times as large: so it is with real ones.
    weights = [min(rng.lognormvariate(0, 1), 10) for _ in range(megabytes * _DOCUMENTS_PER_MEGABYTE)]
    screen.expect("making documents", len(weights))
    for number, weight in enumerate(weights):
        kind, length = kinds[number % len(kinds)], megabytes * 10**6 * weight / sum(weights)
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
            "customer": {"name": _words(rng, 2), "city": _words(rng, 1), "since": rng.randrange(1990, 2025)},
            "lines": [
                {"article": _words(rng, 1), "price": rng.randrange(10**5) / 100, "count": number}
                for number in range(rng.randrange(1, 6))
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
    places: list[dict[str, Any]] = [root]
    for number in range(int(length / 75)):
        place: dict[str, Any] = {"title": _words(rng, 3), "number": number, "parts": []}
        rng.choice(places)["parts"].append(place)
        places = [*places[-50:], place] if number % 1000 else [root]  # deep, but within json's limit
    return root


_LATIN = "rain river stone light winter paper window garden letter mountain bread harbour naïve façade Łódź"
_OTHER = 'København 東京 北京市 서울 Москва Αθήνα עברית 🙂 "quoted" back\\slash'
_WORDS = (*_LATIN.split(), *_OTHER.split())


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(_WORDS, k=count))
