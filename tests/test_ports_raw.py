"""`RawReceivePort`: a handler for each message, which may change, and which keeps its isolate alive."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

import contract
import raw_handlers as work
from contract import Entry, Kind, each_way
from fifo import within
from trio_isolates import RawReceivePort, ReceivePort, open_isolate, open_worker

kind = contract.kind


@pytest.mark.usefixtures("kind")
@within(20)
async def test_handler() -> None:
    """The handler is called with each message, in order, from wherever it comes."""
    got: list[Any] = []
    raw = RawReceivePort(got.append)
    raw.send_port.send_nowait("from here")
    assert got == ["from here"]
    async with open_isolate(work.send_three_async, raw.send_port):
        pass
    assert got == ["from here", 0, 1, 2]
    raw.close()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_messages_wait_for_a_handler() -> None:
    """What comes while there is no handler waits for one, and takes a place meanwhile."""
    got: list[Any] = []
    raw = RawReceivePort(max_buffer_size=2)
    port = raw.send_port
    port.send_nowait(1)
    port.send_nowait(2)
    with pytest.raises(trio.WouldBlock):
        port.send_nowait(3)
    raw.handler = got.append
    assert got == [1, 2]
    port.send_nowait(3)
    assert got == [1, 2, 3]
    raw.handler = None
    port.send_nowait(4)
    assert got == [1, 2, 3]
    raw.close()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_the_handler_can_be_changed() -> None:
    """A message goes to the handler of the moment, also one that the last handler has set."""
    first: list[Any] = []
    second: list[Any] = []
    raw = RawReceivePort()

    def take(message: Any) -> None:
        first.append(message)
        raw.handler = second.append

    for number in range(3):
        raw.send_port.send_nowait(number)
    assert raw.handler is None
    raw.handler = take
    assert (first, second) == ([0], [1, 2])
    assert raw.handler == second.append
    raw.close()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_handler_that_closes_its_port() -> None:
    """A handler may close its port: nothing comes after."""
    got: list[Any] = []

    def take(message: Any) -> None:
        got.append(message)
        raw.close()

    raw = RawReceivePort()
    port = raw.send_port
    for number in range(3):
        port.send_nowait(number)
    raw.handler = take
    assert got == [0]
    with pytest.raises(trio.BrokenResourceError):
        port.send_nowait(4)


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_handler_that_sends_to_its_own_port() -> None:
    """A handler may send to its own port: that message comes after those before it, not in the middle."""
    got: list[Any] = []

    def take(message: int) -> None:
        if message < 1000:
            raw.send_port.send_nowait(message + 1)
        got.append(message)

    raw = RawReceivePort(take)
    raw.send_port.send_nowait(0)
    assert got == list(range(1001))
    raw.close()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_from_raw() -> None:
    """A raw port becomes a ReceivePort with what had come; its send port is the same, the raw one is done."""
    got: list[Any] = []
    raw = RawReceivePort(got.append)
    home = raw.send_port
    home.send_nowait(1)
    raw.handler = None
    home.send_nowait(2)
    port = ReceivePort.from_raw(raw)
    assert port.send_port == home
    home.send_nowait(3)
    assert [await port.receive(), await port.receive()] == [2, 3]
    assert got == [1]
    with pytest.raises(trio.ClosedResourceError):
        raw.handler = got.append
    with pytest.raises(trio.ClosedResourceError):
        raw.send_port
    with pytest.raises(trio.ClosedResourceError):
        ReceivePort.from_raw(raw)
    raw.close()  # which does nothing any more
    home.send_nowait(4)
    assert await port.receive() == 4


@each_way(work.listen, work.listen_async)
@within(20)
async def test_it_keeps_its_isolate_alive(kind: Kind, entry: Entry) -> None:
    """An isolate whose entry has returned goes on while a raw port has a handler, and ends with it."""
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, home.send_port) as isolate:
        there = await home.receive()
        assert await home.receive() == "the entry returns"
        for number in range(5):
            await there.send(number)
            assert await home.receive() == ("heard", number)
        assert isolate.statistics().is_running
        await there.send("stop")
        assert await isolate.wait() == "returned"


@each_way(work.listen_twice, work.listen_twice_async)
@within(20)
async def test_as_long_as_one_listens(kind: Kind, entry: Entry) -> None:
    """With two raw ports an isolate goes on until neither has a handler: one closed, one unheard."""
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, home.send_port) as isolate:
        one, other = await home.receive()
        await one.send("stop")
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await one.send("stop")
        await isolate.ping()
        assert isolate.statistics().is_running
        await other.send("stop")
        await isolate.wait()


@each_way(work.hear_while_it_waits, work.hear_while_it_waits_async)
@within(20)
async def test_it_hears_while_the_entry_waits(kind: Kind, entry: Entry) -> None:
    """A handler is called while the entry waits, to receive or for a place to send, not only after it."""
    home: ReceivePort[Any] = ReceivePort(1)
    async with open_isolate(entry, home.send_port):
        raw, plain = await home.receive()
        await raw.send("first")
        await raw.send("second")
        await plain.send("go on")
        assert [await home.receive() for _ in range(4)] == ["full", ["first", "second"], 1, 2]


@each_way(work.close_unheard, work.close_unheard_async)
@within(20)
async def test_without_a_handler_it_keeps_nothing_alive(kind: Kind, entry: Entry) -> None:
    """A raw port without a handler, and a ReceivePort, do not keep an isolate alive."""
    async with open_isolate(entry) as isolate:
        assert await isolate.wait() == "returned"


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_handler_in_the_parent_raises() -> None:
    """What a handler at home raises cancels the body of the isolate that sent, and comes out of its block."""

    def refuse(message: Any) -> None:
        raise ValueError(message)

    raw = RawReceivePort(refuse)
    with pytest.raises(ValueError, match="0"):
        async with open_isolate(work.send_three_async, raw.send_port):
            await trio.sleep_forever()
    async with open_worker() as other:
        with pytest.raises(ValueError, match="again"):
            async with open_worker() as worker:
                await worker.run(work.send_one, raw.send_port, "again")
                await trio.sleep_forever()
        assert await other.run(abs, -1) == 1
    raw.close()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_handler_at_home_raises_at_once() -> None:
    """What a handler raises over a message that was sent here comes out of `send`; it goes on listening."""
    raw = RawReceivePort(work.refuse_odd)
    with pytest.raises(ValueError, match="1 is odd"):
        raw.send_port.send_nowait(1)
    raw.send_port.send_nowait(2)
    with pytest.raises(ValueError, match="3 is odd"):
        await raw.send_port.send(3)
    raw.close()


async def test_no_handler() -> None:
    """A handler must be callable, and sync: nobody would await it."""
    with pytest.raises(TypeError, match="must be callable"):
        RawReceivePort("no function")  # type: ignore[arg-type]
    raw = RawReceivePort()
    with pytest.raises(TypeError, match="must be a sync function"):
        raw.handler = work.listen_async
    raw.close()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_handler_that_has_ended_its_isolate_is_not_called_again() -> None:
    """What had come behind the message over which a handler raised does not reach it any more."""
    home: ReceivePort[Any] = ReceivePort()
    with pytest.raises(ZeroDivisionError):
        async with open_isolate(work.fail_at_zero, home.send_port):
            await trio.sleep_forever()
    assert [await home.receive(), await home.receive()] == [1, 0]
    assert home.statistics().buffered == 0


async def test_a_port_of_another_run() -> None:
    """A port that was kept from an earlier run would wait for ever: it says whose it is."""

    async def make() -> ReceivePort[Any]:
        return ReceivePort()

    port = await trio.to_thread.run_sync(trio.run, make)
    with pytest.raises(RuntimeError, match=r"another trio\.run"):
        await port.receive()
