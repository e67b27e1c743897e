"""Ask a database in a worker: the main loop stays awake, and a query can be cancelled.

    python database.py                         a million sales of its own making
    python database.py --rows 20000000 --file sales.db

SQLite works inside of one C function, which nothing can interrupt. So the
worker is opened with on_cancel="kill": a cancelled query ends with its
process, its lock goes with it, SQLite undoes what it had half written, and
the next worker opens the file again.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import trio

from stage import bar, count, heartbeat, options, start
from trio_isolates import Worker, open_worker, report_progress, run

Rows: TypeAlias = list[tuple[Any, ...]]
Database: TypeAlias = Worker[[str], Rows]

MAKE = """
    create table sales as
    with recursive number(n) as (select 1 union all select n + 1 from number where n < {rows})
    select n as id, n % 7 as shop, n * 7919 % 10007 as price from number"""
TOTALS = "select shop, count(*), sum(price), max(price) from sales group by shop order by shop"
RAISE = "update sales set price = price + 100"
STEPS = 100_000  # of SQLite's machine, from one report to the next


def connect(path: Path) -> sqlite3.Connection:
    """The state of the worker: made when it starts, and again when it is replaced."""
    return sqlite3.connect(path, timeout=0)


def ask(connection: sqlite3.Connection, statement: str) -> Rows:
    """Runs in the worker: one statement, one transaction."""
    steps = 0

    def report() -> None:
        nonlocal steps
        steps += 1
        report_progress(steps)

    connection.set_progress_handler(report, STEPS)
    with connection:
        return connection.execute(statement).fetchall()


async def timed(database: Database, what: str, statement: str) -> tuple[Rows, int]:
    """Ask; return the answer, and how many steps it took."""
    taken = [0]
    started = time.perf_counter()
    with bar(what, None) as advance:

        def show(steps: int) -> None:
            taken.append(steps)
            advance()

        async with heartbeat() as heart:
            rows = await database.call(statement, on_progress=show)
    print(f"{what}: {time.perf_counter() - started:.2f} s, {heart}", flush=True)
    return rows, taken[-1]


async def change_your_mind(database: Database, statement: str, half: int, path: Path) -> None:
    """Ask, and cancel in the middle. Any cancellation would do: a deadline, the error of a sibling."""
    locked_meanwhile = False
    with trio.CancelScope() as scope:

        def watch(steps: int) -> None:
            nonlocal locked_meanwhile
            if steps >= half and not scope.cancel_called:
                locked_meanwhile = is_locked(path)
                scope.cancel()

        await database.call(statement, on_progress=watch)
    print(f"{statement[:6]}: {'cancelled half-way' if scope.cancelled_caught else 'was done already'}")
    print(f"    locked then: {locked_meanwhile}, now: {await run(is_locked, path)}", flush=True)


def is_locked(path: Path) -> bool:
    """Try, as any other program would, to write to the file, without waiting."""
    with closing(sqlite3.connect(path, timeout=0)) as other:
        try:
            other.execute("begin immediate")
        except sqlite3.OperationalError:
            return True
    return False


async def example(arguments: Namespace, path: Path) -> None:
    opened, closed = partial(connect, path), sqlite3.Connection.close
    async with open_worker(ask, state=opened, teardown=closed, on_cancel="kill") as database:
        print(f"{arguments.rows:,} sales in {path}", flush=True)
        await timed(database, "making them", MAKE.format(rows=arguments.rows))
        totals, steps = await timed(database, "totals", TOTALS)
        print("   shop     sales         sum  highest")
        for shop, sales, total, highest in totals:
            print(f"{shop:7} {sales:9,} {total:11,} {highest:8,}")

        await change_your_mind(database, TOTALS, steps // 2, path)
        await change_your_mind(database, RAISE, steps // 2, path)

        again, _ = await timed(database, "totals again", TOTALS)
        print(f"    the same as before: {again == totals}")
        print(f"    workers killed and replaced: {database.statistics().replaced}")


def main(argv: Sequence[str]) -> None:
    parser = options(__doc__, pool=False)
    parser.add_argument("--rows", type=count, default=10**6, metavar="N", help="how many sales (1000000)")
    parser.add_argument("--file", type=Path, help="where to make them, in a file that is not there yet")
    arguments = parser.parse_args(argv)
    if arguments.file is not None and arguments.file.exists():
        parser.error(f"{arguments.file} exists already: name a new file")
    with tempfile.TemporaryDirectory() as folder:
        trio.run(example, arguments, arguments.file or Path(folder, "sales.db"))


if __name__ == "__main__":
    start(main)
