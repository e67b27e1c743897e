"""The inline engine: deaths, stalls and failures where a test wants them."""

from __future__ import annotations

import errno
import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import contract_handlers as work
from contract import plugin, takes
from fifo import within
from handlers import apply, apply_async
from trio_isolates import (
    IsolateDied,
    IsolateSpawnError,
    RemoteError,
    Restart,
    UnsendableError,
    Worker,
    open_pool,
    open_worker,
    run,
)
from trio_isolates._engine import Host
from trio_isolates._messages import Changes
from trio_isolates.testing import InlineEngine, _open_pipes

inline_isolates = plugin.inline_isolates

LONG = 100_000  # seconds; they pass at once


# Deaths.


@within(LONG)
async def test_kill(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """`kill` is a death by SIGKILL, of a worker, of a pool's first isolate, or by name."""
    with pytest.raises(IsolateDied) as caught:
        async with open_worker(apply) as worker:
            pid = worker.pid
            inline_isolates.kill(worker)
            with pytest.raises(ValueError, match="is alive"):
                inline_isolates.kill(worker)
    died = caught.value
    assert (died.pid, died.exitcode, died.signal) == (pid, -signal.SIGKILL, "SIGKILL")
    assert died.stderr_tail == ""
    async with open_pool(apply, workers=2, name="mine") as pool:
        await trio.testing.wait_all_tasks_blocked()
        before = set(pool.pids)
        inline_isolates.kill("mine.2")
        await trio.sleep(1)
        assert len(before & {*pool.pids}) == 1 and len(pool.pids) == 2
        first, second = pool.pids
        inline_isolates.kill(pool)
        await trio.sleep(1)
        assert first not in pool.pids and second in pool.pids and len(pool.pids) == 2


@within(LONG)
async def test_cancelled_host(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """To cancel the engine's task of an isolate is to kill the isolate."""
    async with trio.open_nursery() as nursery:
        host: Host = await nursery.start(inline_isolates.host, "mine", Changes())
        nursery.cancel_scope.cancel()
    death = await host.wait_dead()
    assert (death.pid, death.exitcode, death.signal) == (host.pid, -signal.SIGKILL, "SIGKILL")


@within(LONG)
async def test_kill_while_it_starts(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """An isolate that is still starting can be killed by its name."""

    async def kill() -> None:
        await trio.sleep(3)
        inline_isolates.kill("mine")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        with takes(3), pytest.raises(IsolateSpawnError, match="SIGKILL"):
            async with open_worker(apply, name="mine", init=trio.sleep_forever):
                raise AssertionError


@within(LONG)
async def test_a_kill_goes_through_shields(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """No shield holds a kill up; the isolates of the killed one die with it, before anybody hears of it."""
    async with open_worker(apply_async) as worker, trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(IsolateDied):
                await worker.call(work.nest)
            assert repr(inline_isolates) == "<trio_isolates.testing.InlineEngine isolates=0>"

        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        assert repr(inline_isolates) == "<trio_isolates.testing.InlineEngine isolates=2>"
        with takes(0):
            inline_isolates.kill(worker)
            await trio.testing.wait_all_tasks_blocked()


@within(LONG)
async def test_what_cannot_be_killed(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """An isolate whose task swallows its kill is waited for, and a warning says why."""

    async def call() -> None:
        with pytest.raises(IsolateDied):
            await pool.call(work.swallow, 20_000)

    async with open_pool(apply_async, workers=1, name="mine") as pool:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                inline_isolates.kill(pool)
        (warning,) = caught
        assert warning.category is RuntimeWarning
        assert str(warning.message).startswith("isolate 'mine.1' was killed and does not end")
        assert await pool.call(abs, -1) == 1


@within(LONG)
async def test_pids_are_nobody_s(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """Each isolate, those in isolates too, has a pid that no other has, and that no process can have."""
    async with (
        open_pool(apply, workers=3) as pool,
        open_worker(apply_async, engine=InlineEngine()) as worker,
    ):
        await trio.testing.wait_all_tasks_blocked()
        pids = {*pool.pids, worker.pid, await worker.call(work.pid_of_worker)}
        assert len(pids) == 5
        for pid in pids:
            assert pid is not None
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


class Late:
    """Starts inline isolates. Of one, the word that it is ready arrives when it is known to be dead."""

    def __init__(self, which: int) -> None:
        self.started = 0
        self.engine = InlineEngine()
        self._which = which

    async def host(self, name: str, changes: Changes, *, task_status: trio.TaskStatus[Host]) -> None:
        self.started += 1
        async with trio.open_nursery() as nursery:
            host: Any = await nursery.start(self.engine.host, name, changes)
            if self.started == self._which:
                host.pipe = _LatePipe(host)
            task_status.started(host)


class _LatePipe:
    def __init__(self, host: Any) -> None:
        self._host = host
        self._pipe = host.pipe
        self._is_late = True
        self.send, self.receive, self.close = host.pipe.send, host.pipe.receive, host.pipe.close
        self.wait_writable = host.pipe.wait_writable

    async def wait_readable(self) -> None:
        await self._pipe.wait_readable()
        if self._is_late:
            self._is_late = False
            self._host.kill()
            with suppress(trio.Cancelled):  # as if it had been readable just before the cancellation
                await trio.sleep_forever()


@pytest.mark.parametrize("open_one", [open_worker, open_pool])
@within(LONG)
async def test_ready_too_late(autojump_clock: MockClock, open_one: Callable[..., Any]) -> None:
    """An isolate that is known to be dead when it says that it is ready gets no call; the next one serves."""
    options = {} if open_one is open_worker else {"workers": 1}
    late = Late(which=2)
    async with open_one(apply, engine=late, restart=Restart(), **options) as opened:
        late.engine.kill(opened)
        assert await opened.call(abs, -1) == 1
        assert late.started == 3
        assert opened.statistics().restarted == 2


@within(LONG)
async def test_ready_too_late_and_not_replaced(autojump_clock: MockClock) -> None:
    """If nobody takes its place, it has not been started, and the reason is its death."""
    with pytest.raises(IsolateSpawnError, match="SIGKILL") as caught:
        async with open_worker(apply, engine=Late(which=1)):
            raise AssertionError
    assert isinstance(caught.value.__cause__, IsolateDied)
    assert not caught.value.__cause__.maybe_executed


# Stalls.


@within(LONG)
async def test_stall(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """A stalled isolate answers nothing; a call that it has not begun can be cancelled at once."""
    with takes(1000 + 7):
        async with open_worker(apply_async, shutdown_grace=7) as worker:
            inline_isolates.stall(worker)
            with trio.move_on_after(1000) as scope:
                await worker.call(abs, -1)
            assert scope.cancelled_caught
            assert worker.statistics().replaced == 0


@within(LONG)
async def test_stall_in_a_call(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """What a stalled isolate runs cannot be cancelled any more: it is killed after the grace."""
    async with open_worker(work.nap, cancel_grace=2) as worker, trio.open_nursery() as nursery:

        async def call() -> None:
            with takes(20 + 2), trio.move_on_after(20):
                await worker.call(10)

        nursery.start_soon(call)
        await trio.sleep(1)
        inline_isolates.stall(worker)
        await trio.sleep(100)
        assert worker.statistics().replaced == 1


@within(LONG)
async def test_stalled_and_killed(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """A kill ends a stall, also where more was sent than the link holds."""
    async with open_pool(apply, workers=1) as pool, trio.open_nursery() as nursery:
        inline_isolates.stall(pool)
        nursery.start_soon(pool.call, len, bytes(1 << 20))
        nursery.start_soon(pool.call, len, bytes(1 << 20))
        await trio.testing.wait_all_tasks_blocked()
        inline_isolates.kill(pool)
    assert pool.statistics().done == 2


# Failures.


@within(LONG)
async def test_fail_spawn(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """The next start fails, and only that."""
    failure = OSError(errno.EMFILE, "no place")
    inline_isolates.fail_next("spawn", failure)
    with pytest.raises(IsolateSpawnError, match="no place") as caught:
        async with open_worker(apply):
            raise AssertionError
    assert caught.value.__cause__ is failure
    assert await run(abs, -1) == 1


@within(LONG)
async def test_fail_call(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """The next call fails in the place of the handler, whatever is called, and only that."""
    async with open_pool(apply, workers=1) as pool, open_worker(apply_async) as worker:
        for call in (pool.call, pool.run, worker.call, worker.run):
            inline_isolates.fail_next("call", work.CustomError(1))
            inline_isolates.fail_next("call", SystemExit(2))
            with pytest.raises(work.CustomError):
                await call(apply, abs, -1)
            with pytest.raises(RemoteError, match="SystemExit"):
                await call(apply, abs, -1)
            assert await call(apply, abs, -1) == 1
        inline_isolates.fail_next("call", work.CustomError(3))
        with pytest.raises(work.CustomError):
            await pool.map([1, 2], abs)


@within(LONG)
async def test_fail_pickle(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """The next result, or the next call's arguments, do not survive the journey; the isolate does."""
    async with open_worker(apply) as worker:
        pid = worker.pid
        for point, path in (("pickle", "result"), ("unpickle", "")):
            inline_isolates.fail_next(point, KeyError("why"))  # type: ignore[arg-type]
            with pytest.raises(UnsendableError, match="why") as caught:
                await worker.call(abs, -1)
            assert caught.value.path == path
            assert isinstance(caught.value.__cause__, KeyError)
            assert await worker.call(abs, -1) == 1
        assert worker.pid == pid


@within(LONG)
async def test_wrong_arguments(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """What the engine does not know it refuses, by name."""
    anything: Any = inline_isolates
    with pytest.raises(ValueError, match=r"'lunch'.*'spawn'"):
        anything.fail_next("lunch", ValueError())
    with pytest.raises(TypeError, match="not 'why'"):
        anything.fail_next("call", "why")
    for method in (anything.kill, anything.stall):
        with pytest.raises(TypeError, match="not 5"):
            method(5)
        with pytest.raises(ValueError, match="no isolate of 'nobody' is alive"):
            method("nobody")
    worker: Worker[..., Any]
    async with open_worker(apply, engine=InlineEngine()) as worker:
        with pytest.raises(ValueError, match="no isolate of <"):
            inline_isolates.kill(worker)


# The pipe.


def test_pipe() -> None:
    """A pipe holds 64 KiB in each direction, gives what it can, and has an end."""
    ours, theirs = _open_pipes()
    memory = memoryview(bytearray(100_000))
    with pytest.raises(BlockingIOError):
        theirs.receive(memory)
    assert ours.send([b"ab", bytearray(b"cd"), memoryview(b"ef")]) == 6
    assert theirs.receive(memory[:4]) == 4
    assert theirs.receive(memory[4:]) == 2
    assert bytes(memory[:6]) == b"abcdef"
    assert ours.send([b"x", bytes(100_000)]) == 65_536
    with pytest.raises(BlockingIOError):
        ours.send([b"x"])
    assert theirs.send([b"back"]) == 4
    assert theirs.receive(memory) == 65_536
    theirs.close()
    assert ours.receive(memory) == 4
    assert ours.receive(memory) == 0
    with pytest.raises(BrokenPipeError):
        ours.send([b"x"])
