"""Send ports as values: equal, hashable, to be passed on anywhere; and who may have a receive port."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import trio

import contract
import port_handlers as work
from contract import Entry, Kind, serving
from fifo import within
from trio_isolates import RawReceivePort, ReceivePort, SendPort, UnsendableError, open_worker

kind = contract.kind


def make_error(port: SendPort[Any]) -> work.PortError:
    return work.PortError(port)


# Equality.


@pytest.mark.usefixtures("kind")
@within(20)
async def test_equality() -> None:
    """Two send ports are equal, with the same hash, exactly if they lead to the same receive port."""
    one: ReceivePort[Any] = ReceivePort()
    other: ReceivePort[Any] = ReceivePort()
    assert one.send_port == one.send_port
    assert one.send_port is not one.send_port
    assert hash(one.send_port) == hash(one.send_port)
    assert one.send_port != other.send_port
    assert len({one.send_port, other.send_port, one.send_port}) == 2
    assert one.send_port != "a port"
    assert copy.copy(one.send_port) == one.send_port == copy.deepcopy(one.send_port)
    assert pickle.loads(pickle.dumps(one.send_port)) == one.send_port


@serving
@within(20)
async def test_equality_after_a_journey(kind: Kind, entry: Entry) -> None:
    """A port that has been in another isolate is equal to the one at home, with its hash, there and here."""
    port: ReceivePort[Any] = ReceivePort()
    async with work.serving(entry) as server:
        home = port.send_port
        await server.ask(work.keep, home)
        assert await server.ask(work.knows, home)
        other: ReceivePort[Any] = ReceivePort()
        assert not await server.ask(work.knows, other.send_port)
        back = await server.echo({home: "this"})
        assert back[home] == "this"
        assert await server.echo(await server.echo(home)) == home


@serving
@within(20)
async def test_equality_of_a_childs_ports(kind: Kind, entry: Entry) -> None:
    """Ports of an isolate are told apart at home, and from those of another isolate."""
    async with work.serving(entry) as one, work.serving(entry) as other:
        first, second = await one.ask(work.open_port), await one.ask(work.open_port)
        third = await other.ask(work.open_port)
        assert len({one.there, first, second, other.there, third, first}) == 5
        assert await one.echo(first) == first
        assert await other.echo(first) == first
        assert await other.echo([third, first]) == [third, first]


@serving
@within(20)
async def test_equality_after_closing(kind: Kind, entry: Entry) -> None:
    """A closed port's send ports stay equal and hashable, also those that arrive afterwards."""
    port: ReceivePort[Any] = ReceivePort()
    home = port.send_port
    async with work.serving(entry) as server:
        await server.ask(work.keep, home)
        port.close()
        assert port.send_port == home
        assert await server.ask(work.knows, home)
        assert await server.echo(home) == home


@serving
@within(20)
async def test_equality_after_the_owners_end(kind: Kind, entry: Entry) -> None:
    """The send ports of an isolate that is gone are still values, which can be sent and compared."""
    async with work.serving(entry) as gone:
        there = gone.there
    async with work.serving(entry) as server:
        assert await server.echo(there) == there
        await server.ask(work.keep, there)
        assert await server.ask(work.knows, there)
        with pytest.raises(trio.BrokenResourceError):
            await there.send("late")


@pytest.mark.usefixtures("kind")
@within(20)
async def test_text() -> None:
    """Ports say whose they are, and how full."""
    port: ReceivePort[Any] = ReceivePort()
    assert repr(port.send_port).startswith("<trio_isolates.SendPort main:")
    await port.send_port.send(1)
    assert repr(port).endswith("buffered=1>")
    port.close()
    assert repr(port).endswith("closed>")


# Passing on.


@serving
@within(20)
async def test_the_isolate_passes_it_on(kind: Kind, entry: Entry) -> None:
    """A port that one isolate got can be sent on to another, which sends home by it."""
    port: ReceivePort[Any] = ReceivePort()
    async with work.serving(entry) as one, work.serving(entry) as other:
        passed = await one.echo(port.send_port)
        await other.ask(work.send_on, passed, "by the second")
        assert await port.receive() == "by the second"


@serving
@within(20)
async def test_from_sibling_to_sibling(kind: Kind, entry: Entry) -> None:
    """A port passes through a third isolate, which never sees its messages."""
    async with work.serving(entry) as one, work.serving(entry) as other, work.serving(entry) as third:
        there = await one.ask(work.open_port)
        await other.ask(work.send_on, third.there, {"a port": there})
        assert await third.home.receive() == {"a port": there}
        await third.ask(work.send_on, there, 1, 2, 3)
        assert await poll(one, 3) == [1, 2, 3]


async def poll(server: work.Server, count: int) -> list[Any]:
    """Return so many messages of the port that the isolate keeps, when they are there."""
    while (await server.ask(work.statistics_of_kept)).buffered < count:
        await trio.lowlevel.checkpoint()
    messages: list[Any] = await server.ask(work.receive_kept, count)
    return messages


@serving
@within(20)
async def test_at_any_depth(kind: Kind, entry: Entry) -> None:
    """A port may stand anywhere in a message: as a key, in a set, in an object, a closure, a default."""
    port: ReceivePort[Any] = ReceivePort()
    home = port.send_port
    node: Any = work.ring("a")
    node.port = home

    def closure(text: str, by: SendPort[Any] = home) -> None:
        by.send_nowait(text)
        home.send_nowait(text)

    async with work.serving(entry) as server:
        back = await server.echo([{home: {"deep": [(home,), {home}, frozenset({home})]}}, node])
        assert back[0][home]["deep"] == [(home,), {home}, frozenset({home})]
        assert back[1].port == home
        await server.ask(closure, "x")
        assert [await port.receive(), await port.receive()] == ["x", "x"]


@pytest.mark.parametrize("handler", [work.answer, work.serve_async], ids=["sync", "async"])
@pytest.mark.usefixtures("kind")
@within(20)
async def test_in_calls_of_a_worker(handler: Entry) -> None:
    """A port goes with the arguments of a worker's call and comes back with its result."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_worker() if handler is work.serve_async else open_worker(work.answer) as worker:
        assert await worker.run(work.answer, {"deep": [port.send_port]}) == {"deep": [port.send_port]}
        await worker.run(work.send_on, port.send_port, 1, 2)
        assert [await port.receive(), await port.receive()] == [1, 2]
        there = await worker.run(work.open_port)
        await there.send("to the worker")
        assert await worker.run(work.receive_kept, 1) == ["to the worker"]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_in_an_exceptions_arguments() -> None:
    """A port among an exception's arguments arrives with it, at any depth, and works."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_worker() as worker:
        with pytest.raises(work.PortError) as caught:
            await worker.run(work.raise_port, port.send_port)
        assert caught.value.args == ("sent", port.send_port)
        await caught.value.args[1].send("x")
        assert await port.receive() == "x"
        with pytest.raises(work.PortError) as caught:
            await worker.run(work.raise_port_in, port.send_port)
        assert caught.value.args == ({"deep": [port.send_port]},)
        error = await worker.run(make_error, port.send_port)
        assert error.args == (port.send_port,)


@serving
@within(20)
async def test_many_round_trips(kind: Kind, entry: Entry) -> None:
    """However often a port went round, messages by it arrive once."""
    port: ReceivePort[Any] = ReceivePort()
    passed = port.send_port
    async with work.serving(entry) as one, work.serving(entry) as other:
        for _ in range(20):
            passed = await other.echo(await one.echo(passed))
        await passed.send("once")
        await one.ask(work.send_on, passed, "twice")
        assert [await port.receive(), await port.receive()] == ["once", "twice"]
        assert port.statistics().buffered == 0


# Receive ports stay.


@serving
@within(20)
async def test_a_receive_port_stays(kind: Kind, entry: Entry) -> None:
    """A ReceivePort and a RawReceivePort cannot be sent, and say what can be instead."""
    async with work.serving(entry) as server:
        for port in (ReceivePort[Any](), RawReceivePort()):
            with pytest.raises(UnsendableError, match="send its send_port") as caught:
                await server.there.send((1, port))
            assert caught.value.path == "message[1]"
        with pytest.raises(UnsendableError, match="stays with the block that opened it"):
            await server.there.send(server.isolate)


@pytest.mark.parametrize("size", [0, -1, 1 << 21])
async def test_sizes(size: int) -> None:
    """A port holds at least one message of each sender; a bound is a bound, not infinity."""
    with pytest.raises(ValueError, match="max_buffer_size must be from 1"):
        ReceivePort(size)
    with pytest.raises(TypeError, match="max_buffer_size must be an int"):
        ReceivePort(float(size))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="max_buffer_size must be an int"):
        ReceivePort(True)


def test_outside_of_trio() -> None:
    """A port needs a Trio program, or an isolate; elsewhere it says so."""
    with pytest.raises(RuntimeError, match="ports work in a Trio program and in isolates"):
        ReceivePort()


async def test_no_blocking_where_there_is_trio() -> None:
    """What blocks is refused where it would block Trio's loop."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(RuntimeError, match="would block Trio's loop"):
        port.receive_sync()
    with pytest.raises(RuntimeError, match="would block Trio's loop"):
        port.send_port.send_sync(1)
    with pytest.raises(RuntimeError, match="would block Trio's loop"):
        next(iter(port))
