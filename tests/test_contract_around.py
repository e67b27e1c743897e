"""The contract of every engine, second part: what stands around a handler, pools, isolates in isolates."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import outcome
import pytest
import trio
import trio.testing

import contract
import contract_handlers as work
from contract import Gate, both_loops
from fifo import Fifo, within
from handlers import apply, apply_async
from trio_isolates import (
    IsolateSpawnError,
    RemoteError,
    Worker,
    current_default_isolate_limiter,
    open_pool,
    open_worker,
    run,
)

kind, fifo, gate = contract.kind, contract.fifo, contract.gate


# What stands around a handler.


@pytest.mark.usefixtures("kind")
@within(20)
async def test_init_state_teardown(fifo: Fifo) -> None:
    """`init` runs before `state`, whose result is the first argument of the handler and of `teardown`."""
    ways: list[tuple[Callable[..., Any], Callable[[], Any]]] = [
        (work.with_state, work.make_state),
        (work.with_state_async, work.make_state_async),
    ]
    worker: Worker[..., Any]
    for handler, state in ways:
        init, teardown = work.Teller(fifo.path, "init"), work.Teller(fifo.path, "teardown")
        async with open_worker(handler, init=init, state=state, teardown=teardown) as worker:
            assert await fifo.line() == "init"
            assert await worker.call("a") == ["made", "a"]
            assert await worker.call("b") == ["made", "a", "b"]
            assert await worker.run(work.add, 1) == 11
        assert await fifo.line() == "teardown ['made', 'a', 'b']"


@pytest.mark.usefixtures("kind")
@within(20)
async def test_one_function_for_both() -> None:
    """`init` and `state` may be the same function: only the second result is the state."""
    async with open_worker(work.with_state, init=work.make_state, state=work.make_state) as worker:
        assert await worker.call() == ["made"]


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("option", ["init", "state"])
@pytest.mark.parametrize("handler", [work.with_state, work.with_state_async], ids=["sync", "async"])
@within(20)
async def test_failing_start(handler: Callable[..., Any], option: str) -> None:
    """What `init` or `state` raises comes out of opening, as the cause of an IsolateSpawnError."""
    options: dict[str, Any] = {option: work.init_1}
    words = f"'the worker'.* {option}= raised CustomError: code 1"
    with pytest.raises(IsolateSpawnError, match=words) as caught:
        async with open_worker(handler, name="the worker", **options):
            raise AssertionError
    assert isinstance(caught.value.__cause__, work.CustomError)
    with pytest.raises(IsolateSpawnError) as caught:
        async with open_pool(handler, workers=2, **options):
            raise AssertionError
    assert isinstance(caught.value.__cause__, work.CustomError)
    options[option] = work.exit_3
    with pytest.raises(IsolateSpawnError) as caught:
        async with open_worker(handler, **options):
            raise AssertionError
    assert isinstance(caught.value.__cause__, RemoteError)


@pytest.mark.usefixtures("kind")
@within(20)
async def test_failing_teardown() -> None:
    """What `teardown` raises comes out of the block, unless the body's own exception does."""
    with pytest.raises(work.CustomError):
        async with open_worker(work.add, teardown=work.init_1) as worker:
            assert await worker.call(1) == 11
    with pytest.raises(KeyError) as caught:
        async with open_worker(work.add, teardown=work.init_1):
            raise KeyError("body")
    assert caught.value.__notes__ == ["besides: CustomError: code 1"]


@pytest.mark.usefixtures("kind")
@both_loops
@within(20)
async def test_context(handler: Callable[..., Any]) -> None:
    """Context variables travel with each call if they are named, and no others do."""
    work.SENT.set("mine")
    work.UNSENT.set("mine")
    async with open_worker(handler, context=(work.SENT,)) as worker:
        assert await worker.call(work.get_context) == ("mine", "unset")
        work.SENT.set("another")
        assert await worker.call(work.get_context) == ("another", "unset")
        assert await worker.run(work.get_context) == ("another", "unset")
    async with open_worker(handler, init=work.set_in_init) as worker:
        assert await worker.call(work.get_context) == ("unset", "by init")


@pytest.mark.usefixtures("kind")
@within(20)
async def test_context_does_not_stay(fifo: Fifo, gate: Gate) -> None:
    """A call sees nothing of what the one before has set, also if it has waited for its end."""
    seen: dict[str | None, tuple[str, str]] = {}

    async def call(value: str | None) -> None:
        if value is not None:
            work.SENT.set(value)
        seen[value] = await worker.call(fifo.path, gate.path)

    async with (
        open_worker(work.swap_context, context=(work.SENT,), concurrency=1) as worker,
        trio.open_nursery() as nursery,
    ):
        for value in ("first", None, "third"):
            nursery.start_soon(call, value)
            await trio.testing.wait_all_tasks_blocked()
        gate.let_pass(3)
    assert seen == {"first": ("first", "unset"), None: ("unset", "unset"), "third": ("third", "unset")}


@pytest.mark.usefixtures("kind")
@within(20)
async def test_concurrency(fifo: Fifo, gate: Gate) -> None:
    """An async handler serves as many calls at the same time as `concurrency` says, or all that come."""
    most: list[int] = []

    async def call(worker: Worker[..., int]) -> None:
        most.append(await worker.call(fifo.path, gate.path))

    async with (
        open_worker(work.take_part, state=dict, concurrency=2) as worker,
        trio.open_nursery() as nursery,
    ):
        for _ in range(5):
            nursery.start_soon(call, worker)
        for _ in range(5):
            assert await fifo.line() == "begun"
            gate.let_pass()
    assert max(most) == 2
    async with open_worker(work.take_part, state=dict) as worker, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(call, worker)
        for _ in range(5):
            assert await fifo.line() == "begun"
        gate.let_pass(5)
    assert max(most) == 5


@pytest.mark.usefixtures("kind")
@within(20)
async def test_max_in_flight(fifo: Fifo, gate: Gate) -> None:
    """No more than `max_in_flight` calls are on their way; the others wait for a place, in order."""
    async with open_worker(work.tell_and_wait_for, max_in_flight=2) as worker, trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(worker.call, fifo.path, str(number), gate.path)
            await trio.testing.wait_all_tasks_blocked()
        assert (worker.statistics().in_flight, worker.statistics().queued) == (2, 3)
        assert sorted([await fifo.line(), await fifo.line()]) == ["0", "1"]
        for number in range(2, 5):
            gate.let_pass()
            assert await fifo.line() == str(number)
        gate.let_pass(2)


@pytest.mark.usefixtures("kind")
@within(20)
async def test_pool_holds_calls_back(fifo: Fifo, gate: Gate) -> None:
    """An isolate of a pool holds one call more than it can run; the others wait for whoever is free first."""
    async with (
        open_pool(work.tell_and_wait_for, workers=1, concurrency=2) as pool,
        trio.open_nursery() as nursery,
    ):
        for _ in range(5):
            nursery.start_soon(pool.call, fifo.path, "begun", gate.path)
        for _ in range(2):
            assert await fifo.line() == "begun"
        assert (pool.statistics().in_flight, pool.statistics().queued) == (3, 2)
        gate.let_pass(5)


@pytest.mark.usefixtures("kind")
@within(20)
async def test_statistics() -> None:
    """A worker and a pool count what became of their calls."""
    async with open_worker(apply) as worker, open_pool(apply, workers=2) as pool:
        for opened in (worker, pool):
            for number in range(3):
                await opened.call(abs, number)
            with pytest.raises(work.CustomError):
                await opened.call(work.raise_this, work.CustomError(1))
            with trio.CancelScope() as scope:
                scope.cancel()
                await opened.call(abs, 1)
            found = opened.statistics()
            assert (found.in_flight, found.queued, found.done, found.failed) == (0, 0, 3, 1)
            assert (found.replaced, found.late_replies) == (0, 0)
            with pytest.raises(AttributeError):
                found.done = 4  # type: ignore[misc]


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"handler": work.add, "concurrency": 2}, TypeError, "concurrency"),
        ({"handler": None, "concurrency": 2}, TypeError, "concurrency"),
        ({"handler": "operator:abs", "concurrency": 2}, IsolateSpawnError, "concurrency"),
        ({"handler": None, "state": list}, TypeError, "state"),
        ({"handler": 5}, TypeError, "handler"),
        ({"handler": "no colon"}, ValueError, "handler"),
        ({"handler": "sys:path"}, IsolateSpawnError, "handler='sys:path' is a list, and not callable"),
        ({"init": 5}, TypeError, "init"),
        ({"name": 5}, TypeError, "name"),
        ({"max_in_flight": 0}, ValueError, "max_in_flight"),
        ({"max_in_flight": 1.5}, TypeError, "max_in_flight"),
        ({"cancel_grace": -1}, ValueError, "cancel_grace"),
        ({"shutdown_grace": "1"}, TypeError, "shutdown_grace"),
        ({"on_cancel": "stop"}, ValueError, "on_cancel"),
        ({"handler": apply_async, "on_cancel": "kill"}, TypeError, "on_cancel='kill' is for sync"),
        ({"handler": None, "on_cancel": "kill"}, TypeError, "on_cancel='kill' is for sync"),
        ({"gc": "off"}, ValueError, "gc"),
        ({"restart": 3}, TypeError, "restart"),
        ({"context": work.SENT}, TypeError, "context"),
        ({"context": ("SENT",)}, TypeError, "context"),
        ({"engine": "nuclear"}, ValueError, "nuclear"),
    ],
    ids=str,
)
@within(20)
async def test_wrong_options(options: dict[str, Any], error: type[Exception], word: str) -> None:
    """An option that is wrong, or does not apply, is refused by its name."""
    with pytest.raises(error, match=word):
        async with open_worker(**options):
            raise AssertionError


# Pools.


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("fn", [work.add, work.add_async], ids=["sync", "async"])
@within(20)
async def test_map(fn: Callable[..., Any]) -> None:
    """`map` gives the results in the order of the items, whatever their number and the size of the chunks."""

    async def later() -> Any:
        for number in range(3):
            yield number

    async with open_pool(fn, workers=2) as pool:
        assert await pool.map(range(500)) == list(range(10, 510))
        assert await pool.map(range(50), chunksize=7) == list(range(10, 60))
        assert await pool.map(iter([1]), fn=abs) == [1]
        assert await pool.map(later()) == [10, 11, 12]
        assert await pool.map([]) == []
        with pytest.raises(ZeroDivisionError):
            await pool.map([1, 0, 2], lambda x: 1 // x)
        assert await pool.call(1) == 11


@pytest.mark.usefixtures("kind")
@within(20)
async def test_open_map() -> None:
    """`open_map` gives results as they are pulled, in order or not, errors raised or given."""
    progress: list[tuple[int, int | None]] = []
    async with open_pool(work.add, workers=2) as pool:
        async with pool.open_map(range(20), progress=lambda *p: progress.append(p)) as results:
            assert [result async for result in results] == list(range(10, 30))
        assert progress == [(number, 20) for number in range(1, 21)]
        async with pool.open_map(range(20), ordered=False) as results:
            assert sorted([result async for result in results]) == list(range(10, 30))
        async with pool.open_map([1, 0, 2], lambda x: 2 // x, return_errors=True) as results:
            first, second, third = [result async for result in results]
        assert (first, third) == (outcome.Value(2), outcome.Value(1))
        assert isinstance(second, outcome.Error) and isinstance(second.error, ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            async with pool.open_map([1, 0], lambda x: 2 // x) as results:
                assert await anext(results) == 2
                await anext(results)
        async with pool.open_map(itertools.count()) as results:  # without end, and left early
            assert await anext(results) == 10


async def _note(finished: int, total: int | None) -> None:
    raise AssertionError((finished, total))


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("progress", [_note, partial(_note, total=None)], ids=["function", "partial"])
@within(20)
async def test_async_progress(progress: Callable[..., Any]) -> None:
    """An async `progress`, which nobody would await, is refused before an item is pulled."""
    items = iter([1, 2])
    async with open_pool(work.add, workers=1) as pool:
        with pytest.raises(TypeError, match=r"^progress= must be a sync function, not .*_note"):
            pool.open_map(items, progress=progress)
    assert list(items) == [1, 2]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_open_map_pulls_only_what_it_can_place() -> None:
    """No more than `max_pending` items are pulled and not given out."""
    pulled = 0

    def items() -> Iterator[int]:
        nonlocal pulled
        for number in range(100):
            pulled += 1
            yield number

    async with open_pool(work.add, workers=2) as pool, pool.open_map(items(), max_pending=3) as results:
        await trio.testing.wait_all_tasks_blocked()
        for given in range(1, 5):
            await anext(results)
            assert pulled <= 3 + given


@pytest.mark.usefixtures("kind")
@within(20)
async def test_broadcast() -> None:
    """`broadcast` runs a function once in each isolate; the first error is raised when all have ended."""
    async with open_pool(work.with_state, workers=3, state=list) as pool:
        while pool.statistics().workers < 3:  # the others start behind the first, in their own time
            await trio.lowlevel.checkpoint()
        assert await pool.broadcast(work.add, 1) == [11, 11, 11]
        with pytest.raises(work.CustomError):
            await pool.broadcast(work.raise_this, work.CustomError(1))
        assert await pool.broadcast(work.add_async, 1) == [11, 11, 11]


# Isolates that open isolates.


@pytest.mark.usefixtures("kind")
@within(20)
async def test_nested() -> None:
    """An isolate opens isolates, also where only one `run` may run at a time."""
    limiter = current_default_isolate_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    async with open_worker() as worker:
        assert await worker.run(work.nested_sum, [1, 2, 3]) == (6, [11, 12, 13])
    assert await run(work.run_sum, [1, 2, 3]) == 6
    limiter.total_tokens = before
