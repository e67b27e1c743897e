"""The contract of every engine: the results of `open_map`, their source, and those who take them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import outcome
import pytest
import trio
import trio.testing

import contract
import contract_handlers as work
from fifo import within
from trio_isolates import open_pool

kind = contract.kind

orders = pytest.mark.parametrize("ordered", [True, False])


class BadSourceError(Exception):
    pass


def three_and_an_error() -> Iterator[int]:
    yield from range(3)
    raise BadSourceError("no more")


@pytest.mark.usefixtures("kind")
@orders
@within(20)
async def test_after_the_block(ordered: bool) -> None:
    """Results that are asked for when the block of the map has been left say that it is closed."""
    async with open_pool(work.add, workers=2) as pool:
        async with pool.open_map(range(20), ordered=ordered, max_pending=3) as results:
            await anext(results)
        with pytest.raises(trio.ClosedResourceError):
            while True:  # what was ready may still be given out
                await anext(results)
        assert await pool.call(1) == 11


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_consumer_when_the_block_is_left() -> None:
    """A task that waits for the next result when the block of the map is left is told that it is closed."""

    async def nothing() -> AsyncGenerator[int, None]:
        await trio.Event().wait()
        yield 0

    async def consume() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await anext(results)

    async with (
        open_pool(work.add, workers=1) as pool,
        trio.open_nursery() as nursery,
        pool.open_map(nothing()) as results,
    ):
        nursery.start_soon(consume)
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.usefixtures("kind")
@orders
@within(20)
async def test_two_consumers(ordered: bool) -> None:
    """Of two tasks that take the results of one map each takes some, and no result is lost or taken twice."""
    taken: list[Any] = []

    async def consume() -> None:
        taken.extend([result async for result in results])

    async with open_pool(work.add, workers=2) as pool:
        async with (
            pool.open_map(range(100), ordered=ordered, max_pending=3) as results,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(consume)
            nursery.start_soon(consume)
        assert sorted(taken) == list(range(10, 110))


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("return_errors", [False, True])
@pytest.mark.parametrize("max_pending", [1, 10])
@orders
@within(20)
async def test_an_error_of_the_source(ordered: bool, max_pending: int, return_errors: bool) -> None:
    """What the items' own iterable raises is raised after the results of the items before it."""
    taken: list[Any] = []
    async with open_pool(work.add, workers=2) as pool:
        with pytest.raises(BadSourceError, match="no more"):
            async with pool.open_map(
                three_and_an_error(), ordered=ordered, max_pending=max_pending, return_errors=return_errors
            ) as results:
                while True:
                    result = await anext(results)
                    taken.append(result.unwrap() if isinstance(result, outcome.Value) else result)
        assert sorted(taken) == [10, 11, 12]
        assert await pool.call(1) == 11


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("how", ["left early", "by an exception", "by a cancellation", "at its end"])
@within(20)
async def test_an_async_generator_is_closed(how: str) -> None:
    """An async generator that gives the items has been closed when the block is left, by any path."""
    ended: list[str] = []

    async def items() -> AsyncGenerator[int, None]:
        try:
            for number in range(2 if how == "at its end" else 100):
                yield number  # here it is left: it waits for nothing itself, where it could be cancelled
        finally:
            ended.append(how)

    source = items()
    async with open_pool(work.add, workers=1) as pool:
        with trio.CancelScope() as scope:
            try:
                async with pool.open_map(source, max_pending=2) as results:
                    assert await anext(results) == 10
                    if how == "at its end":
                        assert [result async for result in results] == [11]
                    elif how == "by an exception":
                        raise BadSourceError
                    elif how == "by a cancellation":
                        scope.cancel()
                        await trio.sleep_forever()
            except BadSourceError:
                assert how == "by an exception"
        assert ended == [how]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_what_makes_no_map() -> None:
    """What is no function or gives no items is refused by its name, before a block is entered."""
    async with open_pool(work.add, workers=1) as pool:
        untyped: Any = pool
        with pytest.raises(TypeError, match=r"^progress= must be a sync function, not 3$"):
            untyped.open_map([1], progress=3)
        for items in (3, None):
            with pytest.raises(
                TypeError, match=f"^items must be an iterable or async iterable, not {items}$"
            ):
                untyped.open_map(items)
            with pytest.raises(
                TypeError, match=f"^items must be an iterable or async iterable, not {items}$"
            ):
                await untyped.map(items)


class BadProgressError(Exception):
    pass


def _fail(finished: int, total: int | None) -> None:
    raise BadProgressError(finished, total)


async def _wait(finished: int, total: int | None) -> None:
    raise AssertionError((finished, total))


def _forget(finished: int, total: int | None) -> object:
    return _wait(finished, total)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize(
    ("progress", "error", "words"),
    [
        (_fail, BadProgressError, r"^\(1, 20\)$"),
        (lambda: None, TypeError, "takes 0 positional arguments but 2 were given"),
        (_forget, TypeError, "^progress= must be a sync function, not <function"),
    ],
    ids=["raises", "takes too little", "returns a coroutine"],
)
@within(20)
async def test_an_error_of_progress(progress: Callable[..., Any], error: type[Exception], words: str) -> None:
    """What `progress` raises comes out of the block as itself, and it is not called again."""
    told: list[int] = []

    def tell(finished: int, total: int | None) -> object:
        told.append(finished)
        return progress(finished, total)

    async with open_pool(work.add, workers=2) as pool:
        with pytest.raises(error, match=words):
            async with pool.open_map(range(20), max_pending=20, progress=tell):
                await trio.sleep_forever()
        assert told == [1]
        assert await pool.call(1) == 11
