"""Megabytes on their way: deaths in the middle of them, both directions at once, changes meanwhile."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

import contract
import handlers
from contract import both_loops
from fifo import Fifo, within
from handlers import MIB
from trio_isolates import IsolateDied, _bulk, open_pool, open_worker

fifo = contract.fifo


def _send_all_by_the_link() -> None:
    """Have large memory that this process sends go by the socket, as where there are no segments left."""
    _bulk.MOST_SEGMENTS = 0  # type: ignore[misc]


@pytest.fixture
def by_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bulk, "MOST_SEGMENTS", 0)


@both_loops
@pytest.mark.usefixtures("by_the_link")
@within(30)
async def test_killed_while_a_large_request_is_written(handler: Callable[..., Any], fifo: Fifo) -> None:
    """A worker that is killed while it has read a part of 64 MiB of arguments fails that call only."""
    async with open_pool(handler, workers=1) as pool:
        (pid,) = pool.pids
        await pool.call(_stop_reading, fifo.path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_any, pool, bytes(64 * MIB))
            assert await fifo.line() == "stopped"
            await trio.testing.wait_all_tasks_blocked()
            os.kill(pid, signal.SIGKILL)
        assert await pool.call(handlers.echo, 1) == 1
        assert pool.pids != (pid,)


def _stop_reading(fifo: Path) -> None:
    """Have this process stop as soon as some of the next message has arrived."""
    fd = handlers.link_fds()[0]

    def stop() -> None:
        select.select([fd], [], [])
        handlers.tell(fifo, "stopped")
        os.kill(os.getpid(), signal.SIGSTOP)

    threading.Thread(target=stop, daemon=True).start()


async def _expect_any(pool: Any, value: bytes) -> None:
    """The call dies, or is answered by the successor if it had not begun."""
    try:
        assert await pool.call(handlers.echo, value) == value
    except IsolateDied as exc:
        assert exc.maybe_executed  # noqa: PT017  # the other way out is as good


@both_loops
@within(30)
async def test_killed_while_it_writes_a_large_reply(handler: Callable[..., Any], fifo: Fifo) -> None:
    """A worker that is killed while it writes 64 MiB of result fails that call only."""
    async with open_pool(handler, workers=1) as pool:
        (pid,) = pool.pids
        with pytest.raises(IsolateDied) as caught:
            await pool.call(_reply_and_die)
        assert caught.value.maybe_executed
        assert await pool.call(handlers.echo, 1) == 1
        assert pool.pids != (pid,)


def _reply_and_die() -> bytes:
    """Die when the first part of the reply has been sent."""
    _send_all_by_the_link()
    fd = handlers.link_fds()[0]

    def die() -> None:
        while select.select([], [fd], [], 0)[1]:  # until the socket is full
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=die, daemon=True).start()
    return bytes(64 * MIB)


@both_loops
@pytest.mark.parametrize("way", ["segments", "link"])
@within(30)
async def test_large_messages_both_ways_at_once(
    handler: Callable[..., Any], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB in each direction at the same time do not wait for each other."""
    if way == "link":
        monkeypatch.setattr(_bulk, "MOST_SEGMENTS", 0)
    big = os.urandom(MIB) * 64

    async def call() -> None:
        assert await worker.call(handlers.echo, big) == big

    async with open_worker(handler) as worker:
        if way == "link":
            await worker.call(_send_all_by_the_link)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(call)


class _Canvas:
    """One array on which all calls draw, when the last of them has come."""

    def __init__(self, calls: int) -> None:
        self.array = np.zeros(MIB)
        self.missing = calls
        self.complete = trio.Event()


async def _draw(canvas: _Canvas, value: float) -> Any:
    canvas.missing -= 1
    if not canvas.missing:
        canvas.complete.set()
    await canvas.complete.wait()
    canvas.array[:] = value
    return canvas.array


@within(30)
async def test_a_result_arrives_as_it_was_returned() -> None:
    """An array that a later call changes while the reply still waits arrives as it was."""
    results: list[Any] = []

    async def call(value: float) -> None:
        results.append((value, await worker.call(value)))

    async with open_worker(_draw, state=lambda: _Canvas(4)) as worker, trio.open_nursery() as nursery:
        for value in range(4):
            nursery.start_soon(call, value)
    assert len(results) == 4
    assert all((array == value).all() for value, array in results)
