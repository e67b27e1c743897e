"""JSON pools and their peers: many documents, many lines, and one document that is very large."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import trio
import trio_parallel

from floor import Round
from peers import FORKSERVER, executor
from rows import SIZE
from trees import make_document, tick
from trio_isolates import open_json_pool, open_worker

WORKERS = 2
AT_ONCE = 8  # documents that are asked for at a time
LARGE = 104_000_000
BLOCK = 1 << 20


def make_documents(count: int) -> list[bytes]:
    return [make_document(50_000 + 450_000 * number // count)[0].encode() for number in range(count)]


def last_name(text: bytes) -> Any:
    return json.loads(text)[-1]["name"]


async def each(texts: list[bytes], parse: Callable[[bytes], Awaitable[object]]) -> None:
    """Have all of them parsed, some at a time, and drop what comes home."""
    todo = iter(texts)

    async def pull() -> None:
        for text in todo:
            await parse(text)

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(pull)


@asynccontextmanager
async def parse(count: int, select: str | None, decoder: Any = "auto") -> AsyncIterator[Round]:
    """Documents a second by a JSON pool."""
    texts = make_documents(count)
    async with open_json_pool(WORKERS, decoder=decoder) as pool:

        async def one_round() -> float:
            start = perf_counter()
            await each(texts, lambda text: pool.parse(text, select=select))
            return count / (perf_counter() - start)

        yield one_round


@asynccontextmanager
async def executor_map(count: int, only_name: bool) -> AsyncIterator[Round]:
    """Documents a second by `ProcessPoolExecutor.map`."""
    texts = make_documents(count)
    function: Callable[[bytes], Any] = last_name if only_name else json.loads
    with executor(WORKERS) as pool:

        async def one_round() -> float:
            start = perf_counter()
            for _ in pool.map(function, texts):
                pass
            return count / (perf_counter() - start)

        yield one_round


@asynccontextmanager
async def trio_parallel_loads(count: int) -> AsyncIterator[Round]:
    """Documents a second by `trio_parallel.run_sync`."""
    texts = make_documents(count)
    limiter = trio.CapacityLimiter(WORKERS)

    async def one_round() -> float:
        start = perf_counter()
        await each(texts, lambda text: trio_parallel.run_sync(json.loads, text, limiter=limiter))
        return count / (perf_counter() - start)

    async with trio_parallel.cache_scope(worker_type=FORKSERVER):
        yield one_round


@asynccontextmanager
async def inline(module: str, count: int) -> AsyncIterator[Round]:
    """Documents a second in the loop's own thread."""
    texts = make_documents(count)
    loads: Any = import_module(module).loads

    async def one_round() -> float:
        start = perf_counter()
        for text in texts:
            loads(text)
        return count / (perf_counter() - start)

    yield one_round


# Lines.


class Sale(msgspec.Struct):
    country: str
    amount: float
    is_valid: bool


def write_lines(path: Path, size: int) -> None:
    rng = random.Random(3)
    lines = []
    for number in range(5000):
        row = {
            "id": number,
            "country": rng.choice(["PL", "NL", "JP", "BR", "ZA"]),
            "customer": {"name": "x" * rng.randrange(5, 30), "since": rng.randrange(1990, 2026)},
            "amount": rng.randrange(100_000) / 100,
            "is_valid": rng.random() < 0.9,
            "tags": ["a", "bc", "def"][: rng.randrange(4)],
        }
        lines.append(json.dumps(row))
    block = ("\n".join(lines) + "\n").encode()
    with path.open("wb") as file:
        for _ in range(-(-size // len(block))):
            file.write(block)


def add_up(sales: list[Sale]) -> dict[str, float]:
    """The sum of the valid sales of each country."""
    sums: dict[str, float] = {}
    for sale in sales:
        if sale.is_valid:
            sums[sale.country] = sums.get(sale.country, 0.0) + sale.amount
    return sums


def blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block + file.readline()


def merge(sums: dict[str, float], more: dict[str, float]) -> None:
    for country, amount in more.items():
        sums[country] = sums.get(country, 0.0) + amount


@asynccontextmanager
async def lines() -> AsyncIterator[Round]:
    """MB of lines a second by a JSON pool."""
    size = int(os.environ.get(SIZE, "50")) * 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sales.ndjson"
        write_lines(path, size)
        async with open_json_pool(WORKERS) as pool:

            async def one_round() -> float:
                sums: dict[str, float] = {}
                start = perf_counter()
                async with pool.open_lines(path, type=Sale, reduce=add_up, ordered=False) as parts:
                    async for part in parts:
                        merge(sums, part)
                elapsed = perf_counter() - start
                if len(sums) != 5:
                    raise ValueError(sums)
                return path.stat().st_size / elapsed / 1e6

            yield one_round


@asynccontextmanager
async def lines_alone(by_line: bool) -> AsyncIterator[Round]:
    """The same by msgspec in one process.

    by_line: each line as a document, as the pool does; else whole blocks at a time, which is faster, and
    takes two documents on one line, or one on two, for good.
    """
    size = int(os.environ.get(SIZE, "50")) * 1_000_000
    decoder = msgspec.json.Decoder(Sale)

    def decode(block: bytes) -> list[Sale]:
        return (
            [decoder.decode(line) for line in block.splitlines()] if by_line else decoder.decode_lines(block)
        )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sales.ndjson"
        write_lines(path, size)

        async def one_round() -> float:
            sums: dict[str, float] = {}
            start = perf_counter()
            for block in blocks(path):
                merge(sums, add_up(decode(block)))
            return path.stat().st_size / (perf_counter() - start) / 1e6

        yield one_round


# One large document.


async def gap_of(parse: Callable[[], Awaitable[list[Any]]]) -> float:
    """Milliseconds of the longest gap, until the tree is there; it is dropped when nobody looks."""
    gaps: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick, gaps)
        await trio.sleep(0.01)
        tree = await parse()
        await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    if not tree:
        raise ValueError(tree)
    return max(gaps) * 1e3


def write_large(path: Path) -> None:
    text = make_document(LARGE // 60)[0]
    path.write_text(f"[{','.join([text] * 60)}]")


def load_file(path: str) -> Any:
    with open(path, "rb") as file:
        return json.load(file)


@asynccontextmanager
async def gap(policy: Any) -> AsyncIterator[Round]:
    """The longest gap of the loop while a JSON pool delivers it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.json"
        write_large(path)
        async with open_json_pool(1, gc=policy) as pool:
            yield lambda: gap_of(lambda: pool.parse_file(path))


@asynccontextmanager
async def gap_of_pickle(policy: Any) -> AsyncIterator[Round]:
    """The same of a worker that sends it home as any other value, in one piece."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.json"
        write_large(path)
        async with open_worker(load_file, gc=policy) as worker:
            yield lambda: gap_of(lambda: worker.call(str(path)))
