"""Pausing bare isolates: messages and calls are held back, what runs goes on, and nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import contract
import isolate_handlers as work
import port_handlers
from contract import Entry, Gate, Kind, counting, each_way, serving
from fifo import within
from trio_isolates import Capability, IsolateDied, ReceivePort, open_isolate

kind, gate = contract.kind, contract.gate


@serving
@within(20)
async def test_messages_are_held_back(kind: Kind, entry: Entry) -> None:
    """A paused isolate receives nothing, and answers pings; when it goes on, all is there, in order."""
    async with port_handlers.serving(entry) as server:
        token = server.isolate.pause()
        for number in range(20):
            await server.there.send(number)
        await server.isolate.ping()
        assert server.home.statistics().buffered == 0
        server.isolate.resume(token)
        assert [await server.home.receive() for _ in range(20)] == list(range(20))


@serving
@within(20)
async def test_tokens_are_counted(kind: Kind, entry: Entry) -> None:
    """An isolate goes on when each token that has paused it was given back, in any order."""
    async with port_handlers.serving(entry) as server:
        isolate = server.isolate
        tokens = [isolate.pause() for _ in range(3)]
        assert len(set(tokens)) == isolate.statistics().pauses == 3
        await server.there.send("held back")
        for left, token in enumerate((tokens[1], tokens[0], tokens[2])):
            await isolate.ping()
            assert server.home.statistics().buffered == 0
            assert isolate.statistics().pauses == 3 - left
            isolate.resume(token)
        assert await server.home.receive() == "held back"
        assert isolate.statistics().pauses == 0


@serving
@within(20)
async def test_wrong_tokens(kind: Kind, entry: Entry) -> None:
    """A token that does not pause this isolate has no effect, nor has one that was given back before."""
    async with port_handlers.serving(entry) as server, port_handlers.serving(entry) as other:
        used = server.isolate.pause()
        server.isolate.resume(used)
        token = server.isolate.pause()
        await server.there.send("held back")
        for wrong in (Capability(), used, other.isolate.pause(Capability())):
            server.isolate.resume(wrong)
            other.isolate.resume(wrong)
        await server.isolate.ping()
        assert server.home.statistics().buffered == 0
        server.isolate.resume(token)
        assert await server.home.receive() == "held back"
        assert await other.echo("fine") == "fine"
    with pytest.raises(TypeError, match="not 1"):
        server.isolate.resume(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give a Capability"):
        server.isolate.pause("token")  # type: ignore[arg-type]


@serving
@within(20)
async def test_the_same_token_twice(kind: Kind, entry: Entry) -> None:
    """To pause twice with one token counts once; it can pause several isolates, each by itself."""
    token = Capability()
    async with port_handlers.serving(entry) as server, port_handlers.serving(entry) as other:
        assert server.isolate.pause(token) is token
        server.isolate.pause(token)
        other.isolate.pause(token)
        assert server.isolate.statistics().pauses == 1
        await server.there.send("goes on")
        await other.there.send("does not")
        server.isolate.resume(token)
        assert await server.home.receive() == "goes on"
        await other.isolate.ping()
        assert other.home.statistics().buffered == 0
        other.isolate.resume(token)
        assert await other.home.receive() == "does not"


@serving
@within(20)
async def test_a_token_that_has_travelled(kind: Kind, entry: Entry) -> None:
    """A token that comes back from another isolate resumes as the original does."""
    async with port_handlers.serving(entry) as server, port_handlers.serving(entry) as other:
        token = await other.echo(server.isolate.pause())
        await server.there.send("held back")
        server.isolate.resume(token)
        assert await server.home.receive() == "held back"


@counting
@within(20)
async def test_opened_paused(kind: Kind, entry: Entry) -> None:
    """An isolate that is opened paused does not begin before it is resumed; until then it answers pings."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, 3, paused=True) as isolate:
        assert isolate.pause_token is not None
        assert isolate.statistics().pauses == 1
        await isolate.ping()
        await isolate.ping()
        assert port.statistics().buffered == 0
        isolate.resume(isolate.pause_token)
        assert [await port.receive() for _ in range(3)] == [0, 1, 2]
    async with open_isolate(entry, port.send_port, 0) as isolate:
        assert isolate.pause_token is None


@each_way(work.listen_and_wait, work.listen_and_wait_async)
@within(20)
async def test_handlers_are_paused(kind: Kind, entry: Entry) -> None:
    """The handlers of raw ports are not called while the isolate is paused."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port) as isolate:
        there = await port.receive()
        token = isolate.pause()
        await there.send(2)
        await isolate.ping()
        assert port.statistics().buffered == 0
        isolate.resume(token)
        assert await port.receive() == 2
        await isolate.aclose()


@each_way(work.wait_for_the_test, work.wait_for_the_test_async)
@within(20)
async def test_what_runs_goes_on(kind: Kind, entry: Entry, gate: Gate) -> None:
    """Code that runs goes on while its isolate is paused, and may send, and end."""
    async with port_handlers.begun(entry, gate.path) as (isolate, _):
        isolate.pause()
        gate.let_pass()
        assert await isolate.wait() == "let pass"
    isolate.pause()  # which does nothing any more
    isolate.resume(isolate.pause())


@counting
@within(20)
async def test_a_paused_isolate_may_send(kind: Kind, entry: Entry) -> None:
    """What holds messages back holds no places back: a paused isolate's own messages flow."""
    port: ReceivePort[Any] = ReceivePort(2)
    async with open_isolate(entry, port.send_port, 100) as isolate:
        assert await port.receive() == 0
        isolate.pause()
        await isolate.ping()
        assert [await port.receive() for _ in range(99)] == list(range(1, 100))


@serving
@within(20)
async def test_a_paused_port_fills_up(kind: Kind, entry: Entry) -> None:
    """Who sends to a paused isolate has the places of its port, and then waits until it goes on."""
    async with port_handlers.serving(entry) as server, trio.open_nursery() as nursery:
        there = await server.ask(port_handlers.open_port, 3)
        token = server.isolate.pause()
        for number in range(3):
            there.send_nowait(number)
        with pytest.raises(trio.WouldBlock):
            there.send_nowait(3)
        nursery.start_soon(there.send, 3)
        await server.isolate.ping()
        server.isolate.resume(token)
        assert await server.ask(port_handlers.receive_kept, 3) == [0, 1, 2]


@serving
@within(20)
async def test_kill_while_it_is_paused(kind: Kind, entry: Entry) -> None:
    """A paused isolate can be killed: before its entry was called, and in the middle of it."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, paused=True) as isolate:
        await isolate.ping()
        isolate.kill()
        with pytest.raises(IsolateDied):
            await isolate.wait()
    async with open_isolate(entry, port.send_port) as isolate:
        await port.receive()
        isolate.pause()
        await isolate.ping()
        isolate.kill()
        with pytest.raises(IsolateDied):
            await isolate.wait()


@each_way(work.wait_in_receive, work.sleep)
@within(20)
async def test_close_while_it_is_paused(kind: Kind, entry: Entry, tmp_path: Path) -> None:
    """A paused isolate can be closed: an entry that has not begun never does, one that has is stopped."""
    port: ReceivePort[Any] = ReceivePort()
    marker = tmp_path / "marker"
    async with open_isolate(entry, port.send_port, marker, paused=True, shutdown_grace=1000) as isolate:
        await isolate.ping()
        await isolate.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await isolate.wait()
    assert port.statistics().buffered == 0
    async with open_isolate(entry, port.send_port, marker, shutdown_grace=1000) as isolate:
        assert await port.receive() == "begun"
        isolate.pause()
        await isolate.ping()
        await isolate.aclose()
    assert marker.read_text() == "interrupted"


@counting
@within(20)
async def test_a_body_that_fails_while_it_is_paused(kind: Kind, entry: Entry) -> None:
    """A block that is left by an exception does not wait for who is paused."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(KeyError):
        async with open_isolate(entry, port.send_port, 3, paused=True, shutdown_grace=1000):
            raise KeyError
    assert port.statistics().buffered == 0
