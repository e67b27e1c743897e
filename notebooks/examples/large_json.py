"""Parse large JSON documents in a pool, while the main loop stays awake.

    python large_json.py                       eight documents of its own making
    python large_json.py data/*.json           your own
    python large_json.py --documents 40 --megabytes 20 --workers 8

Each document is parsed twice: in the main loop, where nothing else happens
meanwhile, and in a pool. A heartbeat tells what that means for the rest of a
program. What comes home from a worker is what you want to know of a document,
not the document: to build all of it again would keep the main loop busy, too.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from stage import bar, count, heartbeat, megabytes, options, start
from trio_isolates import open_pool


@attrs.frozen
class Summary:
    """What a document is boiled down to: small, so that it travels fast."""

    size: int
    kind: str
    values: int
    depth: int


def summarize(path: Path) -> Summary:
    """Runs in a worker: read, parse, look at every value."""
    text = path.read_bytes()
    document = json.loads(text)
    values, depth, level = 0, 0, [document]
    while level:
        values, depth = values + len(level), depth + 1
        level = [inner for value in level for inner in children(value)]
    return Summary(len(text), describe(document), values, depth)


def children(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def describe(document: Any) -> str:
    if isinstance(document, dict):
        return f"object with {', '.join(list(document)[:3])}"
    if isinstance(document, list):
        return f"array of {len(document):,}"
    return type(document).__name__


def make_document(job: tuple[Path, int]) -> None:
    """Runs in a worker: write orders of many customers, the same in each run."""
    path, size = job
    random_ = random.Random(path.name)
    orders: list[str] = []
    while size > 0:
        lines = [
            {"article": f"No. {random_.randrange(10**4)}", "price": random_.randrange(10**4) / 100}
            for _ in range(random_.randrange(1, 9))
        ]
        order = {"id": random_.getrandbits(32), "paid": random_.random() < 0.8, "note": None, "lines": lines}
        orders.append(json.dumps(order))
        size -= len(orders[-1]) + 2
    path.write_text(f"[{', '.join(orders)}]")


async def parse_inline(paths: Sequence[Path]) -> None:
    started = time.perf_counter()
    async with heartbeat() as heart:
        for path in paths:
            try:
                summarize(path)
            except (OSError, ValueError, RecursionError):
                pass  # the pool will tell
            await trio.lowlevel.checkpoint()
    print(f"in the main loop: {time.perf_counter() - started:.2f} s, {heart}")


async def run(arguments: Namespace, folder: Path) -> None:
    # The pool has a handler, and calls other functions as well: those that make the documents.
    async with open_pool(summarize, workers=arguments.workers) as pool:
        paths: list[Path] = arguments.paths
        if not paths:
            print(f"making {arguments.documents} documents of {arguments.megabytes} MB", flush=True)
            paths = [folder / f"orders-{number}.json" for number in range(arguments.documents)]
            await pool.map([(path, arguments.megabytes * 10**6) for path in paths], make_document)
        await parse_inline(paths)

        started = time.perf_counter()
        async with heartbeat() as heart:
            # With return_errors, a bad document is one line, and the others go on.
            with bar("parsing", len(paths)) as advance:
                async with pool.open_map(paths, return_errors=True) as results:
                    for path in paths:
                        try:
                            show(path, (await anext(results)).unwrap())
                        except (OSError, ValueError, RecursionError) as error:
                            print(f"{path.name:16} {type(error).__name__}: {error}")
                        advance()
        print(f"in the pool: {time.perf_counter() - started:.2f} s, {heart}")


def show(path: Path, found: Summary) -> None:
    size = megabytes(found.size)
    print(f"{path.name:16} {size:>8}  {found.kind:24} {found.values:>10,} values, {found.depth} levels")


def main(argv: Sequence[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("paths", nargs="*", type=Path, metavar="FILE", help="JSON documents")
    parser.add_argument("--documents", type=count, default=8, metavar="N", help="how many to make (8)")
    parser.add_argument("--megabytes", type=count, default=3, metavar="N", help="how large each (3)")
    with tempfile.TemporaryDirectory() as folder:
        trio.run(run, parser.parse_args(argv), Path(folder))


if __name__ == "__main__":
    start(main)
