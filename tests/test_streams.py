"""Streams: handlers that are generators, their items in order, their bounds and their ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import contract
import stream_handlers as work
from contract import Kind, those_with
from fifo import within
from trio_isolates import (
    IsolateDied,
    Pool,
    RawReceivePort,
    ReceivePort,
    UnsendableError,
    Worker,
    open_pool,
    open_worker,
)

kind = contract.kind

Handler = Callable[..., Any]
WINDOW = 256


def each(*handlers: Handler) -> pytest.MarkDecorator:
    """Run a test with handlers that need not block, on every engine."""
    return pytest.mark.parametrize("handler", handlers)


HANDLERS: dict[str, Handler | str] = {
    "generator": partial(work.count, 5),
    "async generator": partial(work.count_async, 5),
    "lambda": lambda: (yield from range(5)),
    "bound method": work.Counter(5).method,
    "async bound method": work.Counter(5).method_async,
    "callable object": work.Counter(5),
}


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("handler", HANDLERS.values(), ids=list(HANDLERS))
@within(20)
async def test_items(handler: Handler) -> None:
    """A stream gives the generator's items, in order, then ends; a worker can have many, one by one."""
    async with open_worker(handler) as worker:
        for _ in range(3):
            async with worker.open_stream() as items:
                assert [item async for item in items] == [0, 1, 2, 3, 4]
                for _ in range(2):
                    with pytest.raises(trio.EndOfChannel):
                        await items.receive()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_names() -> None:
    """A handler of a stream may be given by name."""
    async with open_worker("stream_handlers:count") as worker, worker.open_stream(3) as items:
        assert [item async for item in items] == [0, 1, 2]


@each(work.count, work.count_async)
@pytest.mark.usefixtures("kind")
@within(30)
async def test_arguments(handler: Handler) -> None:
    """A stream takes positional and keyword arguments, may be empty, or far longer than its window."""
    async with open_worker(handler) as worker:
        async with worker.open_stream(10, step=3) as items:
            assert [item async for item in items] == [0, 3, 6, 9]
        async with worker.open_stream(0) as items:
            assert [item async for item in items] == []
        async with worker.open_stream(5000) as items:
            assert [item async for item in items] == list(range(5000))


@each(work.count_with_state, work.count_with_state_async)
@pytest.mark.usefixtures("kind")
@within(20)
async def test_state(handler: Handler) -> None:
    """The state is the generator's first argument, and outlives its streams."""
    async with open_worker(handler, state=work.make_state) as worker:
        for more in ([1, 2], [1, 2, 3], [1, 2, 3, 4]):
            async with worker.open_stream(len(more) + 1) as items:
                assert [item async for item in items] == more


@each(work.report_and_count, work.report_and_count_async)
@pytest.mark.usefixtures("kind")
@within(30)
async def test_the_window(kind: Kind, handler: Handler) -> None:
    """The generator runs ahead of its consumer, and never by more than 256 items."""
    if handler is work.report_and_count and "blocks" in kind.cannot:
        pytest.skip(kind.cannot["blocks"])
    made: list[int] = []
    received: list[int] = []
    far_ahead = trio.Event()

    def note(number: int) -> None:
        made.append(number)
        # Besides those in the window, one may be on its way to `received`, and one waits for its place.
        assert number < len(received) + 1 + WINDOW + 1
        if number == WINDOW:
            far_ahead.set()

    raw = RawReceivePort(note, 10_000)
    async with open_worker(handler) as worker, worker.open_stream(raw.send_port, 2000) as items:
        await far_ahead.wait()
        if handler is work.report_and_count_async:
            for _ in range(50):  # whatever it could do meanwhile, it would have done
                await worker.run(abs, -1)
            assert made == list(range(WINDOW + 1))
        assert await items.receive() == 0
        received.append(0)
        async for item in items:
            received.append(item)
            await trio.lowlevel.checkpoint()
    assert made == received == list(range(2000))
    raw.close()


@each(work.count_and_mark, work.count_and_mark_async)
@pytest.mark.usefixtures("kind")
@within(20)
async def test_left_early(handler: Handler, tmp_path: Path) -> None:
    """When the block is left early, the generator's clean-up is done before, and the worker goes on."""
    async with open_worker(handler) as worker:
        for number in range(3):
            marker = tmp_path / str(number)
            async with worker.open_stream(marker, 100_000) as items:
                assert await items.receive() == 0
                assert not marker.exists()
            assert marker.exists()
            with pytest.raises(trio.ClosedResourceError):
                await items.receive()
        async with worker.open_stream(tmp_path / "whole", 3) as items:
            assert [item async for item in items] == [0, 1, 2]
        assert worker.statistics().cancelled == 3


@each(work.count_and_mark, work.count_and_mark_async)
@pytest.mark.usefixtures("kind")
@within(20)
async def test_the_body_fails(handler: Handler, tmp_path: Path) -> None:
    """An exception of the body comes out as itself, after the generator's clean-up."""
    async with open_worker(handler) as worker:
        with pytest.raises(KeyError, match="the body"):
            async with worker.open_stream(tmp_path / "marker", 100_000) as items:
                await items.receive()
                raise KeyError("the body")
        assert (tmp_path / "marker").exists()
        async with worker.open_stream(tmp_path / "marker", 1) as items:
            assert await items.receive() == 0


@those_with("interrupts sync code")
@each(work.compute_and_mark, work.sleep_and_mark_async)
@within(20)
async def test_cancelled(kind: Kind, handler: Handler, tmp_path: Path) -> None:
    """A cancelled block stops the generator where it is, computing or asleep; the worker goes on."""
    async with open_worker(handler) as worker:
        pid = worker.pid
        for number in range(2):
            with trio.CancelScope() as scope:
                async with worker.open_stream(tmp_path / str(number)) as items:
                    assert await items.receive() == "begun"
                    scope.cancel()
                    await items.receive()
            assert scope.cancelled_caught
            assert (tmp_path / str(number)).exists()
        assert worker.pid == pid


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_cancelled_receive_loses_nothing() -> None:
    """A receive that is cancelled takes no item: the next one gets it."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_worker(work.spell_async) as worker, worker.open_stream(port.send_port) as items:
        there = await port.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(items.receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await there.send("a")
        assert await items.receive() == "A"


@each(work.fail_after, work.fail_after_async)
@pytest.mark.parametrize("count", [0, 3, 300])
@pytest.mark.usefixtures("kind")
@within(20)
async def test_an_error_in_the_middle(handler: Handler, count: int) -> None:
    """What the generator raises comes where it stands: after all the items before it; and again, if asked."""
    got: list[int] = []
    async with open_worker(handler) as worker:
        async with worker.open_stream(count) as items:
            with pytest.raises(ZeroDivisionError, match="in the middle"):
                async for item in items:
                    got.append(item)  # noqa: PERF401 (it is what came before the error)
            for _ in range(2):
                with pytest.raises(ZeroDivisionError, match="in the middle"):
                    await items.receive()
        assert got == list(range(count))
        assert worker.statistics().failed == 1


@each(work.fail_after, work.fail_after_async)
@pytest.mark.usefixtures("kind")
@within(20)
async def test_an_error_that_nobody_came_to(handler: Handler) -> None:
    """An error behind items that were not received is not raised."""
    async with open_worker(handler) as worker, worker.open_stream(3) as items:
        assert await items.receive() == 0


@those_with("own process")
@each(work.die_after, work.die_after_async)
@within(20)
async def test_a_death_in_the_middle(kind: Kind, handler: Handler) -> None:
    """When the worker dies, the items that came before are there, then comes `IsolateDied`."""
    got: list[int] = []
    async with open_worker(handler) as worker, worker.open_stream(100) as items:
        with pytest.raises(IsolateDied) as caught:
            async for item in items:
                got.append(item)  # noqa: PERF401 (it is what came before the error)
        assert caught.value.signal == "SIGKILL"
    assert got == list(range(len(got)))


@those_with("own process")
@each(work.die_after, work.die_after_async)
@within(20)
async def test_a_death_in_a_pool(kind: Kind, handler: Handler) -> None:
    """A pool replaces a worker that dies in a stream; other streams are not touched."""
    async with open_pool(handler, workers=2) as pool:
        for _ in range(3):
            async with pool.open_stream(0) as items:
                with pytest.raises(IsolateDied):
                    await items.receive()


@each(work.count, work.count_async)
@pytest.mark.usefixtures("kind")
@within(30)
async def test_streams_of_a_pool(handler: Handler) -> None:
    """Streams of a pool run side by side, each with its own items."""
    got: dict[int, list[int]] = {}

    async def consume(limit: int) -> None:
        async with pool.open_stream(limit) as items:
            got[limit] = [item async for item in items]

    async with open_pool(handler, workers=2) as pool, trio.open_nursery() as nursery:
        for limit in range(300, 308):
            nursery.start_soon(consume, limit)
    assert got == {limit: list(range(limit)) for limit in range(300, 308)}


@pytest.mark.usefixtures("kind")
@within(20)
async def test_streams_side_by_side() -> None:
    """An async worker has several streams at once; one that nobody consumes holds up no other."""
    async with (
        open_worker(work.count_async) as worker,
        worker.open_stream(100_000),
        worker.open_stream(1000) as items,
    ):
        assert [item async for item in items] == list(range(1000))


@pytest.mark.usefixtures("kind")
@within(20)
async def test_one_consumer_at_a_time() -> None:
    """A second task that receives from a stream gets `BusyResourceError`."""
    port: ReceivePort[Any] = ReceivePort()
    async with (
        open_worker(work.spell_async) as worker,
        worker.open_stream(port.send_port) as items,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(items.receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await items.receive()
        nursery.cancel_scope.cancel()


# Wrong kinds.


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("opened", [open_worker, partial(open_pool, workers=1)], ids=["worker", "pool"])
@within(20)
async def test_wrong_kinds_of_handlers(opened: Any) -> None:
    """A generator is not to be called, a function has no stream, and without a handler there is neither."""
    one: Worker[..., Any] | Pool[..., Any]
    for handler in (work.count, work.count_async):
        async with opened(handler) as one:
            with pytest.raises(TypeError, match="use `open_stream`"):
                await one.call(3)
            async with one.open_stream(1) as items:
                assert await items.receive() == 0
    for function in (work.report, work.report_async):
        async with opened(function) as one:
            async with one.open_stream() as items:
                with pytest.raises(TypeError, match="use `call`"):
                    await items.receive()
            assert await one.call() == "done"
    async with opened() as one, one.open_stream() as items:
        with pytest.raises(TypeError, match="no handler"):
            await items.receive()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_closed_worker() -> None:
    """A closed worker opens no streams."""
    async with open_worker(work.count) as worker:
        await worker.aclose()
        async with worker.open_stream(1) as items:
            with pytest.raises(trio.ClosedResourceError):
                await items.receive()


@each(work.yield_these, work.yield_these_async)
@pytest.mark.usefixtures("kind")
@within(20)
async def test_items_that_cannot_be_sent(handler: Handler) -> None:
    """An item that cannot be pickled ends the stream, after those before it."""
    async with open_worker(handler) as worker:
        async with worker.open_stream(1, "a port", 2) as items:
            assert await items.receive() == 1
            with pytest.raises(UnsendableError, match="send its send_port"):
                await items.receive()
        async with worker.open_stream(b"x" * 1_000_000, None) as items:
            assert [item async for item in items] == [b"x" * 1_000_000, None]


@pytest.mark.parametrize("handler", [work.spell, work.spell_async])
@pytest.mark.usefixtures("kind")
@within(20)
async def test_both_ways(kind: Kind, handler: Handler) -> None:
    """A generator that sends a port of its own home is talked to while it yields."""
    if handler is work.spell and "blocks" in kind.cannot:
        pytest.skip(kind.cannot["blocks"])
    port: ReceivePort[Any] = ReceivePort()
    async with open_worker(handler) as worker, worker.open_stream(port.send_port) as items:
        there = await port.receive()
        for word in ("one", "two", "three"):
            await there.send(word)
            assert await items.receive() == word.upper()
        await there.send(None)
        with pytest.raises(trio.EndOfChannel):
            await items.receive()
