"""One contender in a process of its own: opened once, then a round for each line read, its figure printed.

    python -c "import contender; contender.main()" PLACEMENT MODULE:OPENER [JSON ARGUMENT ...]

OPENER is an async context manager; it yields the async function that plays one round. A process each, so that
no contender sees another's allocator, threads, forkserver or garbage. By `-c`, because there is no `__main__`
then that `multiprocessing` would import again in each worker: this spares the peers what a script costs them.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import trio

from census import descendants


def pin(pid: int, cpu: int) -> None:
    """All threads that the process has now, and what these start later, to this CPU."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cpu})


def pin_apart() -> None:
    here, there, *_ = sorted(os.sched_getaffinity(0))
    pin(os.getpid(), here)
    for pid in descendants(os.getpid()):
        pin(pid, there)


async def play(opener: Any, args: list[Any], placement: str) -> None:
    if placement == "together":
        pin(os.getpid(), min(os.sched_getaffinity(0)))
    async with opener(*args) as one_round:
        while await trio.to_thread.run_sync(sys.stdin.readline):
            print(json.dumps(await one_round()), flush=True)
            if placement == "apart":
                pin_apart()
                placement = "pinned"


def main() -> None:
    placement, where, *args = sys.argv[1:]
    module, name = where.split(":")
    opener = getattr(importlib.import_module(module), name)
    trio.run(play, opener, [json.loads(arg) for arg in args], placement)
