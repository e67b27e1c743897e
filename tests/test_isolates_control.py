"""What the parent of an isolate can do with it: ping, pause, close, kill; and how an isolate ends itself."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import contract
import handlers
import isolate_handlers as work
import port_handlers
from contract import Entry, Gate, Kind, counting, each_way, serving, those_with
from fifo import Fifo, wait_gone, within
from trio_isolates import (
    IsolateDied,
    ReceivePort,
    exit_isolate,
    open_isolate,
    open_worker,
)

kind, fifo, gate = contract.kind, contract.fifo, contract.gate

waiting = each_way(port_handlers.wait_for_ever, port_handlers.wait_for_ever_async)


# Ping.


@pytest.mark.usefixtures("kind")
@within(20)
async def test_called_when_the_block_is_entered(fifo: Fifo) -> None:
    """In the block the entry has been called, so that a ping comes after that, and a close lets it begin."""
    for _ in range(20):
        async with open_isolate(handlers.tell_and_wait, fifo.path) as isolate:
            await isolate.ping()
            await isolate.aclose()
        assert await fifo.line()


@serving
@within(20)
async def test_ping(kind: Kind, entry: Entry) -> None:
    """A ping is answered when the isolate has taken what was sent before it."""
    async with port_handlers.serving(entry) as server:
        await server.isolate.ping()
        there = await server.ask(port_handlers.open_port)
        for number in range(10):
            await there.send(number)
        await server.isolate.ping()
        assert await server.ask(port_handlers.receive_kept, 10) == list(range(10))
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(server.isolate.ping)


@each_way(work.wait_for_the_test, work.wait_for_the_test_async)
@within(20)
async def test_a_ping_waits_for_code_that_blocks(kind: Kind, entry: Entry, gate: Gate) -> None:
    """An isolate whose sync entry is busy answers when it next takes messages; one that has Trio, at once."""
    async with port_handlers.begun(entry, gate.path) as (isolate, _):
        if entry is work.wait_for_the_test_async:
            await isolate.ping()
            gate.let_pass()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(isolate.ping)
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            gate.let_pass()


@counting
@within(20)
async def test_a_ping_after_the_end(kind: Kind, entry: Entry) -> None:
    """An isolate that has ended does not answer, and says so."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, 0) as isolate:
        await isolate.wait()
        with pytest.raises(trio.ClosedResourceError, match="has ended"):
            await isolate.ping()
    with pytest.raises(trio.ClosedResourceError, match="has ended"):
        await isolate.ping()


# Kill.


@waiting
@within(20)
async def test_kill_while_it_waits(kind: Kind, entry: Entry) -> None:
    """A killed isolate is gone; `wait` says how, again and again, and leaving the block raises nothing."""
    async with port_handlers.begun(entry) as (isolate, _):
        isolate.kill()
        isolate.kill()
        for _ in range(2):
            with pytest.raises(IsolateDied) as caught:
                await isolate.wait()
            assert caught.value.signal == "SIGKILL"
            assert caught.value.pid == isolate.pid
    assert not isolate.statistics().is_running


@those_with("blocks")
@within(20)
async def test_kill_in_a_loop(kind: Kind) -> None:
    """An isolate that never looks up is killed as quickly; nobody has to wait for it."""
    async with port_handlers.begun(port_handlers.spin, shutdown_grace=1000) as (isolate, _):
        assert isolate.pid is not None
        isolate.kill()
        await wait_gone(isolate.pid)


@waiting
@within(20)
async def test_kill_before_the_first_checkpoint(kind: Kind, entry: Entry) -> None:
    """An isolate that is killed as soon as it is there never runs, or is stopped; nothing is raised."""
    port: ReceivePort[Any] = ReceivePort()
    for paused in (False, True):
        async with open_isolate(entry, port.send_port, paused=paused) as isolate:
            isolate.kill()
            if paused:
                with pytest.raises(IsolateDied):
                    await isolate.wait()


@waiting
@within(20)
async def test_kill_with_a_ping_under_way(kind: Kind, entry: Entry) -> None:
    """A ping that was sent before the isolate was killed returns or raises `IsolateDied`; it never hangs."""
    async with port_handlers.begun(entry) as (isolate, _):
        ended = 0

        async def ping() -> None:
            nonlocal ended
            with suppress(IsolateDied):
                await isolate.ping()
            ended += 1

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ping)
            await trio.testing.wait_all_tasks_blocked(0)
            isolate.kill()
        assert ended == 5


@those_with("blocks")
@within(20)
async def test_kill_with_a_ping_that_cannot_be_answered(kind: Kind) -> None:
    """A ping to an isolate that never looks up raises `IsolateDied` when it is killed."""
    async with port_handlers.begun(port_handlers.spin) as (isolate, _), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ping() -> None:
            with pytest.raises(IsolateDied):
                await isolate.ping()

        await trio.testing.wait_all_tasks_blocked()
        isolate.kill()


@waiting
@within(20)
async def test_kill_while_somebody_waits(kind: Kind, entry: Entry) -> None:
    """`wait` that is under way raises `IsolateDied` when the isolate is killed."""
    async with port_handlers.begun(entry) as (isolate, _), trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(IsolateDied):
                await isolate.wait()

        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        isolate.kill()


@those_with("own process")
@pytest.mark.parametrize("entry", [port_handlers.wait_for_ever, port_handlers.wait_for_ever_async])
@within(20)
async def test_a_death_that_nobody_asked_for(kind: Kind, entry: Entry) -> None:
    """A death that nobody asked for leaves the body in peace; leaving the block raises `IsolateDied`."""
    port: ReceivePort[Any] = ReceivePort()
    left = False
    with pytest.raises(IsolateDied) as caught:
        async with open_isolate(entry, port.send_port, on_exit=port.send_port) as isolate:
            pid = await port.receive()
            os.kill(pid, signal.SIGTERM)
            assert await port.receive() is None
            await trio.lowlevel.checkpoint()
            left = True
    assert left
    assert (caught.value.signal, caught.value.pid) == ("SIGTERM", pid)
    async with open_isolate(entry, port.send_port) as isolate:
        os.kill(await port.receive(), signal.SIGKILL)
        with pytest.raises(IsolateDied):
            await isolate.wait()


@waiting
@within(20)
async def test_a_killed_isolate_and_a_failing_body(kind: Kind, entry: Entry) -> None:
    """When the body fails after it has killed its isolate, that is all that is heard."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(KeyError) as caught:
        async with open_isolate(entry, port.send_port) as isolate:
            await port.receive()
            isolate.kill()
            raise KeyError("the body")
    assert not hasattr(caught.value, "__notes__")


# Close.


@each_way(work.wait_in_receive, work.sleep)
@within(20)
async def test_close(kind: Kind, entry: Entry, tmp_path: Path) -> None:
    """`aclose` stops the entry, which may clean up, and returns when the isolate is gone; `wait` says so."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, tmp_path / "marker", on_exit=port.send_port) as isolate:
        assert await port.receive() == "begun"
        await isolate.aclose()
        assert (tmp_path / "marker").read_text() == "interrupted"
        assert port.receive_nowait() is None
        await isolate.aclose()
        with pytest.raises(trio.ClosedResourceError, match="closed"):
            await isolate.wait()


@each_way(work.refuse_to_stop, work.refuse_to_stop_async)
@within(20)
async def test_close_what_does_not_stop(kind: Kind, entry: Entry) -> None:
    """What has not ended `shutdown_grace` after `aclose` is killed; a cancelled `aclose` kills at once."""
    async with port_handlers.begun(entry, shutdown_grace=0.1) as (isolate, port):
        await isolate.aclose()
        assert not isolate.statistics().is_running
        with pytest.raises(trio.ClosedResourceError):
            await isolate.wait()
    async with open_isolate(entry, port.send_port, shutdown_grace=1000) as isolate:
        assert await port.receive() == "begun"
        with trio.CancelScope() as scope:
            scope.cancel()
            await isolate.aclose()
        assert not isolate.statistics().is_running


# Ending oneself.


@each_way(work.exit_with, work.exit_with_async)
@within(20)
async def test_exit(kind: Kind, entry: Entry) -> None:
    """`exit_isolate` ends an isolate well; its last message comes after all others, before the notice."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, on_exit=port.send_port) as isolate:
        assert [await port.receive() for _ in range(7)] == [0, 1, 2, 3, 4, "the last", None]
        assert await isolate.wait() is None
    narrow: ReceivePort[Any] = ReceivePort(5)
    async with open_isolate(entry, narrow.send_port):
        pass
    assert [narrow.receive_nowait() for _ in range(6)] == [0, 1, 2, 3, 4, "the last"]


@those_with("own process")
@pytest.mark.parametrize("entry", [work.exit_with, work.exit_with_async])
@within(20)
async def test_exit_cleans_nothing_up(kind: Kind, entry: Entry, tmp_path: Path) -> None:
    """`exit_isolate` runs no `finally`."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, tmp_path / "marker"):
        pass
    assert not (tmp_path / "marker").exists()


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("entry", [work.exit_quietly, work.exit_quietly_async])
@within(20)
async def test_exit_without_a_word(entry: Entry) -> None:
    """`exit_isolate` without a port just ends the isolate, well."""
    async with open_isolate(entry) as isolate:
        assert await isolate.wait() is None


@pytest.mark.usefixtures("kind")
@within(20)
async def test_exit_from_a_handler() -> None:
    """`exit_isolate` ends the isolate from a handler of a raw port, too."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(work.exit_from_handler, port.send_port) as isolate:
        assert await port.receive() == "from a handler"
        await isolate.wait()


@each_way(work.exit_unsendable, work.exit_unsendable_async)
@within(20)
async def test_exit_with_what_cannot_be_sent(kind: Kind, entry: Entry) -> None:
    """A last message that cannot be pickled is refused, and the isolate goes on."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port) as isolate:
        assert "send its send_port" in await isolate.wait()


@pytest.mark.parametrize("entry", [work.exit_with, work.exit_with_async])
@within(20)
async def test_exit_of_a_worker(kind: Kind, entry: Entry) -> None:
    """A worker that ends itself has died, with exit code 0, for the calls that it was serving."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_worker(entry) as worker:
        with pytest.raises(IsolateDied) as caught:
            await worker.call(port.send_port)
        assert caught.value.exitcode == 0
        assert [await port.receive() for _ in range(6)] == [0, 1, 2, 3, 4, "the last"]


async def test_exit_of_the_program() -> None:
    """The program itself is no isolate, and goes on."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(RuntimeError, match="this is the program itself"):
        exit_isolate(port.send_port, 1)
    assert port.statistics().buffered == 0


@those_with("own process")
@within(20)
async def test_a_death_is_not_hidden_by_a_cancellation(kind: Kind) -> None:
    """A body that waits for a dead isolate, and is cancelled: its death comes out of the block."""
    port: ReceivePort[Any] = ReceivePort()
    gone: ReceivePort[Any] = ReceivePort()
    caught: list[IsolateDied] = []

    async def wait(scope: trio.CancelScope) -> None:
        try:
            with scope:
                async with open_isolate(os.abort, on_exit=gone.send_port):
                    await port.receive()
        except IsolateDied as exc:
            caught.append(exc)

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, scope)
        await gone.receive()
        scope.cancel()
    assert [exc.signal for exc in caught] == ["SIGABRT"]
