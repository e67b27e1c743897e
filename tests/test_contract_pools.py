"""The contract of every engine: whom a pool gives its calls, and how it grows, shrinks and renews itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import contract
import contract_handlers
import handlers
import pool_handlers as work
from contract import Gate, Kind, those_with
from fifo import Fifo, within
from trio_isolates import IsolateDied, Pool, Restart, open_pool
from trio_isolates._memory import Page

kind, fifo, gate = contract.kind, contract.fifo, contract.gate
pytestmark = pytest.mark.usefixtures("kind")

SOON = Restart(max_restarts=100, within=100, min_backoff=0, max_backoff=0)


def open_them(workers: int, **options: Any) -> Any:
    return open_pool(work.who, workers=workers, state=work.draw, **options)


@asynccontextmanager
async def busy(pool: Pool[..., Any], fifo: Fifo, gate: Gate, count: int) -> Any:
    """Keep so many calls running, one an isolate, for the length of a block."""
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(pool.run, contract_handlers.tell_and_wait_for, fifo.path, "busy", gate.path)
        for _ in range(count):
            assert await fifo.line() == "busy"
        yield nursery
        gate.let_pass(count)


# Whom a call goes to.


@within(20)
async def test_a_key_stays_with_its_isolate() -> None:
    """Calls with one key go to one isolate, whatever there is to do; others are spread over all."""
    async with open_them(3) as pool:
        while pool.statistics().workers < 3:
            await trio.lowlevel.checkpoint()
        seen: dict[object, set[bytes]] = {}

        async def call(key: object) -> None:
            seen.setdefault(key, set()).add(await pool.call(key=key))

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(call, f"key {number % 6}")
        assert all(len(isolates) == 1 for isolates in seen.values())
        assert len(set.union(*seen.values())) > 1


@within(20)
async def test_a_key_goes_elsewhere_when_its_isolate_dies(kind: Kind) -> None:
    """When the isolate of a key is gone, another takes the key over, and keeps it."""
    async with open_them(1, restart=SOON) as pool:
        first = await pool.call(key="a")
        kind.kill(pool)
        second = await pool.call(key="a")
        assert second != first
        assert await pool.call(key="a") == second
        assert await pool.call(key="b") == second


@within(20)
async def test_a_key_waits_for_its_isolate(fifo: Fifo, gate: Gate) -> None:
    """A call whose isolate is busy waits for it, though another one is free; their order is kept."""
    async with open_pool(handlers.apply_async, workers=2, concurrency=1) as pool:
        await pool.resize(2)
        async with trio.open_nursery() as nursery:

            async def call(function: Callable[..., Any], *args: Any) -> None:
                await pool.run(function, *args, key="a")

            nursery.start_soon(call, contract_handlers.tell_and_wait_for, fifo.path, "busy", gate.path)
            assert await fifo.line() == "busy"
            for number in range(5):
                nursery.start_soon(call, handlers.tell, fifo.path, number)
                await trio.testing.wait_all_tasks_blocked()
            assert await pool.run(handlers.echo, "free") == "free"
            assert pool.statistics().done == 1
            gate.let_pass()
        assert [await fifo.line() for _ in range(5)] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("is_certain", [True, False])
@within(20)
async def test_no_call_stands_behind_a_long_one(
    fifo: Fifo, gate: Gate, monkeypatch: pytest.MonkeyPatch, is_certain: bool
) -> None:
    """A call at hand goes to an isolate that has nothing to do, and runs once; also if it may have begun.

    Then it goes as soon as its isolate says that it has not.
    """
    ask_back = Page.ask_back
    monkeypatch.setattr(Page, "ask_back", lambda page, ident: ask_back(page, ident) or not is_certain)
    async with open_pool(handlers.apply_async, workers=2, concurrency=1) as pool:
        await pool.resize(2)
        async with busy(pool, fifo, gate, 2) as nursery:
            for number in range(2):  # one at hand for each
                nursery.start_soon(pool.run, handlers.tell, fifo.path, f"at hand {number}")
            await trio.testing.wait_all_tasks_blocked()
            assert pool.statistics().in_flight == 4
            gate.let_pass()  # one of the two: it has its own at hand, then asks for the other's
            first = await fifo.line()
            while pool.statistics().done < 2:  # it has nothing to do now
                await trio.lowlevel.checkpoint()
            if not is_certain:
                gate.let_pass()
            assert {first, await fifo.line()} == {"at hand 0", "at hand 1"}
        await pool.drain()
        statistics = pool.statistics()
        assert (statistics.done, statistics.failed, statistics.late_replies) == (4, 0, 0)


@pytest.mark.parametrize("is_certain", [True, False])
@within(20)
async def test_a_call_that_was_asked_back_can_be_cancelled(
    fifo: Fifo, gate: Gate, monkeypatch: pytest.MonkeyPatch, is_certain: bool
) -> None:
    """Cancelled while it is on its way back, a call never runs, and nothing else is stopped for it."""
    ask_back = Page.ask_back
    monkeypatch.setattr(Page, "ask_back", lambda page, ident: ask_back(page, ident) or not is_certain)
    async with open_pool(handlers.apply_async, workers=1, concurrency=1) as pool:
        async with busy(pool, fifo, gate, 1) as nursery:
            scope = trio.CancelScope()

            async def behind() -> None:
                with scope:
                    await pool.run(handlers.tell, fifo.path, "never")

            nursery.start_soon(behind)
            await trio.testing.wait_all_tasks_blocked()
            (client,) = pool._crew.clients
            call = client.ask_back(lambda _: True)
            assert (call is not None) == is_certain
            if call is not None:
                pool._crew.dispatch.take_returned(call)
            scope.cancel()
        await pool.drain()
        assert scope.cancelled_caught
        await pool.run(handlers.tell, fifo.path, "after")
        assert await fifo.line() == "after"
        statistics = pool.statistics()
        assert (statistics.done, statistics.cancelled, statistics.late_replies) == (2, 1, 0)


@those_with("own process")
@within(20)
async def test_what_stands_behind_a_sync_function_has_not_begun(fifo: Fifo, gate: Gate) -> None:
    """Where a sync function blocks the loop, the calls behind it go to the first isolate that is free."""
    async with open_pool(workers=1) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, work.tell_and_block, fifo.path, "first", gate.path)
        assert await fifo.line() == "first"
        for text in ("second", "third"):
            nursery.start_soon(pool.run, handlers.tell, fifo.path, text)
            await trio.testing.wait_all_tasks_blocked()
        await pool.resize(2)
        assert [await fifo.line() for _ in range(2)] == ["second", "third"]
        gate.let_pass()


@within(20)
async def test_the_more_urgent_first(fifo: Fifo, gate: Gate) -> None:
    """Of the calls that wait, those with the higher priority begin first; those with the same, in order."""
    async with (
        open_pool(handlers.apply_async, workers=1, concurrency=1) as pool,
        busy(pool, fifo, gate, 1) as nursery,
    ):
        nursery.start_soon(pool.run, handlers.tell, fifo.path, "at hand")
        await trio.testing.wait_all_tasks_blocked()
        for text, priority in (("a", 0), ("b", 0), ("low", -1), ("urgent", 10), ("c", 0), ("also", 10)):
            nursery.start_soon(lambda t=text, p=priority: pool.run(handlers.tell, fifo.path, t, priority=p))
            await trio.testing.wait_all_tasks_blocked()
    assert [await fifo.line() for _ in range(7)] == ["at hand", "urgent", "also", "a", "b", "c", "low"]


# Calls that are repeated.


@those_with("own process")
@within(20)
async def test_a_call_may_be_repeated(kind: Kind, tmp_path: Path) -> None:
    """With `retries`, a call whose isolate dies is made again by another; each death is one less."""
    async with open_pool(workers=2) as pool:
        assert await pool.run(work.die_until, tmp_path / "two", 2, retries=2) == 3
        with pytest.raises(IsolateDied) as caught:
            await pool.run(work.die_until, tmp_path / "three", 3, retries=2)
        assert caught.value.maybe_executed
        assert (tmp_path / "three").stat().st_size == 3
        statistics = pool.statistics()
        assert (statistics.retried, statistics.failed, statistics.done) == (4, 1, 1)


@within(20)
async def test_an_error_is_not_repeated(fifo: Fifo) -> None:
    """Only a death is: what the handler raises is its answer."""
    async with open_pool(handlers.apply_async, workers=1) as pool:
        with pytest.raises(ValueError, match="invalid literal"):
            await pool.run(int, "x", retries=5)
        assert pool.statistics().retried == 0


@those_with("own process")
@within(20)
async def test_a_repeated_call_can_be_cancelled(kind: Kind, fifo: Fifo, gate: Gate, tmp_path: Path) -> None:
    """A call that waits to be repeated is cancelled like any other that waits."""
    async with open_pool(workers=1, restart=SOON) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, contract_handlers.tell_and_wait_for, fifo.path, "begun", gate.path)
            assert await fifo.line() == "begun"
            gate.let_pass()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(pool.run, work.die_until, tmp_path / "counter", 10**9, retries=10**9))
            while pool.statistics().retried < 3:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert (pool.statistics().in_flight, pool.statistics().queued) == (0, 0)


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"retries": -1}, ValueError, "retries= must be at least 0, not -1"),
        ({"retries": "1"}, TypeError, "retries= must be an int, not '1'"),
        ({"priority": "x"}, TypeError, "priority= must be a number, not 'x'"),
        ({"priority": float("nan")}, TypeError, "priority= must be a number, not nan"),
        ({"key": []}, TypeError, r"key= must be hashable, not \[\]"),
    ],
)
@within(20)
async def test_wrong_ways_to_call(how: dict[str, Any], error: type[Exception], words: str) -> None:
    """What makes no sense is refused by its name, at once."""
    async with open_pool(handlers.apply_async, workers=1) as pool:
        for call in (pool.call, pool.run):
            with pytest.raises(error, match=f"^{words}$"):
                await call(abs, -1, **how)


@within(20)
async def test_a_keyword_that_could_mean_either() -> None:
    """What is an option of the call, and of the handler too, is refused by keyword, and goes by position."""
    async with open_pool(lambda _, key=None: key, workers=1) as pool:
        with pytest.raises(TypeError, match="key= is an option of `call`"):
            await pool.call(1, key="mine")
        assert await pool.call(1, "mine", retries=1) == "mine"


# Growing and shrinking.


@within(20)
async def test_resize(fifo: Fifo, gate: Gate) -> None:
    """A pool grows at once and shrinks when those given up have answered; none of their calls fails."""
    async with open_them(1) as pool:
        await pool.resize(3)
        assert pool.statistics().workers == 3
        async with busy(pool, fifo, gate, 3) as nursery:
            nursery.start_soon(pool.resize, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert pool.statistics().workers == 1
        assert pool.statistics().workers == 1
        assert pool.statistics().failed == 0
        assert isinstance(await pool.call(), bytes)
        assert pool.statistics().recycled == 0


@within(20)
async def test_resize_again_and_again() -> None:
    """Whatever the order of changes, in the end there are as many as were asked for last."""
    async with open_them(2) as pool:
        async with trio.open_nursery() as nursery:
            for size in (5, 1, 4, 2, 3):
                nursery.start_soon(pool.resize, size)
                await trio.lowlevel.checkpoint()
        while pool.statistics().workers != 3:
            await trio.lowlevel.checkpoint()
        assert len(await pool.broadcast(handlers.echo, 1)) == 3


@pytest.mark.parametrize("size", [0, -1, 1.5, None])
@within(20)
async def test_resize_to_nonsense(size: Any) -> None:
    """A size is an int of at least 1."""
    async with open_them(1) as pool:
        with pytest.raises((TypeError, ValueError), match="workers="):
            await pool.resize(size)


@within(20)
async def test_resize_of_a_closed_pool() -> None:
    """There is nothing to resize any more."""
    async with open_them(1) as pool:
        pool.close()
        with pytest.raises(trio.ClosedResourceError):
            await pool.resize(2)


@within(20)
async def test_more_are_started_when_calls_wait(fifo: Fifo, gate: Gate) -> None:
    """With `min_workers`, a pool starts small, and more come as calls have to wait, up to `workers`."""
    async with open_pool(handlers.apply_async, workers=3, min_workers=1, concurrency=1) as pool:
        assert pool.statistics().workers == 1
        async with busy(pool, fifo, gate, 3):
            assert pool.statistics().workers == 3


@within(20)
async def test_a_small_pool_that_is_not_needed_more() -> None:
    """As long as no call waits, no more are started."""
    async with open_pool(handlers.apply_async, workers=3, min_workers=1) as pool:
        for number in range(20):
            await pool.call(handlers.echo, number)
        assert pool.statistics().workers == 1


# Relief.


@within(20)
async def test_relieved_after_some_calls() -> None:
    """With `max_calls_per_worker`, each isolate serves so many calls, and none is lost; teardown runs."""
    async with open_them(2, max_calls_per_worker=3) as pool:
        seen: list[bytes] = []

        async def call() -> None:
            seen.append(await pool.call())

        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(call)
        assert len(seen) == 60
        assert max(map(seen.count, seen)) == 3
        statistics = pool.statistics()
        assert (statistics.failed, statistics.restarted) == (0, 0)
        assert statistics.recycled >= 18


@within(20)
async def test_items_of_a_map_count_as_calls() -> None:
    """A chunk of `map` is as many calls as it has items, and never more than an isolate may serve."""
    async with open_them(1, max_calls_per_worker=4) as pool:
        seen = await pool.map(range(20), chunksize=10)
        assert max(map(seen.count, seen)) == 4


@within(20)
async def test_relieved_while_busy(fifo: Fifo, gate: Gate) -> None:
    """An isolate that is relieved answers what it has; meanwhile its successor serves."""
    async with (
        open_pool(handlers.apply_async, workers=1, max_calls_per_worker=2) as pool,
        busy(pool, fifo, gate, 2),
    ):
        assert await pool.call(handlers.echo, "from the successor") == "from the successor"
        assert pool.statistics().recycled == 1


@those_with("own process")
@within(20)
async def test_relieved_when_it_is_too_large(kind: Kind) -> None:
    """With `max_memory`, an isolate that holds more after a call is relieved by a new one."""
    async with open_pool(workers=1, max_memory=120 << 20) as pool:
        assert await pool.run(work.keep, 1 << 20) == await pool.run(work.keep, 1 << 20)
        large = await pool.run(work.keep, 200 << 20)
        while pool.statistics().recycled == 0:
            await pool.run(handlers.echo, 1)
        assert await pool.run(work.keep, 1 << 20) != large
        assert pool.statistics().failed == 0


@within(20)
async def test_drain(fifo: Fifo, gate: Gate) -> None:
    """`drain` waits for what is in line and in flight, and the pool goes on."""
    async with open_pool(handlers.apply_async, workers=1) as pool:
        await pool.drain()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(
                    pool.run, contract_handlers.tell_and_wait_for, fifo.path, "busy", gate.path
                )
            assert await fifo.line() == "busy"
            gate.let_pass(3)
            await pool.drain()
            statistics = pool.statistics()
            assert (statistics.done, statistics.in_flight, statistics.queued) == (3, 0, 0)
        assert await pool.call(handlers.echo, 1) == 1


@within(20)
async def test_durations(fifo: Fifo, gate: Gate) -> None:
    """Statistics say how long calls waited and ran, and how busy the isolates were."""
    async with open_pool(handlers.apply_async, workers=1, concurrency=1) as pool:
        assert pool.statistics().run_time.count == 0
        async with busy(pool, fifo, gate, 1) as nursery:
            for number in range(4):
                nursery.start_soon(pool.run, handlers.echo, number)
            await trio.testing.wait_all_tasks_blocked()
        statistics = pool.statistics()
        assert statistics.run_time.count == 5
        assert statistics.wait_time.count == 5
        assert 0 < statistics.run_time.p50 <= statistics.run_time.p90 <= statistics.run_time.max
        assert statistics.wait_time.p50 <= statistics.wait_time.max
        assert statistics.wait_time.max > 0
        assert 0 < statistics.busy <= 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"min_workers": 0}, ValueError),
        ({"min_workers": 3}, ValueError),
        ({"max_calls_per_worker": 0}, ValueError),
        ({"max_calls_per_worker": "many"}, TypeError),
        ({"max_memory": 1.5}, TypeError),
    ],
)
@within(20)
async def test_wrong_options(options: dict[str, Any], error: type[Exception]) -> None:
    """Options that make no sense are refused by their name, before anything is started."""
    with pytest.raises(error, match=next(iter(options))):
        open_pool(abs, workers=2, **options)


@within(20)
async def test_resize_keeps_the_least() -> None:
    """In a pool that grows on demand, resize sets the most; the least stays, unless that is more."""
    async with open_them(4, min_workers=2) as pool:
        await pool.resize(6)
        assert pool.statistics().workers == 2
        assert pool._crew.posts.least == 2
        await pool.resize(1)
        assert pool.statistics().workers == 1
        await pool.resize(3)
        assert pool.statistics().workers == 2


@pytest.mark.parametrize("chunksize", ["auto", 1, 3, 4, 5])
@within(20)
async def test_no_isolate_has_more_items_than_it_may(chunksize: Any) -> None:
    """Items of `map` count as calls: an isolate is relieved before it gets one too many."""
    async with open_them(2, max_calls_per_worker=5) as pool:
        isolates = await pool.map(range(60), chunksize=chunksize)
        assert max(Counter(isolates).values()) <= 5
        assert pool.statistics().done == 60
