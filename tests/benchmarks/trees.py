"""When is a worker worth it? JSON documents, made here, and what it costs to parse them in some way.

A way takes a document's text and returns the number of its records, so that nobody can skip the work. What it
made at home is dropped inside the time. `ours` and `peers` have the ways that lead to other processes.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter, thread_time
from typing import Any, TypeAlias

import trio

# By document: milliseconds a call, the event loop's longest gap in ms, CPU of its thread in ms a call.
Figures: TypeAlias = dict[str, tuple[float, float, float]]
Documents: TypeAlias = Mapping[str, tuple[int, int]]  # by name: size in bytes, calls a round
Way: TypeAlias = Callable[[str], Awaitable[int]]
TreeRound: TypeAlias = Callable[[], Awaitable[Figures]]

TICK = 0.001
KINDS = 500
WORDS = ("rain", "river", "stone", "light", "winter", "garden", "façade", "Łódź", "東京", "🙂", "back\\slash")


def words(rng: random.Random, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def make_record(rng: random.Random) -> dict[str, Any]:
    """Nested, of every type, and of very different lengths: about 400 bytes on average."""
    record: dict[str, Any] = {
        "id": rng.getrandbits(40),
        "name": words(rng, 3),
        "place": {"city": words(rng, 1), "at": [rng.uniform(-180, 180), rng.uniform(-90, 90)]},
        "active": rng.random() < 0.8,
        "parent": None,
        "tags": [words(rng, 1) for _ in range(rng.randrange(5))],
    }
    if rng.random() < 0.3:
        record["lines"] = [
            {"article": words(rng, 2), "price": rng.randrange(10**5) / 100, "count": rng.randrange(9)}
            for _ in range(rng.randint(1, 8))
        ]
    if rng.random() < 0.1:
        record["text"] = words(rng, 200)
    return record


def make_document(size: int) -> tuple[str, int]:
    """A list of records, always the same for a size in bytes, and how many they are."""
    rng = random.Random(size)
    # Many of the records are the same text; a parser makes new objects of each all the same.
    texts = [json.dumps(make_record(rng)) for _ in range(KINDS)]
    chosen: list[str] = []
    while size > 0:
        chosen.append(rng.choice(texts))
        size -= len(chosen[-1]) + 2
    return f"[{', '.join(chosen)}]", len(chosen)


async def parse(way: Way, text: str, records: int) -> None:
    if await way(text) != records:
        raise ValueError("some records are missing")


async def tick(gaps: list[float]) -> None:
    last = perf_counter()
    try:
        while True:
            await trio.sleep(TICK)
            gaps.append(perf_counter() - last)
            last = perf_counter()
    finally:
        gaps.append(perf_counter() - last)


async def longest_gap(way: Way, text: str, records: int, calls: int) -> float:
    gaps: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick, gaps)
        await trio.sleep(TICK)
        for _ in range(calls):
            await parse(way, text, records)
            await trio.lowlevel.checkpoint()  # for those that parse in the loop: one gap a document
        nursery.cancel_scope.cancel()
    return max(gaps)


def rounds_of(documents: Documents, way: Way) -> TreeRound:
    """The round of this way: the time and CPU of calls in a row; then of as many, with a ticker, the gap."""
    made = {name: (*make_document(size), calls) for name, (size, calls) in documents.items()}

    async def one_round() -> Figures:
        figures: Figures = {}
        for name, (text, records, calls) in made.items():
            start, cpu = perf_counter(), thread_time()
            for _ in range(calls):
                await parse(way, text, records)
            await trio.lowlevel.checkpoint()  # until then, Trio holds what a call returned
            elapsed, cpu = perf_counter() - start, thread_time() - cpu
            gap = await longest_gap(way, text, records, calls)
            figures[name] = (elapsed / calls * 1e3, gap * 1e3, cpu / calls * 1e3)
        return figures

    return one_round


@asynccontextmanager
async def inline(module: str, documents: Documents) -> AsyncIterator[TreeRound]:
    """By this module's `loads`, in the loop's own thread; no figures if the module is not installed."""
    installed = find_spec(module) is not None
    loads: Any = import_module(module).loads if installed else None

    async def way(text: str) -> int:
        return len(loads(text))

    yield rounds_of(documents if installed else {}, way)


@asynccontextmanager
async def thread(documents: Documents) -> AsyncIterator[TreeRound]:
    """In a thread of the same process, which has the same GIL."""

    async def way(text: str) -> int:
        return len(await trio.to_thread.run_sync(json.loads, text))

    yield rounds_of(documents, way)
