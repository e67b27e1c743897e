"""The contract of workers and pools, kept on every engine: calls, errors, what is shared and what is not.

What stands around a handler is in test_contract_around.py, how things end in test_contract_ends.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import contract
import contract_handlers as work
from contract import Kind, both_loops, those_with
from fifo import within
from handlers import apply, apply_async
from trio_isolates import (
    RemoteError,
    UnsendableError,
    Worker,
    open_worker,
    run,
)

kind, fifo, gate = contract.kind, contract.fifo, contract.gate


# Calls.


@pytest.mark.usefixtures("kind")
@within(20)
async def test_call() -> None:
    """A call answers with what the handler returns, from positional and keyword arguments, sync or async."""
    async with open_worker(work.add) as sync, open_worker(work.add_async) as asynchronous:
        for worker in (sync, asynchronous):
            assert await worker.call(1, 2) == 3
            assert await worker.call(1) == 11
            assert await worker.call(a=1, b=5) == 6
            assert await worker.call(1, b=7) == 8


HANDLERS: dict[str, Callable[..., Any] | str] = {
    "builtin": abs,
    "lambda": lambda a: a + 1 - 1,
    "closure": work.make_closure(0),
    "partial": partial(work.add, b=0),
    "partial of async": partial(work.add_async, b=0),
    "bound method": work.Adder(0).method,
    "callable object": work.Adder(0),
    "async callable object": work.AsyncAdder(0),
    "partial of async callable object": partial(work.AsyncAdder(0)),
    "name": "operator:abs",
}


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("handler", HANDLERS.values(), ids=list(HANDLERS))
@within(20)
async def test_any_callable(handler: Callable[..., Any] | str) -> None:
    """A handler is any callable, or the name of one."""
    worker: Worker[..., Any]
    async with open_worker(handler) as worker:
        assert await worker.call(5) == 5
        assert await worker.call(6) == 6


@pytest.mark.usefixtures("kind")
@within(20)
async def test_run_in_a_worker() -> None:
    """`Worker.run` takes any function, in a worker of either loop and in one without a handler."""
    offset = 100
    async with open_worker(work.add) as sync, open_worker(work.add_async) as a, open_worker() as bare:
        for worker in (sync, a, bare):
            assert await worker.run(lambda x: x + offset, 1) == 101
            assert await worker.run(work.add_async, 1, 2) == 3
            assert await worker.run(work.add, 1, 2) == 3
        with pytest.raises(TypeError, match="no handler"):
            await bare.call(1)


@pytest.mark.usefixtures("kind")
@within(20)
async def test_run_alone() -> None:
    """`run` answers from an isolate of its own: sync, async, closure, error."""
    offset = 100
    assert await run(sum, [1, 2]) == 3
    assert await run(work.add_async, 1, 2) == 3
    assert await run(lambda x: x + offset, 1) == 101
    with pytest.raises(work.CustomError):
        await run(work.raise_this, work.CustomError(1))


@pytest.mark.usefixtures("kind")
@within(20)
async def test_order() -> None:
    """Calls are begun in the order in which they were made; a sync handler has served one before the next."""

    async def call(worker: Worker[..., Any], number: int) -> None:
        made.append(number)
        await worker.call(number)

    async with (
        open_worker(work.with_state, state=list) as sync,
        open_worker(work.with_state_async, state=list, concurrency=1) as asynchronous,
    ):
        for worker in (sync, asynchronous):
            made: list[int] = []
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(call, worker, number)
            assert await worker.call() == made


@pytest.mark.usefixtures("kind")
@within(20)
async def test_many_at_once() -> None:
    """A thousand callers each get their own answer."""
    answers: dict[int, int] = {}

    async def call(worker: Worker[..., int], number: int) -> None:
        answers[number] = await worker.call(number, 1)

    handlers: list[Callable[..., Any]] = [work.add, work.add_async]
    worker: Worker[..., Any]
    for handler in handlers:
        answers.clear()
        async with open_worker(handler, max_in_flight=100) as worker, trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(call, worker, number)
        assert answers == {number: number + 1 for number in range(1000)}


@pytest.mark.usefixtures("kind")
@both_loops
@within(20)
async def test_large_both_ways(handler: Callable[..., Any]) -> None:
    """Messages far larger than what a link holds pass each other."""
    data = os.urandom(8 << 20)
    async with open_worker(handler) as worker, trio.open_nursery() as nursery:

        async def check() -> None:
            assert await worker.call(bytes, data) == data

        for _ in range(3):
            nursery.start_soon(check)


# Errors.


@pytest.mark.usefixtures("kind")
@both_loops
@within(20)
async def test_error(handler: Callable[..., Any]) -> None:
    """An exception crosses as itself, with its remote frames, and the remote traceback as a note."""
    async with open_worker(handler, name="the worker") as worker:
        with pytest.raises(ZeroDivisionError, match="deep") as caught:
            await worker.call(work.raise_deep, 3)
        assert [entry.name for entry in caught.traceback].count("raise_deep") == 4
        (note,) = caught.value.__notes__
        assert note.startswith(f"Remote traceback (isolate 'the worker' (pid {worker.pid})):\nTraceback ")
        with pytest.raises(work.CustomError) as custom:
            await worker.call(work.raise_this, work.CustomError(42))
        assert custom.value.code == 42


@pytest.mark.usefixtures("kind")
@both_loops
@pytest.mark.parametrize(
    "error",
    [
        SystemExit("why"),
        KeyboardInterrupt("why"),
        GeneratorExit("why"),
        work.Unheard("why"),
        StopAsyncIteration("why"),
        trio.EndOfChannel("why"),
    ],
    ids=lambda error: type(error).__name__,
)
@within(20)
async def test_what_would_end_more_than_the_call(handler: Callable[..., Any], error: BaseException) -> None:
    """What would end the caller's loop, task or program arrives as a RemoteError; the worker lives."""
    async with open_worker(handler) as worker:
        pid = worker.pid
        with pytest.raises(RemoteError, match="why") as caught:
            await worker.call(work.raise_this, error)
        assert caught.value.type_name.rpartition(".")[2] == type(error).__name__
        assert "raise_this" in caught.value.traceback
        assert await worker.call(work.add, 1) == 11
        assert worker.pid == pid


@pytest.mark.usefixtures("kind")
@within(20)
async def test_stop_iteration() -> None:
    """A StopIteration arrives as a RemoteError from a sync handler; a coroutine makes it a RuntimeError."""
    async with open_worker(apply) as sync, open_worker(apply_async) as asynchronous:
        with pytest.raises(RemoteError):
            await sync.call(work.raise_this, StopIteration("why"))
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asynchronous.call(work.raise_this, StopIteration("why"))


@pytest.mark.usefixtures("kind")
@both_loops
@within(20)
async def test_groups(handler: Callable[..., Any]) -> None:
    """A group of errors arrives as it was, group in group, each leaf with its type or as a RemoteError."""
    leaves = [KeyError("a"), SystemExit("b")]
    group = BaseExceptionGroup("outer", [ExceptionGroup("inner", [work.CustomError(1)]), *leaves])
    async with open_worker(handler) as worker:
        with pytest.raises(ExceptionGroup, match="outer") as caught:
            await worker.call(work.raise_this, group)
    inner, *others = caught.value.exceptions
    assert isinstance(inner, ExceptionGroup) and inner.message == "inner"
    assert isinstance(inner.exceptions[0], work.CustomError) and inner.exceptions[0].code == 1
    assert [type(other) for other in others] == [KeyError, RemoteError]


@pytest.mark.usefixtures("kind")
@both_loops
@within(20)
async def test_causes(handler: Callable[..., Any]) -> None:
    """An exception brings along its cause."""

    def fail() -> None:
        raise ValueError("effect") from work.CustomError(3)

    async with open_worker(handler) as worker:
        with pytest.raises(ValueError, match="effect") as caught:
            await worker.call(fail)
    assert isinstance(caught.value.__cause__, work.CustomError)


@pytest.mark.usefixtures("kind")
@both_loops
@within(20)
async def test_unsendable(handler: Callable[..., Any]) -> None:
    """What cannot travel, in either direction, at either end, fails that call alone, and says what it was."""
    async with open_worker(handler) as worker:
        pid = worker.pid
        with pytest.raises(UnsendableError, match="lock") as caught:
            await worker.call(work.add, {"jobs": [1, threading.Lock()]})
        assert caught.value.path == "args[1]['jobs'][1]"
        assert caught.value.type_name == "_thread.lock"
        assert isinstance(caught.value.__cause__, TypeError)
        with pytest.raises(UnsendableError, match="does not want to arrive") as caught:
            await worker.call(work.add, work.Boomerang("loads"))
        assert caught.value.path == ""
        with pytest.raises(UnsendableError, match="does not want to leave") as caught:
            await worker.call(work.Boomerang, "dumps")
        assert caught.value.path == "result"
        with pytest.raises(UnsendableError, match="does not want to arrive") as caught:
            await worker.call(work.Boomerang, "loads")
        assert caught.value.path == ""
        assert await worker.call(work.add, 1) == 11
        assert worker.pid == pid
        assert worker.statistics().failed == 3  # the first was never a call


@pytest.mark.usefixtures("kind")
@within(20)
async def test_unsendable_handler() -> None:
    """A handler that cannot be sent is said before anything is started."""
    lock = threading.Lock()
    with pytest.raises(UnsendableError, match="lock"):
        async with open_worker(lambda: lock):
            raise AssertionError


# Isolation.


@pytest.mark.usefixtures("kind")
@both_loops
@within(20)
async def test_arguments_and_results_are_copies(handler: Callable[..., Any]) -> None:
    """What a handler does to its arguments does not reach the caller's objects, nor the other way round."""
    mine: list[Any] = [{"deep": "clean"}]
    kept: list[Any] = []
    async with open_worker(handler) as worker:
        theirs = await worker.call(work.spoil, mine)
        assert mine == [{"deep": "clean"}]
        assert theirs == [{"deep": "spoiled"}, "spoiled"]
        await worker.call(lambda: kept.append(1))
        assert kept == []
    async with open_worker(work.with_state, state=list) as worker:
        first = await worker.call(1)
        first.append("mine")
        assert await worker.call(2) == [1, 2]


@those_with("own modules")
@both_loops
@within(20)
async def test_modules_are_copies(kind: Kind, handler: Callable[..., Any]) -> None:
    """What is set in a module of the isolate is not set in the parent's."""
    async with open_worker(handler) as worker:
        await worker.call(work.mark, "theirs")
        assert await worker.call(work.get_marks) == ["theirs"]
    assert work.get_marks() == []


@those_with("own process")
@both_loops
@within(20)
async def test_a_process_of_its_own(kind: Kind, handler: Callable[..., Any]) -> None:
    """A worker's pid is that of the process in which its handler runs, which is not the parent's."""
    async with open_worker(handler) as worker:
        assert await worker.call(os.getpid) == worker.pid != os.getpid()
