"""The contract of every engine: closings that meet each other, blocks left in a broadcast."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, MutableSequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import outcome
import pytest
import trio
import trio.testing

import contract
import contract_handlers as work
from contract import Gate, Kept
from fifo import Fifo, within
from handlers import apply_async
from trio_isolates import IsolateDied, Pool, open_pool, open_worker

kind, fifo, gate = contract.kind, contract.fifo, contract.gate

either = pytest.mark.parametrize("open_one", [open_worker, open_pool])


def options(open_one: Callable[..., Any]) -> dict[str, Any]:
    return {} if open_one is open_worker else {"workers": 1}


async def let_pass_when_all_wait(gate: Gate, count: int) -> None:
    await trio.testing.wait_all_tasks_blocked()
    gate.let_pass(count)


# Closings that meet.


@pytest.mark.usefixtures("kind")
@either
@within(20)
async def test_two_at_once(open_one: Callable[..., Any], fifo: Fifo, gate: Gate) -> None:
    """Several tasks may wait in `aclose` at the same time: all of them return, after the call in flight."""
    ended: list[str] = []

    async def aclose(name: str) -> None:
        await opened.aclose()
        ended.append(name)

    async with (
        open_one(work.tell_and_wait_for, **options(open_one)) as opened,
        trio.open_nursery() as nursery,
    ):
        kept = Kept(nursery)
        kept.start(opened.call, fifo.path, "begun", gate.path)
        assert await fifo.line() == "begun"
        for name in ("first", "second", "third"):
            nursery.start_soon(aclose, name)
            await trio.testing.wait_all_tasks_blocked()
        assert ended == []
        gate.let_pass()
    assert sorted(ended) == ["first", "second", "third"]
    assert kept.outcomes == [outcome.Value("x")]


@pytest.mark.usefixtures("kind")
@either
@within(20)
async def test_while_the_block_is_left(open_one: Callable[..., Any], fifo: Fifo, gate: Gate) -> None:
    """A task may wait in `aclose` while the block is left: both wait for the call in flight, and both end."""
    async with trio.open_nursery() as nursery:
        kept = Kept(nursery)
        async with open_one(work.tell_and_wait_for, **options(open_one)) as opened:
            kept.start(opened.call, fifo.path, "begun", gate.path)
            assert await fifo.line() == "begun"
            kept.start(opened.aclose)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(let_pass_when_all_wait, gate, 1)
    assert kept.outcomes == [outcome.Value("x"), outcome.Value(None)]


@pytest.mark.usefixtures("kind")
@either
@within(20)
async def test_while_the_block_is_left_by_an_exception(open_one: Callable[..., Any], fifo: Fifo) -> None:
    """An exception that leaves the block does not wait for what a task in `aclose` waits for; both end."""
    async with trio.open_nursery() as nursery:
        calls, closings = Kept(nursery), Kept(nursery)
        with pytest.raises(KeyError, match="mine"):
            async with open_one(apply_async, **options(open_one)) as opened:
                calls.start(opened.call, work.tell_and_wait, fifo.path)
                assert await fifo.line() == "begun"
                closings.start(opened.aclose)
                await trio.testing.wait_all_tasks_blocked()
                raise KeyError("mine")
    assert [type(error) for error in calls.errors] == [trio.ClosedResourceError]
    assert closings.outcomes == [outcome.Value(None)]


@pytest.mark.usefixtures("kind")
@either
@within(20)
async def test_one_of_two_cancelled(open_one: Callable[..., Any], fifo: Fifo) -> None:
    """Of two that wait in `aclose`, the one that is cancelled kills, and so the other one returns, too."""
    async with open_one(apply_async, **options(open_one)) as opened, trio.open_nursery() as nursery:
        calls, closings = Kept(nursery), Kept(nursery)
        calls.start(opened.call, work.tell_and_wait, fifo.path)
        assert await fifo.line() == "begun"
        closings.start(opened.aclose)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await opened.aclose()
    assert [type(error) for error in calls.errors] == [IsolateDied]
    assert closings.outcomes == [outcome.Value(None)]


# Broadcasts.


@asynccontextmanager
async def open_two() -> AsyncIterator[Pool[..., Any]]:
    """A pool of two, when both can serve."""
    async with open_pool(apply_async, workers=2) as pool:
        while pool.statistics().workers < 2:
            await trio.lowlevel.checkpoint()
        yield pool


@pytest.mark.usefixtures("kind")
@within(20)
async def test_left_normally_in_a_broadcast(fifo: Fifo, gate: Gate) -> None:
    """A block that is left normally waits for a broadcast, as for any other call."""
    async with trio.open_nursery() as nursery:
        kept = Kept(nursery)
        async with open_two() as pool:
            kept.start(pool.broadcast, work.tell_and_wait_for, fifo.path, "begun", gate.path)
            assert [await fifo.line(), await fifo.line()] == ["begun", "begun"]
            nursery.start_soon(let_pass_when_all_wait, gate, 2)
    assert kept.outcomes == [outcome.Value(["x", "x"])]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_left_by_an_exception_in_a_broadcast(fifo: Fifo) -> None:
    """A block that is left by an exception stops a broadcast, which sees the pool closed."""
    async with trio.open_nursery() as nursery:
        kept = Kept(nursery)
        with pytest.raises(KeyError, match="mine"):
            async with open_two() as pool:
                kept.start(pool.broadcast, work.tell_and_wait, fifo.path)
                assert [await fifo.line(), await fifo.line()] == ["begun", "begun"]
                raise KeyError("mine")
    assert [type(error) for error in kept.errors] == [trio.ClosedResourceError]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_left_by_a_cancellation_in_a_broadcast(fifo: Fifo) -> None:
    """A cancellation of the block ends a broadcast in it, whether that is made in the block or outside."""
    async with trio.open_nursery() as nursery:
        kept = Kept(nursery)

        async def cancel() -> None:
            assert [await fifo.line() for _ in range(4)] == 4 * ["begun"]
            scope.cancel()

        nursery.start_soon(cancel)
        with trio.CancelScope() as scope:
            async with open_two() as pool:
                kept.start(pool.broadcast, work.tell_and_wait, fifo.path)
                await pool.broadcast(work.tell_and_wait, fifo.path)
        assert scope.cancelled_caught
    assert [type(error) for error in kept.errors] == [trio.ClosedResourceError]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_cancelled_broadcast(fifo: Fifo) -> None:
    """A cancelled broadcast has stopped in every isolate when it returns, and the isolates live."""
    async with open_two() as pool:
        pids = pool.pids
        assert await cancel_when_both_have_begun(fifo, pool) is None
        assert pool.statistics().in_flight == 0
        assert pool.statistics().cancelled == 2
        assert await pool.broadcast(work.add, 1) == [11, 11]
        assert pool.pids == pids


async def cancel_when_both_have_begun(fifo: Fifo, pool: Pool[..., Any]) -> list[Any] | None:
    async def cancel() -> None:
        assert [await fifo.line(), await fifo.line()] == ["begun", "begun"]
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        with trio.CancelScope() as scope:
            return await pool.broadcast(work.tell_and_wait, fifo.path)
    return None


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("is_normal", [True, False], ids=["normally", "by an exception"])
@within(20)
async def test_left_just_after_a_broadcast(is_normal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block left before a broadcast has sent anything waits for it all the same, or refuses it."""
    async with trio.open_nursery() as nursery:
        kept = Kept(nursery)
        with suppress(KeyError):
            async with open_two() as pool:
                kept.start(pool.broadcast, work.add, 1)
                # The broadcast before the body, but the closing before what the broadcast has started.
                monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
                monkeypatch.setattr(trio._core._run, "_r", NewestFirst())
                await trio.lowlevel.checkpoint()
                if not is_normal:
                    raise KeyError("mine")
    if is_normal:
        assert kept.outcomes == [outcome.Value([11, 11])]
    else:
        assert [type(error) for error in kept.errors] == [trio.ClosedResourceError]


class NewestFirst(random.Random):
    """In place of Trio's dice: of the tasks that run next, the youngest does first."""

    def shuffle(self, tasks: MutableSequence[Any]) -> None:
        """They are sorted by age, and taken from the end."""


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_map_goes_on_when_the_pool_is_closed(fifo: Fifo, gate: Gate) -> None:
    """What was begun before `close` is done to its end, all its items; nothing new is taken."""
    results: list[str] = []
    handler = partial(work.tell_and_wait_for, fifo.path, gate=gate.path)

    async def map_all(pool: Pool[..., Any]) -> None:
        results.extend(await pool.map(["1", "2", "3"], handler, chunksize=1))

    async with open_pool(workers=1) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(map_all, pool)
            await fifo.line()
            pool.close()
            gate.let_pass(3)
        with pytest.raises(trio.ClosedResourceError):
            await pool.map([1], abs)
        with pytest.raises(trio.ClosedResourceError):
            async with pool.open_map([1], abs):
                raise AssertionError
    assert len(results) == 3


@pytest.mark.usefixtures("kind")
@within(20)
async def test_the_block_waits_for_a_map(fifo: Fifo, gate: Gate) -> None:
    """A block that is left normally waits for a map in another task, also for items not sent yet."""
    results: list[str] = []
    handler = partial(work.tell_and_wait_for, fifo.path, gate=gate.path)

    async def map_all(pool: Pool[..., Any]) -> None:
        results.extend(await pool.map([str(number) for number in range(9)], handler, chunksize=1))

    async with trio.open_nursery() as nursery, open_pool(workers=1) as pool:
        nursery.start_soon(map_all, pool)
        await fifo.line()
        gate.let_pass(9)
    assert len(results) == 9
