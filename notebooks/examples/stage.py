"""What every example stands on: its options, a progress bar, a heartbeat of the main loop, a quiet end.

It knows nothing of isolates: what is worth copying is in the examples themselves.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager

import trio


@contextmanager
def extra() -> Generator[None, None, None]:
    """Imports in this block say, when they fail, what to install."""
    try:
        yield
    except ImportError as error:
        needed = f"this example needs {error.name}: pip install 'trio-isolates[examples]'"
        raise ImportError(needed, name=error.name) from None


with extra():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn


def options(about: str | None, *, pool: bool = True) -> argparse.ArgumentParser:
    """Return a parser that shows an example's docstring as its help. One with a pool has --workers."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if pool:
        workers = "isolates in the pool (one a usable CPU)"
        parser.add_argument("--workers", type=count, metavar="N", help=workers)
    return parser


def count(text: str) -> int:
    """The type of an option that is a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


@contextmanager
def bar(what: str, total: int | None) -> Generator[Callable[[], None], None, None]:
    """Show a progress bar in this block; what it gives is called for each step that is done.

    total None: nobody knows how many. What is printed meanwhile stands above the bar. There is no bar
    where nobody sees it: when standard output or standard error is no terminal.
    """
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    seen = sys.stdout.isatty() and sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not seen) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


class Heartbeat:
    """Notes how late the main loop was. From `heartbeat`."""

    def __init__(self) -> None:
        self.beats = 0
        self.longest = 0.0
        """Seconds: the longest time in which the loop was too busy to take a turn."""

    async def run(self, interval: float) -> None:
        due = time.perf_counter()
        while True:
            due += interval
            await trio.sleep_until(trio.current_time() + due - time.perf_counter())
            self.longest = max(self.longest, time.perf_counter() - due)
            self.beats += 1
            due = time.perf_counter()

    def __str__(self) -> str:
        return f"longest pause of the main loop {self.longest * 1000:.1f} ms, in {self.beats:,} heartbeats"


@asynccontextmanager
async def heartbeat(interval: float = 0.002) -> AsyncGenerator[Heartbeat, None]:
    """Measure in this block how long the main loop keeps its tasks waiting. `interval` is in seconds."""
    async with trio.open_nursery() as nursery:
        measured = Heartbeat()
        nursery.start_soon(measured.run, interval)
        yield measured
        await trio.lowlevel.checkpoint()  # a pause at the very end is one, too
        nursery.cancel_scope.cancel()


def megabytes(count: float) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value below which this part of the values lies: 0.5 is the median, 1 the largest."""
    return sorted(values)[max(0, round(part * len(values)) - 1)]


def start(main: Callable[[Sequence[str]], None]) -> None:
    """Run an example with the arguments of its command line. Ctrl-C ends it, without a traceback."""
    interrupted = False
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except* KeyboardInterrupt:  # Trio has it in a group when it arrives inside a nursery
        interrupted = True
    except* BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
    if interrupted:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
