"""Starts that fail: in `init`, before they connect, or never."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import contract
import handlers
from contract import both_loops
from fifo import Fifo, wait_gone, within
from handlers import apply
from trio_isolates import IsolateDied, IsolateSpawnError, RemoteError, open_pool, open_worker, run

fifo = contract.fifo


@both_loops
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, handlers.Unheard])
@within(20)
async def test_init_raises(handler: Callable[..., Any], error: type[BaseException]) -> None:
    """The failure of `init` comes out of the block's entry as IsolateSpawnError, from the failure itself."""
    with pytest.raises(IsolateSpawnError, match="no luck") as caught:
        async with open_worker(handler, init=lambda: handlers.raise_it(error, "no luck")):
            raise AssertionError
    cause = caught.value.__cause__
    if error is ValueError:
        assert isinstance(cause, ValueError)
    else:
        assert isinstance(cause, RemoteError) and cause.type_name.rpartition(".")[2] == error.__name__
    assert await run(handlers.echo, 1) == 1


@both_loops
@pytest.mark.parametrize("deed", [handlers.exit_at_once, handlers.kill_self])
@within(20)
async def test_init_exits(handler: Callable[..., Any], deed: Callable[[], object]) -> None:
    """A process that ends in its `init` is an IsolateSpawnError from IsolateDied."""
    with pytest.raises(IsolateSpawnError) as caught:
        async with open_worker(handler, init=deed):
            raise AssertionError
    cause = caught.value.__cause__
    assert isinstance(cause, IsolateDied)
    assert (cause.exitcode, cause.signal) in [(0, None), (-9, "SIGKILL")]
    assert await run(handlers.echo, 1) == 1


def start_a_thread_and_fail(fifo: Path) -> None:
    handlers.tell(fifo, os.getpid())
    threading.Thread(target=handlers.hang).start()
    raise ValueError("no luck")


@both_loops
@within(4)  # after five seconds it would be killed all the same
async def test_init_raises_and_leaves_a_thread(handler: Callable[..., Any], fifo: Fifo) -> None:
    """A thread that a failed `init` has left running, and that is no daemon, does not keep its process."""
    path = fifo.path
    with pytest.raises(IsolateSpawnError, match="init= raised ValueError: no luck"):
        async with open_worker(handler, init=lambda: start_a_thread_and_fail(path)):
            raise AssertionError
    await wait_gone(int(await fifo.line()))


@both_loops
@within(20)
async def test_init_hangs_and_is_cancelled(handler: Callable[..., Any], fifo: Fifo) -> None:
    """A start that hangs in `init` is given up when it is cancelled."""
    path = fifo.path

    async def start() -> None:
        async with open_worker(handler, init=lambda: handlers.tell_and_sleep(path)):
            raise AssertionError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        await fifo.line()
        nursery.cancel_scope.cancel()
    assert await run(handlers.echo, 1) == 1


@within(20)
async def test_init_that_fails_once_costs_one_restart(tmp_path: Path) -> None:
    """In a pool, a start that fails is tried again, as `restart` says."""
    marker = tmp_path / "marker"
    async with open_pool(apply, workers=2, init=lambda: handlers.exit_once(marker)) as pool:
        assert await pool.map(range(10), handlers.echo) == list(range(10))


@within(20)
async def test_twenty_starts_that_die_before_they_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends before it has said anything is an IsolateSpawnError, at once and every time."""
    monkeypatch.setattr("trio_isolates._boot.main", handlers.die_before_connecting)
    for _ in range(20):
        with pytest.raises(IsolateSpawnError) as caught:
            async with open_worker(apply):
                pass
        assert isinstance(caught.value.__cause__, IsolateDied)
        assert caught.value.__cause__.exitcode == 1
    monkeypatch.undo()
    assert await run(handlers.echo, 1) == 1


@within(20)
async def test_a_start_that_hangs_before_it_connects(monkeypatch: pytest.MonkeyPatch, fifo: Fifo) -> None:
    """A process that starts and never says anything is given up when the start is cancelled."""
    monkeypatch.setattr("trio_isolates._boot.main", handlers.hang_before_connecting)
    monkeypatch.setattr("trio_isolates._boot.retire", handlers.Hello(fifo.path))

    async def start() -> None:
        async with open_worker(apply):
            raise AssertionError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        await fifo.line()
        nursery.cancel_scope.cancel()
    monkeypatch.undo()
    assert await run(handlers.echo, 1) == 1
