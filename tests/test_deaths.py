"""Workers that die: each call that had begun gets one notice, and somebody answers the next."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outcome
import pytest
import trio
import trio_parallel

import contract
import handlers
from contract import Gate, Kept, both_loops
from fifo import Fifo, wait_gone, within
from handlers import apply, apply_async
from trio_isolates import IsolateDied, RemoteError, Restart, open_pool, open_worker, run
from trio_isolates._messages import RUN

DEATHS = {
    "SIGKILL": (handlers.kill_self, -signal.SIGKILL),
    "SIGSEGV": (handlers.crash, -signal.SIGSEGV),
    "exit": (handlers.exit_at_once, 0),
}


fifo, gate = contract.fifo, contract.gate


@both_loops
@pytest.mark.parametrize("how", DEATHS)
@within(20)
async def test_dies_in_a_call(handler: Callable[..., Any], how: str) -> None:
    """A worker that dies ends its call with IsolateDied, which says how; another answers the next."""
    function, exitcode = DEATHS[how]
    async with open_pool(handler, workers=1) as pool:
        (pid,) = pool.pids
        with pytest.raises(IsolateDied) as caught:
            await pool.call(function)
        died = caught.value
        assert (died.pid, died.exitcode, died.maybe_executed) == (pid, exitcode, True)
        assert died.signal == (how if exitcode else None)
        assert isinstance(died, trio_parallel.BrokenWorkerError)
        assert await pool.call(handlers.echo, 1) == 1
        assert pool.pids != (pid,)
        assert pool.statistics().restarted == 1


@both_loops
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, handlers.Unheard])
@within(20)
async def test_raises_what_would_end_a_program(
    handler: Callable[..., Any], error: type[BaseException]
) -> None:
    """What would end a program ends only the call, as a RemoteError that names it; the worker lives on."""
    async with open_worker(handler) as worker:
        pid = worker.pid
        with pytest.raises(RemoteError) as caught:
            await worker.call(handlers.raise_it, error, "why")
        assert caught.value.type_name.rpartition(".")[2] == error.__name__
        assert caught.value.text == "why"
        assert await worker.call(os.getpid) == pid


@within(20)
async def test_run_dies() -> None:
    """`run` says how its isolate died, and the next `run` answers."""
    with pytest.raises(IsolateDied, match="exited with code 3") as caught:
        await run(handlers.exit_at_once, 3)
    assert caught.value.exitcode == 3
    assert await run(handlers.echo, 2) == 2


@both_loops
@within(20)
async def test_all_begun_calls_are_told(handler: Callable[..., Any], fifo: Fifo) -> None:
    """A death is told to each call that had begun; those that had not go to the successor."""
    results: dict[int, object] = {}
    marker = fifo.path.parent / "marker"

    async def call(pool: Any, number: int) -> None:
        try:
            results[number] = await pool.call(_sleep_the_first_time, fifo.path, marker)
        except IsolateDied as exc:
            results[number] = exc

    async with open_pool(handler, workers=1) as pool:
        (pid,) = pool.pids
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, pool, 0)
            await fifo.line()
            for number in range(1, 6):
                nursery.start_soon(call, pool, number)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(pid, signal.SIGKILL)
    died = [result for result in results.values() if isinstance(result, IsolateDied)]
    assert [exc.maybe_executed for exc in died] == [True]
    answers = [result for result in results.values() if not isinstance(result, IsolateDied)]
    assert len(answers) == 5 and len(set(answers)) == 1 and pid not in answers


def _sleep_the_first_time(fifo: Path, marker: Path) -> int:
    if marker.exists():
        return os.getpid()
    marker.touch()
    return handlers.tell_and_sleep(fifo)


@within(20)
async def test_a_lone_worker_says_what_had_not_begun(fifo: Fifo) -> None:
    """Without a successor, calls that had not begun say so in their IsolateDied, also later ones."""
    seen: list[bool] = []

    async def call(function: Callable[..., Any], *args: Any) -> None:
        with pytest.raises(IsolateDied) as caught:
            await worker.call(function, *args)
        seen.append(caught.value.maybe_executed)

    async with open_worker(apply) as worker:
        assert worker.pid is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, handlers.tell_and_sleep, fifo.path)
            await fifo.line()
            for _ in range(3):
                nursery.start_soon(call, handlers.echo, 1)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(worker.pid, signal.SIGKILL)
        await call(handlers.echo, 1)
    assert seen.count(True) == 1 and seen.count(False) == 4


@within(20)
async def test_unbegun_calls_move_to_another_worker(fifo: Fifo) -> None:
    """A call at hand in a worker that dies is answered by another worker, exactly once."""
    results: list[object] = []

    async def call(function: Callable[..., Any], *args: Any) -> None:
        try:
            results.append(await pool.call(function, *args))
        except IsolateDied as exc:
            results.append(exc.maybe_executed)

    async with open_pool(apply, workers=2, init=None) as pool:
        while len(pool.pids) < 2:
            await pool.call(handlers.echo, 0)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(call, handlers.tell_and_sleep, fifo.path)
            pids = [int(await fifo.line()) for _ in range(2)]
            for _ in range(2):  # one behind each sleeper
                nursery.start_soon(call, os.getpid)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(pids[0], signal.SIGKILL)
            os.kill(pids[1], signal.SIGKILL)
    assert results.count(True) == 2
    answers = [result for result in results if result is not True]
    assert len(answers) == 2 and not set(answers) & set(pids)


@both_loops
@within(20)
async def test_killed_while_idle(handler: Callable[..., Any]) -> None:
    """A pool whose idle worker was killed answers the next call."""
    async with open_pool(handler, workers=1) as pool:
        (pid,) = pool.pids
        os.kill(pid, signal.SIGKILL)
        assert await pool.call(os.getpid) != pid
        assert pool.statistics().restarted == 1


@within(20)
async def test_killed_while_idle_without_restart() -> None:
    """The call that finds a lone worker dead says that it did not run; leaving says no more."""
    async with open_worker(apply) as worker:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(IsolateDied) as caught:
            await worker.call(handlers.echo, 1)
        assert not caught.value.maybe_executed


@within(20)
async def test_the_notice_is_quick(fifo: Fifo) -> None:
    """A death reaches the call within 100 ms (the best of three: the machine may be busy)."""
    waits = []
    async with open_pool(apply, workers=1) as pool:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_expect_death, pool, handlers.tell_and_sleep, fifo.path)
                pid = int(await fifo.line())
                killed = time.perf_counter()
                os.kill(pid, signal.SIGKILL)
            waits.append(time.perf_counter() - killed)
    assert min(waits) < 0.1


async def _expect_death(pool: Any, function: Callable[..., Any], *args: Any) -> None:
    with pytest.raises(IsolateDied):
        await pool.call(function, *args)


# Notices that nobody asked for.


@within(20)
async def test_unnoticed_death_is_raised_at_the_end() -> None:
    """The death of a worker that nobody called again comes out when the block is left."""
    ended = False
    with pytest.raises(IsolateDied) as caught:
        async with open_worker(apply) as worker:
            pid = worker.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await wait_gone(pid)
            await trio.testing.wait_all_tasks_blocked(0.02)
            ended = True  # the body is not cancelled
    assert ended
    assert (caught.value.pid, caught.value.signal) == (pid, "SIGKILL")


@within(20)
async def test_the_bodys_own_error_wins() -> None:
    """The body's own exception is raised, bare, and says in a note that the worker had died besides."""
    with pytest.raises(KeyError) as caught:
        async with open_worker(apply) as worker:
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            await wait_gone(worker.pid)
            while worker.pid is not None:
                await trio.testing.wait_all_tasks_blocked()
            raise KeyError("mine")
    assert any("IsolateDied" in note for note in caught.value.__notes__)


@within(20)
async def test_our_own_kill_is_no_death(fifo: Fifo) -> None:
    """After kill(), calls in flight raise IsolateDied, later ones ClosedResourceError, leaving nothing."""
    async with open_worker(apply) as worker, trio.open_nursery() as nursery:
        nursery.start_soon(_expect_death, worker, handlers.tell_and_sleep, fifo.path)
        await fifo.line()
        nursery.start_soon(_expect_death, worker, handlers.echo, 1)  # sent, and not begun
        await trio.testing.wait_all_tasks_blocked()
        worker.kill()
        with pytest.raises(trio.ClosedResourceError):
            await worker.call(handlers.echo, 1)


@within(20)
async def test_stderr_survives() -> None:
    """What a worker wrote to its stderr last is in the notice of its death, even by SIGKILL."""
    async with open_pool(apply, workers=1) as pool:
        with pytest.raises(IsolateDied, match="last words") as caught:
            await pool.call(handlers.exit_after_a_word, "last words")
        assert caught.value.stderr_tail == "last words\n"
        assert await pool.call(handlers.echo, 1) == 1


# What a worker leaves running.


@pytest.mark.parametrize("function", [handlers.fork_and_sleep, handlers.start_and_sleep])
@within(20)
async def test_its_own_children_die_with_it(function: Callable[..., Any], fifo: Fifo) -> None:
    """A killed worker takes along what it forked or started, and the notice does not wait for it."""
    async with open_pool(apply, workers=1) as pool:
        (pid,) = pool.pids
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_death, pool, function, fifo.path)
            child = int(await fifo.line())
            killed = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
        assert time.perf_counter() - killed < 1
        await wait_gone(child)
        assert await pool.call(handlers.echo, 1) == 1


@pytest.mark.parametrize("function", [handlers.fork_and_sleep, handlers.start_and_sleep])
@within(20)
async def test_its_own_children_die_when_it_is_cancelled(function: Callable[..., Any], fifo: Fifo) -> None:
    """A worker killed by a cancellation takes along what it had started, at once."""
    async with open_pool(apply, workers=1, on_cancel="kill") as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.call, function, fifo.path)
            child = int(await fifo.line())
            cancelled = time.perf_counter()
            nursery.cancel_scope.cancel()
        assert time.perf_counter() - cancelled < 1
        await wait_gone(child)
        assert await pool.call(handlers.echo, 1) == 1
        assert pool.statistics().replaced == 1


# What it said before its end.


@within(20)
async def test_answers_from_before_the_end(fifo: Fifo, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that a worker wrote before it died are delivered, however busy the parent is meanwhile."""
    monkeypatch.setattr("trio_isolates._wire.READ_SIZE", 4096)  # so that each answer is a read of its own
    async with open_worker(apply) as worker, trio.open_nursery() as nursery:
        kept = Kept(nursery)
        kept.start(worker.call, _tell_and_read, fifo.path, gate.path)
        pid = int(await fifo.line())
        for number in range(10):
            kept.start(worker.call, _make_slow, number)
            await trio.testing.wait_all_tasks_blocked()
        kept.start(worker.call, handlers.kill_self)
        await trio.testing.wait_all_tasks_blocked()
        pidfd = os.pidfd_open(pid)
        gate.let_pass()
        select.select([pidfd], [], [])  # all is written, and the worker gone, before the loop goes on
        os.close(pidfd)
    for value in (b"x", *range(10)):
        assert outcome.Value(value) in kept.outcomes
    assert [type(error) for error in kept.errors] == [IsolateDied]


class _Slow:
    """A large value that takes long to unpickle, and becomes a number: so long the parent's loop is busy."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_slowly, (self.number, bytes(3000))


def _make_slow(number: int) -> _Slow:
    return _Slow(number)


def _load_slowly(number: int, _: bytes) -> int:
    time.sleep(0.1)
    return number


def _tell_and_read(fifo: Path, gate: Path) -> bytes:
    handlers.tell(fifo, os.getpid())
    with gate.open("rb", buffering=0) as file:
        return file.read(1)


# Restarts.


@within(20)
async def test_a_worker_that_may_restart_answers_again() -> None:
    """With a Restart, a lone worker is replaced, too."""
    async with open_worker(apply_async, restart=Restart()) as worker:
        for _ in range(3):
            with pytest.raises(IsolateDied):
                await worker.call(handlers.kill_self)
        assert await worker.call(handlers.echo, 1) == 1


@within(20)
async def test_a_call_meant_for_one_that_is_gone_is_told() -> None:
    """A broadcast chooses its isolates first; one that dies before its turn is an error, not a hang."""
    async with open_pool(apply, workers=1) as pool:
        crew = pool._crew
        (chosen,) = crew.clients
        with pytest.raises(IsolateDied):
            await pool.call(handlers.kill_self)
        with pytest.raises(IsolateDied) as caught:
            await crew.dispatch.call_on(chosen, RUN, (handlers.echo, (1,)))
        assert not caught.value.maybe_executed
        assert await pool.broadcast(handlers.echo, 1) == [1] * pool.statistics().workers
