"""A cancelled sync handler is stopped, whatever it does; what it ends with comes out exactly once."""

from __future__ import annotations

import math
import operator
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import outcome
import pytest
import trio

import contract
import interrupt_handlers as work
import interrupt_waits as waits
from fifo import Fifo, within
from handlers import apply, apply_async, echo, tell, tell_and_sleep, tell_and_spin
from interrupting import AnyWorker, cancel_at, cancel_when, capture, opened, page
from trio_isolates import IsolateDied, open_pool, open_worker, run

fifo = contract.fifo


# What is stopped.


@pytest.mark.parametrize("way", waits.WAYS)
@within(20)
async def test_whatever_it_does(way: str, fifo: Fifo) -> None:
    """A sync handler that waits or computes is stopped; calls behind it are served, its state is kept."""
    answers: list[Any] = []

    async def ask(worker: AnyWorker) -> None:
        answers.append(await worker.call(work.remember))

    async with opened() as worker, trio.open_nursery() as nursery:
        await worker.call(work.remember, way)

        async def begun() -> None:
            assert await fifo.line() == "begun"
            nursery.start_soon(ask, worker)
            nursery.start_soon(ask, worker)
            await trio.testing.wait_all_tasks_blocked()

        assert await cancel_when(begun, worker.call, waits.wait, way, fifo.path) is None
        assert await worker.call(waits.children) == []
    assert answers == [[way], [way]]


@within(20)
async def test_function_given_to_run(fifo: Fifo) -> None:
    """A sync function given to `Worker.run` is stopped as a handler is, also one that is written in C."""
    async with opened() as worker:
        assert await cancel_when(fifo.line, worker.run, tell_and_spin, fifo.path) is None
        assert await cancel_at(0.001, worker, worker.run, time.sleep, 1000) is None


@within(20)
async def test_signal_blocked_in_the_parent(fifo: Fifo) -> None:
    """A signal mask that the isolate has from its parent does not keep interrupts out."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})
    try:
        async with opened() as worker:
            assert await cancel_when(fifo.line, worker.call, tell_and_spin, fifo.path) is None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@within(20)
async def test_sync_function_in_an_async_worker(fifo: Fifo) -> None:
    """A sync function that blocks a worker on Trio is stopped; the async calls beside it go on."""
    async with open_worker(apply_async, cancel_grace=15) as worker, trio.open_nursery() as nursery:
        pid = worker.pid
        nursery.start_soon(worker.call, work.sleep_async, fifo.path)
        await fifo.line()
        for function in (tell_and_spin, tell_and_sleep):
            assert await cancel_when(fifo.line, worker.run, function, fifo.path) is None
        assert (worker.pid, worker.statistics().in_flight) == (pid, 1)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("handler", [apply, apply_async])
@within(20)
async def test_chunk_of_a_map(handler: Callable[..., Any], fifo: Fifo) -> None:
    """A cancelled `map` stops its function in the middle of a chunk, in either kind of worker."""
    async with open_pool(handler, workers=1, cancel_grace=15) as pool:
        pids = pool.pids

        async def map_all() -> None:
            await pool.map([fifo.path] * 3, tell_and_spin, chunksize=3)

        assert await cancel_when(fifo.line, map_all) is None
        assert await pool.map([1, 2], echo, chunksize=2) == [1, 2]
        assert pool.pids == pids


@within(20)
async def test_one_after_the_other(fifo: Fifo) -> None:
    """Each of many calls is stopped in its turn, and an interrupt never reaches the next."""
    scopes = [trio.CancelScope() for _ in range(100)]

    async def call(worker: AnyWorker, number: int) -> None:
        with scopes[number]:
            await worker.call(work.spin_as, fifo.path, number)

    async with opened() as worker, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(call, worker, number)
        for _ in scopes:
            scopes[int(await fifo.line())].cancel()
    assert all(scope.cancelled_caught for scope in scopes)


@within(20)
async def test_cancelled_together(fifo: Fifo) -> None:
    """Cancelled at the same time, a running call is stopped and the one behind it never runs."""
    async with opened() as worker:
        for number in range(50):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.call, tell_and_spin, fifo.path)
                await fifo.line()
                nursery.start_soon(worker.call, work.remember, number)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert await worker.call(work.remember) == []


@within(20)
async def test_cancelled_while_queued(fifo: Fifo) -> None:
    """A call behind one that spins is let go at once when it is cancelled, and never runs."""
    async with opened() as worker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.call, tell_and_spin, fifo.path)
            await fifo.line()
            for number in range(20):
                blocked = trio.testing.wait_all_tasks_blocked
                assert await cancel_when(blocked, worker.call, work.remember, number) is None
                assert worker.statistics().cancelled == number + 1
            assert page(worker).begun == 1
            nursery.cancel_scope.cancel()
        assert await worker.call(work.remember) == []


@within(20)
async def test_no_room_to_tell(fifo: Fifo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queued call for whose cancellation the page had no room is let go when it has."""
    async with opened() as worker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.call, tell_and_spin, fifo.path)
            await fifo.line()
            cancel = page(worker).cancel
            refused = [True, True]

            def cancel_late(ident: int) -> bool:
                return refused.pop() if refused else cancel(ident)

            monkeypatch.setattr(page(worker), "cancel", cancel_late)
            blocked = trio.testing.wait_all_tasks_blocked
            assert await cancel_when(blocked, worker.call, work.remember, "ran") is None
            assert not refused
            nursery.cancel_scope.cancel()
        assert await worker.call(work.remember) == []


# How it ends.


@within(20)
async def test_killed_when_it_cannot_be_stopped(fifo: Fifo) -> None:
    """Code that nothing stops is killed after `cancel_grace`; the calls behind it move to the successor."""
    pids: list[int] = []

    async def ask(worker: AnyWorker) -> None:
        pids.append(await worker.call(os.getpid))

    async with open_worker(apply, cancel_grace=0.2) as worker:
        pid = worker.pid
        async with trio.open_nursery() as nursery:
            started = math.inf

            async def begun() -> None:
                nonlocal started
                await fifo.line()
                nursery.start_soon(ask, worker)
                nursery.start_soon(ask, worker)
                await trio.testing.wait_all_tasks_blocked()
                started = trio.current_time()

            assert await cancel_when(begun, worker.run, sum, work.CountedInC(fifo.path, 10**11)) is None
            assert 0.2 <= trio.current_time() - started < 5
        assert worker.statistics().replaced == 1
        assert pids == [worker.pid] * 2 != [pid] * 2


@within(20)
async def test_what_a_kill_does_to_the_others(fifo: Fifo) -> None:
    """When a cancelled call takes its worker along, others that had begun fail, the rest move on."""
    results: dict[str, outcome.Outcome[Any]] = {}

    async def keep(name: str, worker: AnyWorker, *args: Any) -> None:
        results[name] = await capture(worker.call, *args)

    async with open_worker(apply_async, concurrency=2, cancel_grace=0.2) as worker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, "begun", worker, work.sleep_async, fifo.path)
            await fifo.line()

            async def begun() -> None:
                await fifo.line()
                nursery.start_soon(keep, "waiting", worker, echo, 1)
                await trio.testing.wait_all_tasks_blocked()

            assert await cancel_when(begun, worker.run, sum, work.CountedInC(fifo.path, 10**11)) is None
        assert worker.statistics().replaced == 1
    assert results["waiting"] == outcome.Value(1)
    with pytest.raises(IsolateDied) as info:
        results["begun"].unwrap()
    assert info.value.maybe_executed


@pytest.mark.parametrize("times", [1, 10**6])
@within(20)
async def test_swallowed(times: int, fifo: Fifo) -> None:
    """A function that swallows the interrupt gets another one; if it swallows each, it is killed."""
    is_killed = times > 1
    async with open_worker(apply, cancel_grace=0.3 if is_killed else 15) as worker:
        assert await cancel_when(fifo.line, worker.call, work.swallow_and_spin, fifo.path, times) is None
        assert await worker.call(work.remember) == ([] if is_killed else ["swallowed"])
        assert worker.statistics().replaced == is_killed


@within(20)
async def test_endless_grace(fifo: Fifo) -> None:
    """With a `cancel_grace` of infinity nothing is killed; a value that comes late is delivered."""
    async with opened(cancel_grace=math.inf) as worker:
        assert await cancel_when(fifo.line, worker.call, work.swallow, fifo.path, 4) == outcome.Value(4)


@within(20)
async def test_kill_instead(fifo: Fifo) -> None:
    """With `on_cancel="kill"` the worker is killed at once, and a new one serves the calls behind."""
    async with open_worker(apply, on_cancel="kill", cancel_grace=math.inf) as worker:
        pid = worker.pid
        await worker.call(work.remember, "kept")
        async with trio.open_nursery() as nursery:

            async def begun() -> None:
                await fifo.line()
                nursery.start_soon(worker.call, work.remember, "moved")
                await trio.testing.wait_all_tasks_blocked()

            assert await cancel_when(begun, worker.call, work.swallow, fifo.path, 10**6) is None
        assert await worker.call(work.remember) == ["moved"]
        assert (worker.pid != pid, worker.statistics().replaced) == (True, 1)


@within(20)
async def test_run_is_killed(fifo: Fifo) -> None:
    """A cancelled `run` of a sync function is killed at once: it sees no interrupt, and has no grace."""
    assert await cancel_when(fifo.line, run, work.tell_of_interrupt, fifo.path) is None
    tell(fifo.path, "nothing before this")
    assert await fifo.line() == "nothing before this"


@within(20)
async def test_block_left_by_an_error(fifo: Fifo) -> None:
    """What is running when the block is left by an error is stopped; then the worker tears down."""
    results: list[outcome.Outcome[Any]] = []

    async def keep(worker: AnyWorker, *args: Any) -> None:
        results.append(await capture(worker.call, *args))

    async with trio.open_nursery() as nursery:
        with pytest.raises(ZeroDivisionError):
            async with open_worker(
                apply, teardown=partial(tell, fifo.path, "end"), cancel_grace=15
            ) as worker:
                nursery.start_soon(keep, worker, tell_and_spin, fifo.path)
                await fifo.line()
                nursery.start_soon(keep, worker, tell, fifo.path, "queued")
                await trio.testing.wait_all_tasks_blocked()
                raise ZeroDivisionError
        assert await fifo.line() == "end"
    errors = [type(result.error) for result in results if isinstance(result, outcome.Error)]
    assert errors == [trio.ClosedResourceError] * 2


@within(20)
async def test_error_of_the_clean_up(fifo: Fifo) -> None:
    """An error that the function raises while it cleans up comes out in the place of Cancelled."""
    async with opened() as worker:
        result = await cancel_when(fifo.line, worker.call, work.fail_while_cleaning_up, fifo.path)
        assert isinstance(result, outcome.Error)
        assert isinstance(result.error, KeyError)
        assert result.error.__context__ is None  # not the interrupt


@within(20)
async def test_clean_up_is_left_alone(fifo: Fifo) -> None:
    """While a function cleans up after its interrupt, the repeated ones do nothing."""
    async with opened() as worker:
        assert await cancel_when(fifo.line, worker.call, work.clean_up_slowly, fifo.path) is None
        assert await worker.call(work.remember) == ["entered", "exited", "cleaned up"]


@pytest.mark.parametrize(
    ("function", "more", "result"),
    [
        (sum, (), len("begun\n") + sum(range(1_000_000))),
        (operator.indexOf, (-1,), "sequence.index(x): x not in sequence"),
    ],
)
@within(20)
async def test_ended_all_the_same(
    function: Callable[..., Any], more: tuple[Any, ...], result: object, fifo: Fifo
) -> None:
    """What has ended before it could be stopped delivers its value, or its error, not Cancelled."""
    async with opened() as worker:  # in C there is no place to stop, nor between its end and the answer
        args = work.CountedInC(fifo.path, 1_000_000), *more
        found = await cancel_when(fifo.line, worker.run, function, *args)
        assert worker.statistics().cancelled == 0
    if isinstance(found, outcome.Error):
        assert str(found.error) == result
    else:
        assert found == outcome.Value(result)


# Async functions in a sync worker.


@within(20)
async def test_async_function_in_a_sync_worker(fifo: Fifo) -> None:
    """An async function is cancelled as in Trio, wherever it runs: it may clean up, and may answer."""
    async with opened() as worker:
        assert await cancel_when(fifo.line, worker.run, work.clean_up_async, fifo.path) is None
        assert await worker.call(work.remember) == ["cleaned up"]
        result = await cancel_when(fifo.line, worker.run, work.answer_when_cancelled, fifo.path)
        assert result == outcome.Value("done all the same")


@within(30)
async def test_async_function_at_any_moment() -> None:
    """Cancelled at whatever moment of its Trio's life, an async function ends once and disturbs nobody."""
    rng = random.Random(1)
    async with opened() as worker:
        for number in range(200):
            result = await cancel_at(rng.uniform(0, 0.002), worker, worker.run, work.echo_async, number)
            assert result in (None, outcome.Value(number))
            assert await worker.run(work.echo_async, number) == number
