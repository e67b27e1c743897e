"""Search a large list and a tree of files; the hits come as they are found, and enough is enough.

    python search.py                           Python's own library, and names of its own making
    python search.py 'TODO|FIXME' --under ~/src --glob '*.py' --most 50
    python search.py --people 2000000 --name 'ann.*ova$'

The list lives in a worker: it is made there, and only what is found of it
travels. The files are read in a pool. Both searches stop in the middle when
there are enough hits: what is left of the work is never done.
"""

from __future__ import annotations

import random
import re
import sysconfig
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from stage import bar, count, options, start
from trio_isolates import open_pool, open_worker


@attrs.frozen
class Person:
    name: str
    born: int


def make_people(size: int) -> list[Person]:
    """The state of the worker: made there, once. The same in each run."""
    random_ = random.Random(7)
    first = [a + b for a in ("an", "jo", "mar", "el", "pe") for b in ("na", "hann", "ia", "tra", "sa")]
    last = [a + b for a in ("nov", "berg", "smith", "ivan", "silv") for b in ("ova", "er", "son", "a", "ak")]
    return [
        Person(f"{random_.choice(first)} {random_.choice(last)}", random_.randrange(1930, 2010))
        for _ in range(size)
    ]


def find_people(people: list[Person], pattern: str, before: int) -> Iterator[Person]:
    """Runs in the worker: a generator is a stream, and waits when nobody takes what it has found."""
    matches = re.compile(pattern).search
    for person in people:
        if person.born < before and matches(person.name):
            yield person


@attrs.frozen
class Hit:
    path: Path
    line: int
    text: str


def search_file(path: Path, pattern: str) -> list[Hit]:
    """Runs in the pool: all hits in one file, as a file is soon read. What is no text has none."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    matches = re.compile(pattern).search  # compiled once: `re` remembers
    return [Hit(path, number, line.strip()) for number, line in enumerate(lines, 1) if matches(line)]


async def search_people(arguments: Namespace) -> None:
    made = partial(make_people, arguments.people)
    print(f"\n{arguments.people:,} people, {arguments.name!r}, born before {arguments.before}", flush=True)
    async with open_worker(find_people, state=made) as worker:
        started, found = time.perf_counter(), 0
        async with worker.open_stream(arguments.name, arguments.before) as people:
            async for person in people:
                if found == arguments.most:
                    print("... and more")
                    break  # leaving the block closes the generator in its worker
                found += 1
                print(f"{person.name:20} {person.born}")
        print(f"{found} people in {time.perf_counter() - started:.3f} s")


async def search_files(arguments: Namespace) -> None:
    print(f"\n{arguments.glob} under {arguments.under}, {arguments.pattern!r}", flush=True)
    search = partial(search_file, pattern=arguments.pattern)
    # A tree can be endless: `rglob` is only pulled as far as there are places, so nothing is listed in
    # advance. With ordered=False one large file does not hold up the hits in others.
    paths = (path for path in arguments.under.rglob(arguments.glob) if path.is_file())
    started, found, files = time.perf_counter(), 0, 0
    async with open_pool(search, workers=arguments.workers) as pool:
        with bar("searching", None) as advance:
            async with pool.open_map(paths, ordered=False, max_pending=64) as results:
                async for hits in results:
                    files += 1
                    advance()
                    for hit in hits[: arguments.most - found]:
                        print(f"{hit.path.relative_to(arguments.under)}:{hit.line}: {hit.text[:70]}")
                    found += len(hits)
                    if found > arguments.most:
                        print("... and more")
                        break  # leaving the block stops the searches under way
    found = min(found, arguments.most)
    print(f"{found} hits in {files:,} files in {time.perf_counter() - started:.2f} s")


async def run(arguments: Namespace) -> None:
    await search_people(arguments)
    await search_files(arguments)


def pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None
    return text


def main(argv: Sequence[str]) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    parser = options(__doc__)
    parser.add_argument("pattern", nargs="?", type=pattern, default=r"\bnever\b.*\bbecause\b")
    parser.add_argument("--under", type=Path, default=library, metavar="FOLDER", help="what to search")
    parser.add_argument("--glob", default="*.py", metavar="NAMES", help="which files (*.py)")
    parser.add_argument("--most", type=count, default=10, metavar="N", help="hits that are enough (10)")
    parser.add_argument("--people", type=count, default=200_000, metavar="N", help="how long a list (200000)")
    parser.add_argument("--name", type=pattern, default="^an.*(ova|er)$", metavar="PATTERN")
    parser.add_argument("--before", type=count, default=1990, metavar="YEAR", help="born before (1990)")
    trio.run(run, parser.parse_args(argv))


if __name__ == "__main__":
    start(main)
