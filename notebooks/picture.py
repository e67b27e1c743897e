"""Records a pool that loses a worker, and draws what happened: the picture in the README.

    python notebooks/picture.py [notebooks/picture.png]

It does not know how a recording is made or drawn.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import trio

from trio_isolates import IsolateDied, open_pool, run
from trio_isolates.trace import Trace, record

DEADLY = 3


def work(number: int) -> None:
    """Take a while; one of the calls takes its worker along."""
    time.sleep(0.06 + 0.02 * (number % 3))
    if number == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)


async def main() -> Trace:
    """Make nine calls to a pool of two, one of which is lost; return what was recorded."""
    await run(os.getpid)  # a program's first isolate takes longer to start, as what they share is loaded
    with record() as trace:
        await use_pool()
    return trace


async def use_pool() -> None:
    async with open_pool(work, workers=2, name="pool") as pool:
        await pool.resize(2)  # returns when both have started
        async with trio.open_nursery() as nursery:

            async def call(number: int) -> None:
                try:
                    await pool.call(number)
                except IsolateDied:
                    assert number == DEADLY

            for number in range(9):
                nursery.start_soon(call, number)


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_suffix(".png")
    trio.run(main).gantt().save(path)
