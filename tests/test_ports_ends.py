"""What becomes of messages and senders when a port is closed, or garbage, or its isolate is gone."""

from __future__ import annotations

import gc
import os
import signal
from collections import deque
from typing import Any

import pytest
import trio
import trio.testing

import contract
import port_handlers as work
from contract import Entry, Kind, counting, each_way, filling, serving, those_with
from fifo import within
from trio_isolates import Isolate, IsolateDied, RawReceivePort, ReceivePort, SendPort, open_isolate
from trio_isolates._here import current_exchange

kind = contract.kind

breaking = each_way(work.send_broken, work.send_broken_async)


def what_is_left() -> dict[str, Any]:
    """Return what this program's exchange still remembers, but for itself."""
    gc.collect()
    exchange = current_exchange()
    exchange.sweep()
    tables = {name: value for name, value in vars_of(exchange).items() if value}
    itself = tables["_peers"].pop(exchange.path)
    left = {name: value for name, value in tables.items() if value}
    tables["_peers"][exchange.path] = itself
    if itself.busy:  # other windows are kept by nobody but their ports
        left["busy"] = itself.busy
    return left


def vars_of(exchange: object) -> dict[str, Any]:
    return {k: v for k, v in vars(exchange).items() if isinstance(v, (dict, set, list, deque))}


def die(kind: Kind, isolate: Isolate[Any]) -> None:
    """Have an isolate die by no doing of its parent's."""
    if kind.name == "inline":
        kind.engine.kill(isolate.name)  # type: ignore[attr-defined]
    else:
        assert isolate.pid is not None
        os.kill(isolate.pid, signal.SIGKILL)


# Closing.


@pytest.mark.usefixtures("kind")
@within(20)
async def test_close_drops_what_is_buffered() -> None:
    """`close` drops what is buffered; receiving raises `ClosedResourceError`, a loop ends; twice is once."""
    port: ReceivePort[int] = ReceivePort()
    port.send_port.send_nowait(1)
    port.close()
    port.close()
    assert port.statistics().buffered == 0
    with pytest.raises(trio.ClosedResourceError):
        await port.receive()
    with pytest.raises(trio.ClosedResourceError):
        port.receive_nowait()
    async for _ in port:
        raise AssertionError("there was a message")
    await port.aclose()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_close_wakes_who_receives() -> None:
    """A waiting `receive` raises `ClosedResourceError` when the port is closed, a running loop ends."""
    one: ReceivePort[int] = ReceivePort()
    other: ReceivePort[int] = ReceivePort()
    ended: list[str] = []

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await one.receive()
        ended.append("receive")

    async def loop() -> None:
        async for _ in other:
            raise AssertionError("there was a message")
        ended.append("loop")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(loop)
        await trio.testing.wait_all_tasks_blocked()
        one.close()
        await other.aclose()
    assert sorted(ended) == ["loop", "receive"]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_own_closed_port() -> None:
    """Sending to a port of one's own that is closed raises `BrokenResourceError` at once."""
    port: ReceivePort[int] = ReceivePort()
    home = port.send_port
    port.close()
    for send_port in (home, port.send_port):
        with pytest.raises(trio.BrokenResourceError):
            await send_until_broken(send_port)
    assert not what_is_left()


async def send_until_broken(port: Any) -> None:
    while True:
        await port.send("into the blue")


@breaking
@within(20)
async def test_closed_before_it_is_sent_to(kind: Kind, entry: Entry) -> None:
    """An isolate that sends to a port that was closed before gets `BrokenResourceError` once it is known."""
    port: ReceivePort[Any] = ReceivePort()
    port.close()
    async with open_isolate(entry, port.send_port) as isolate:
        assert await isolate.wait() == "broken"
    assert not what_is_left()


@breaking
@within(20)
async def test_closed_while_it_is_sent_to(kind: Kind, entry: Entry) -> None:
    """An isolate that is sending to a port gets `BrokenResourceError` when that is closed."""
    port: ReceivePort[Any] = ReceivePort(3)
    async with open_isolate(entry, port.send_port) as isolate:
        for _ in range(10):
            await port.receive()
        port.close()
        assert await isolate.wait() == "broken"
    assert not what_is_left()


@filling
@within(20)
async def test_close_wakes_senders_in_isolates(kind: Kind, entry: Entry) -> None:
    """A sender in an isolate that waits for a place gets `BrokenResourceError` when the port is closed."""
    port: ReceivePort[Any] = ReceivePort(2)
    report: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, report.send_port) as isolate:
        assert [await report.receive() for _ in range(2)] == [2, "waiting"]
        await isolate.ping()
        port.close()
        assert await report.receive() == "broken"
    report.close()
    assert not what_is_left()


@serving
@within(20)
async def test_an_isolate_closes_its_port(kind: Kind, entry: Entry) -> None:
    """Senders at home that wait for a place at an isolate's port are woken when it closes the port."""
    async with work.serving(entry) as server, trio.open_nursery() as nursery:
        there = await server.ask(work.open_port, 1)
        await there.send("fills it")
        broken = 0

        async def send(port: SendPort[Any]) -> None:
            nonlocal broken
            with pytest.raises(trio.BrokenResourceError):
                await port.send("waits")
            broken += 1

        for _ in range(3):
            nursery.start_soon(send, there)
        await trio.testing.wait_all_tasks_blocked()
        await server.ask(work.close_kept)
        with pytest.raises(trio.BrokenResourceError):
            await send_until_broken(there)
    assert broken == 3
    server.home.close()
    del there, server
    assert not what_is_left()


# Garbage.


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_garbage_port_is_closed() -> None:
    """A ReceivePort that nobody holds any more is closed: whoever waits for a place there is woken."""
    home = ReceivePort[Any](1).send_port
    with pytest.raises(trio.BrokenResourceError):
        await send_until_broken(home)
    del home
    assert not what_is_left()


@filling
@within(20)
async def test_a_garbage_port_wakes_senders_in_isolates(kind: Kind, entry: Entry) -> None:
    """A sender in an isolate is woken when the ReceivePort becomes garbage, in a cycle too."""
    ports: list[Any] = [ReceivePort[Any](2)]
    report: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, ports[0].send_port, report.send_port) as isolate:
        assert [await report.receive() for _ in range(2)] == [2, "waiting"]
        await isolate.ping()
        ports.append(ports)
        del ports
        gc.collect()
        assert await report.receive() == "broken"
    report.close()
    assert not what_is_left()


@serving
@within(20)
async def test_a_garbage_port_in_an_isolate(kind: Kind, entry: Entry) -> None:
    """A task at home is woken when the port it waits for becomes garbage in its isolate."""
    async with work.serving(entry) as server:
        there = await server.ask(work.open_port, 1)
        await there.send("fills it")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_broken, there)
            await trio.testing.wait_all_tasks_blocked()
            await server.ask(work.drop_kept)


async def expect_broken(port: Any) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await port.send("waits")


@pytest.mark.usefixtures("kind")
@within(20)
async def test_many_ports_that_nobody_closed() -> None:
    """Ports that are made and let go by the thousand leave nothing behind, nor do their messages."""
    for number in range(2000):
        port: ReceivePort[Any] = ReceivePort()
        port.send_port.send_nowait(number)
    del port
    assert not what_is_left()


@serving
@within(30)
async def test_many_isolates_leave_nothing(kind: Kind, entry: Entry) -> None:
    """Isolates that come and go, with messages under way in both directions, leave nothing behind."""
    port: ReceivePort[Any] = ReceivePort()
    for _ in range(3):
        async with work.serving(entry) as server:
            there = await server.ask(work.open_port)
            there.send_nowait("never received")
            await server.ask(work.send_on, port.send_port, "never received here")
            await server.ask(work.keep, port.send_port)
        server.home.close()
    del there, server
    port.close()
    assert not what_is_left()


# The other end is gone.


@serving
@within(20)
async def test_the_owner_dies(kind: Kind, entry: Entry) -> None:
    """Tasks that wait for a place at a port are woken when its isolate dies; later sends raise at once."""
    home: ReceivePort[Any] = ReceivePort()
    with pytest.raises(IsolateDied):
        async with open_isolate(entry, home.send_port) as isolate, trio.open_nursery() as nursery:
            there = await home.receive()
            await there.send(work.Ask(work.open_port, 1))
            kept = await home.receive()
            await kept.send("fills it")
            nursery.start_soon(expect_broken, kept)
            await trio.testing.wait_all_tasks_blocked()
            die(kind, isolate)
    for port in (kept, there):
        with pytest.raises(trio.BrokenResourceError):
            port.send_nowait("late")
        with pytest.raises(trio.BrokenResourceError):
            await port.send("late")
    home.close()
    del kept, there, port
    assert not what_is_left()


@filling
@within(20)
async def test_the_sender_dies(kind: Kind, entry: Entry) -> None:
    """What a dead isolate had sent can be received; that it waited for a place is forgotten."""
    port: ReceivePort[Any] = ReceivePort(2)
    report: ReceivePort[Any] = ReceivePort()
    with pytest.raises(IsolateDied):
        async with open_isolate(entry, port.send_port, report.send_port) as isolate:
            assert [await report.receive() for _ in range(2)] == [2, "waiting"]
            await isolate.ping()
            assert port.statistics().waiting_senders == 1
            die(kind, isolate)
    assert port.statistics().waiting_senders == 0
    assert [await port.receive(), await port.receive()] == [0, 1]
    for closed in (port, report):
        closed.close()
    assert not what_is_left()


@those_with("own process")
@within(20)
async def test_a_receiver_waits_on(kind: Kind) -> None:
    """A port does not end with those who send to it: other senders are heard after one has died."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(IsolateDied):
        async with open_isolate(work.wait_for_ever, port.send_port) as isolate:
            assert await port.receive() == isolate.pid
            isolate.kill()
            await isolate.wait()
    async with open_isolate(work.count_up, port.send_port, 1):
        assert await port.receive() == 0


@counting
@within(20)
async def test_all_arrives_before_the_end(kind: Kind, entry: Entry) -> None:
    """All that an isolate has sent is there when its block has been left, and in order."""
    port: ReceivePort[int] = ReceivePort(500)
    async with open_isolate(entry, port.send_port, 500):
        pass
    assert [port.receive_nowait() for _ in range(500)] == list(range(500))


@counting
@within(20)
async def test_an_unknown_port(kind: Kind, entry: Entry) -> None:
    """A port of another program, or of a Trio run that is over, is a broken one, and never a hang."""
    stranger = current_exchange().window(os.urandom(8), 1, 1)
    with pytest.raises(trio.BrokenResourceError):
        stranger.check()
    del stranger
    raw = RawReceivePort()
    home = raw.send_port
    raw.close()
    with pytest.raises(trio.BrokenResourceError):
        async with open_isolate(entry, home, 100_000):
            pass
    del home, raw
    assert not what_is_left()
