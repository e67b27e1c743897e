"""What crosses on its way: a cancellation and a place, a pause and a message, an exit and its last words."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import contract
import crossing_handlers as work
import port_handlers
from contract import Entry, Kind, each_way, those_with
from fifo import within
from trio_isolates import RawReceivePort, ReceivePort, SendPort, open_isolate, open_worker

kind = contract.kind


@pytest.mark.parametrize("_", range(4))
async def test_own_port_gives_a_place_to_who_is_cancelled(_: int) -> None:
    """One who sends to a full port of his own, which has a place to give back, can be cancelled just then."""
    port: ReceivePort[int] = ReceivePort(4)
    for number in range(4):
        await port.send_port.send(number)
    await port.receive()  # not yet told: it is less than half
    scope = trio.CancelScope()

    async def send() -> None:
        with scope:
            await port.send_port.send(4)

    async def cancel() -> None:
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(cancel)
    assert port.statistics().buffered in (3, 4)


@those_with("blocks")
@within(20)
async def test_a_worker_at_rest_owes_no_places(kind: Kind) -> None:
    """Places that a sync handler has made free are given back when it has returned, not at its next call."""
    async with open_worker(work.receive_one, state=work.open_small_port) as worker:
        there: SendPort[Any] = await worker.call("port")
        for number in range(8):
            await there.send(number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.send, 8)
            await trio.testing.wait_all_tasks_blocked()  # it has said that it waits
            assert await worker.call("message") == 0


@those_with("own process")
@within(30)
async def test_an_exit_says_all_to_a_sibling(kind: Kind) -> None:
    """What was sent before `exit_isolate`, and its message, arrive at a sibling, large as it may be."""
    home: ReceivePort[Any] = ReceivePort()
    others = 200
    async with open_isolate(work.receive_lengths, home.send_port, others + 6) as receiver:
        there = await home.receive()
        async with open_isolate(work.send_large_and_exit, there, others):
            pass
        expected = [*range(work.LARGE, work.LARGE + 5), len("end")]
        assert await receiver.wait() == expected


@pytest.mark.usefixtures("kind")
@within(20)
async def test_order_when_it_goes_on() -> None:
    """What an isolate sends to itself while it is paused comes before what it sends when it goes on."""
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(work.send_to_itself_when_resumed, home.send_port) as isolate:
        there = await home.receive()
        token = isolate.pause()
        for _ in range(3):
            await there.send(None)
        assert await home.receive() == "sent"
        isolate.resume(token)
        assert await isolate.wait() == list(range(6))


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_notice_whose_handler_fails() -> None:
    """What a handler makes of an exit notice comes out of the block; all other notices are sent."""
    other: ReceivePort[str] = ReceivePort()
    with pytest.raises(ZeroDivisionError):
        async with open_isolate(trio.sleep_forever) as isolate:
            raw = RawReceivePort(lambda number: 1 // number)
            isolate.add_on_exit(raw.send_port, 0)
            isolate.add_on_exit(other.send_port, "gone")
            await isolate.aclose()
            await trio.sleep_forever()
    raw.close()
    assert other.receive_nowait() == "gone"


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_handler_of_a_notice_wants_another() -> None:
    """A notice that is asked for by the handler of another one is sent at once."""
    other: ReceivePort[str] = ReceivePort()
    async with open_isolate(trio.sleep_forever) as isolate:
        raw = RawReceivePort(lambda _: isolate.add_on_exit(other.send_port, "gone"))
        isolate.add_on_exit(raw.send_port)
        await isolate.aclose()
    raw.close()
    assert other.receive_nowait() == "gone"


@each_way(port_handlers.count_up, port_handlers.count_up_async)
@within(20)
async def test_a_send_port_in_the_entry_itself(kind: Kind, entry: Entry) -> None:
    """A send port may come with the entry as well as with its arguments."""
    port: ReceivePort[int] = ReceivePort()
    async with open_isolate(partial(entry, port.send_port, 3)):
        assert [await port.receive() for _ in range(3)] == [0, 1, 2]


@those_with("blocks")
@within(20)
async def test_a_look_comes_to_an_end(kind: Kind) -> None:
    """A look at a port ends, though messages for the handler of another one come all the time."""
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(work.look_while_others_come, home.send_port) as isolate:
        there, begin = await home.receive()
        for _ in range(100):
            await there.send("more")
        await begin.send("begin")
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await there.send("more")
        assert await isolate.wait() == "looked"


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_cancelled_call_with_progress_raises_as_others() -> None:
    """A cancelled call that was asked for its progress raises Cancelled itself, in no group."""
    seen: list[type[BaseException]] = []
    async with open_worker(work.report_and_wait) as worker:
        with trio.CancelScope() as scope:
            try:
                await worker.call(on_progress=lambda _: scope.cancel())
            except BaseException as exc:
                seen.append(type(exc))
                raise
    assert scope.cancelled_caught
    assert seen == [trio.Cancelled]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_messages_for_the_set_up_and_the_teardown() -> None:
    """`state=` and `teardown=` of a worker on Trio receive messages as its handler does."""
    home: ReceivePort[Any] = ReceivePort()

    async def answer(number: int) -> None:
        await (await home.receive()).send(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, 1)
        ask, end = partial(work.ask_for_state, home.send_port), partial(work.ask_and_answer, home.send_port)
        async with open_worker(work.return_state, state=ask, teardown=end) as worker:
            assert await worker.call() == 1
            nursery.start_soon(answer, 2)
    assert await home.receive() == 2


@pytest.mark.usefixtures("kind")
@within(20)
async def test_ports_of_the_dead_are_forgotten() -> None:
    """An isolate that was only sent ports of others that are gone knows nothing of them any more."""
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(work.hold_ports, home.send_port) as holder:
        there = await home.receive()
        for _ in range(10):
            async with open_isolate(work.give_port, home.send_port):
                await there.send(await home.receive())
        await there.send(None)
        assert await holder.wait() == (10, 2, 0)


@within(20)
async def test_another_thread() -> None:
    """A thread of its own cannot send for an isolate: what is sent would be torn. It is told how to do it."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(RuntimeError, match="from_thread"):
        await trio.to_thread.run_sync(port.send_port.send_nowait, 1)
    await trio.to_thread.run_sync(trio.from_thread.run, port.send_port.send, 1)
    assert port.receive_nowait() == 1
    async with open_worker(work.report_from_a_thread) as worker:
        assert "from_thread" in await worker.call(on_progress=print)
