"""What an import costs, in a fresh interpreter each time."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from floor import Round

SCRIPT = """
import time
for name in {names}: __import__(name)
start = time.perf_counter()
{statement}
print((time.perf_counter() - start) * 1e3)
"""


@asynccontextmanager
async def imported(statement: str, *names: str) -> AsyncIterator[Round]:
    """Milliseconds that the import statement takes after these modules have been imported."""

    async def one_round() -> float:
        script = SCRIPT.format(names=names, statement=statement)
        answer = await trio.run_process([sys.executable, "-c", script], capture_stdout=True)
        return float(answer.stdout)

    yield one_round
