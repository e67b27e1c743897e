"""Order and bounds of ports: who waits for a place, who does not, and in which order all arrives."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing

import contract
import port_handlers as work
from contract import Entry, Kind, counting, each_way, filling, serving
from fifo import within
from trio_isolates import PortStatistics, ReceivePort, open_isolate, open_worker

kind = contract.kind

tagging = each_way(work.tag_up, work.tag_up_async)


@counting
@pytest.mark.parametrize("size", [1, 2, 7, 64])
@within(30)
async def test_first_in_first_out(kind: Kind, entry: Entry, size: int) -> None:
    """Messages of one sender arrive in the order in which they were sent, whatever the port holds."""
    port: ReceivePort[int] = ReceivePort(size)
    async with open_isolate(entry, port.send_port, 300):
        assert [await port.receive() for _ in range(300)] == list(range(300))


@serving
@within(30)
async def test_first_in_first_out_to_the_isolate(kind: Kind, entry: Entry) -> None:
    """Messages to an isolate are echoed in order, while more are sent than anybody has room for."""
    async with work.serving(entry) as server, trio.open_nursery() as nursery:

        async def send() -> None:
            for number in range(1000):
                await server.there.send(number)

        nursery.start_soon(send)
        assert [await server.home.receive() for _ in range(1000)] == list(range(1000))


@tagging
@within(30)
async def test_many_senders(kind: Kind, entry: Entry) -> None:
    """Messages of many isolates arrive at one port, none lost, none twice, each sender's in order."""
    port: ReceivePort[tuple[int, int]] = ReceivePort(4)
    seen: dict[int, list[int]] = {tag: [] for tag in range(5)}
    async with AsyncExitStack() as stack:
        for tag in seen:
            await stack.enter_async_context(open_isolate(entry, port.send_port, tag, 50))
        for _ in range(250):
            tag, number = await port.receive()
            seen[tag].append(number)
    assert seen == {tag: list(range(50)) for tag in range(5)}
    assert port.statistics().buffered == 0


@pytest.mark.usefixtures("kind")
@within(20)
async def test_many_tasks_send() -> None:
    """Tasks of one isolate that wait for a place get it in the order in which they came."""
    port: ReceivePort[int] = ReceivePort(2)
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(port.send_port.send, number)
            await trio.testing.wait_all_tasks_blocked()
        assert [await port.receive() for _ in range(10)] == list(range(10))


@filling
@within(20)
async def test_the_bound(kind: Kind, entry: Entry) -> None:
    """A sender has as many places as the port holds, then waits until one of its messages is received."""
    port: ReceivePort[Any] = ReceivePort(5)
    report: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, report.send_port) as isolate:
        assert await report.receive() == 5
        assert await report.receive() == "waiting"
        await isolate.ping()
        assert port.statistics() == PortStatistics(5, 5, 1)
        assert isolate.statistics().is_running
        assert [await port.receive() for _ in range(6)] == [0, 1, 2, 3, 4, "the last"]
        assert await isolate.wait() == 5
    assert port.statistics() == PortStatistics(0, 5, 0)


@filling
@within(20)
async def test_the_bound_is_each_senders_own(kind: Kind, entry: Entry) -> None:
    """Each isolate that sends has places of its own: one that has filled its own takes nobody else's."""
    port: ReceivePort[Any] = ReceivePort(3)
    report: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, report.send_port):
        assert [await report.receive() for _ in range(2)] == [3, "waiting"]
        async with open_isolate(entry, port.send_port, report.send_port):
            assert [await report.receive() for _ in range(2)] == [3, "waiting"]
            for _ in range(3):
                port.send_port.send_nowait("mine")
            with pytest.raises(trio.WouldBlock):
                port.send_port.send_nowait("one too many")
            assert port.statistics().buffered == 9
            got = [await port.receive() for _ in range(11)]
    assert sorted(map(str, got)) == sorted([*"001122", *2 * ["the last"], *3 * ["mine"]])


@pytest.mark.usefixtures("kind")
@within(20)
async def test_send_ports_share_the_bound() -> None:
    """All send ports of one isolate to a port share its places, however they came there."""
    port: ReceivePort[int] = ReceivePort(2)
    async with work.serving(work.serve_async) as server:
        back = await server.echo(port.send_port)
    port.send_port.send_nowait(1)
    back.send_nowait(2)
    for one in (back, port.send_port):
        with pytest.raises(trio.WouldBlock):
            one.send_nowait(3)
    assert port.receive_nowait() == 1
    back.send_nowait(3)


@serving
@within(20)
async def test_nowait(kind: Kind, entry: Entry) -> None:
    """`receive_nowait` and `send_nowait` never wait: they raise `WouldBlock`, and leave no trace."""
    port: ReceivePort[Any] = ReceivePort(1)
    with pytest.raises(trio.WouldBlock):
        port.receive_nowait()
    async with work.serving(entry) as server:
        await server.ask(work.send_on, port.send_port, 1)
        with pytest.raises(trio.WouldBlock):
            await server.ask(work.send_on, port.send_port, 2)
        assert port.receive_nowait() == 1
        with pytest.raises(trio.WouldBlock):
            port.receive_nowait()
        await server.ask(work.open_port)
        with pytest.raises(trio.WouldBlock):
            await server.ask(work.receive_kept, 1)


@serving
@within(20)
async def test_a_cancelled_send_was_not_sent(kind: Kind, entry: Entry) -> None:
    """What a cancelled task waited to send never arrives; what waits behind it does."""
    async with work.serving(entry) as server, trio.open_nursery() as nursery:
        there = await server.ask(work.open_port, 1)
        await there.send("first")
        scopes = [trio.CancelScope() for _ in range(3)]

        async def send(number: int) -> None:
            with scopes[number]:
                await there.send(number)

        for number in range(3):
            nursery.start_soon(send, number)
            await trio.testing.wait_all_tasks_blocked()
        for number in (0, 2):
            scopes[number].cancel()
        assert await server.ask(work.receive_kept, 1) == ["first"]
        while not (await server.ask(work.statistics_of_kept)).buffered:
            await trio.lowlevel.checkpoint()
        assert await server.ask(work.receive_kept, 1) == [1]
        await server.isolate.ping()
        assert (await server.ask(work.statistics_of_kept)).buffered == 0
        there.send_nowait("there is a place")


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_send_that_is_cancelled_before_it_begins() -> None:
    """In a cancelled scope nothing is sent, even if there is a place."""
    port: ReceivePort[int] = ReceivePort()
    with trio.CancelScope() as scope:
        scope.cancel()
        await port.send_port.send(1)
    assert scope.cancelled_caught
    assert port.statistics().buffered == 0


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_cancelled_receive_takes_nothing() -> None:
    """A message that comes after a receive was cancelled is the next one's."""
    port: ReceivePort[int] = ReceivePort()
    with trio.CancelScope() as scope:
        scope.cancel()
        await port.receive()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.receive)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await port.send_port.send(1)
    assert await port.receive() == 1


@pytest.mark.usefixtures("kind")
@within(20)
async def test_checkpoints() -> None:
    """`send`, `receive` and `aclose` are checkpoints, also when they need not wait, or raise at once."""
    port: ReceivePort[int] = ReceivePort()
    with trio.testing.assert_checkpoints():
        await port.send_port.send(1)
    with trio.testing.assert_checkpoints():
        assert await port.receive() == 1
    with trio.testing.assert_checkpoints():
        await port.send_port.aclose()
    with trio.testing.assert_checkpoints():
        await port.aclose()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_one_receiver_at_a_time() -> None:
    """A second task that receives gets `BusyResourceError`; the first one gets its message all the same."""
    port: ReceivePort[int] = ReceivePort()
    got: list[int] = []

    async def receive() -> None:
        got.append(await port.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await port.receive()
        with pytest.raises(trio.BusyResourceError):
            port.receive_nowait()
        await port.send_port.send(1)
    assert got == [1]


@filling
@within(20)
async def test_a_full_port_holds_up_no_other(kind: Kind, entry: Entry) -> None:
    """While a port is full and a task waits for it, other ports between the same isolates go on."""
    async with work.serving(work.serve_async) as server, trio.open_nursery() as nursery:
        full = await server.ask(work.open_port, 1)
        await full.send("fills it")
        nursery.start_soon(full.send, "waits")
        await trio.testing.wait_all_tasks_blocked()
        for number in range(200):
            assert await server.echo(number) == number
        assert await server.ask(work.receive_kept, 1) == ["fills it"]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_full_port_holds_up_no_replies() -> None:
    """While a port of a worker's is full in either direction, calls are answered."""
    port: ReceivePort[int] = ReceivePort(1)
    async with open_worker() as worker, trio.open_nursery() as nursery:
        there = await worker.run(work.open_port, 1)
        await there.send("fills it")
        nursery.start_soon(there.send, "waits")
        nursery.start_soon(worker.run, work.count_up_async, port.send_port, 3)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(100):
            assert await worker.run(abs, -number) == number
        assert [await port.receive() for _ in range(3)] == [0, 1, 2]
        assert await worker.run(work.receive_kept, 1) == ["fills it"]


@counting
@within(30)
async def test_loops(kind: Kind, entry: Entry) -> None:
    """`async for` receives until the port is closed, also by the loop's own body."""
    port: ReceivePort[int] = ReceivePort(3)
    got: list[int] = []
    async with open_isolate(entry, port.send_port, 20) as isolate:
        async for number in port:
            got.append(number)
            if number == 19:
                port.close()
        await isolate.wait()
    assert got == list(range(20))
