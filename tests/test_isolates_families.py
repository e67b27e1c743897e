"""Isolates of isolates, siblings that talk with each other, and isolates that run as tasks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import contract
import family_handlers as work
import isolate_handlers
import port_handlers
from contract import Entry, Kind, each_way, those_with
from fifo import Fifo, wait_gone, within
from trio_isolates import IsolateDied, ReceivePort, SendPort, open_isolate, run_isolate

kind, fifo = contract.kind, contract.fifo

ROUNDS = 40

PAIRS = pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(work.play, work.play, id="sync-sync"),
        pytest.param(work.play, work.play_async, id="sync-async"),
        pytest.param(work.play_async, work.play, id="async-sync"),
        pytest.param(work.play_async, work.play_async, id="async-async"),
    ],
)


SENDERS = pytest.mark.parametrize("sender", [work.send_to, work.send_to_async])


def skip_what_blocks(kind: Kind, *entries: Entry) -> None:
    """Skip the test where one of its sync entries would block the only thread."""
    if "blocks" in kind.cannot and {work.play, work.send_to} & {*entries}:
        pytest.skip(kind.cannot["blocks"])


# As a task.


@each_way(isolate_handlers.send_args, isolate_handlers.send_args_async)
@within(20)
async def test_run_isolate(kind: Kind, entry: Entry) -> None:
    """`run_isolate` returns what the entry returns; a nursery can start it, and gets the isolate."""
    port: ReceivePort[Any] = ReceivePort()
    assert await run_isolate(entry, port.send_port, 1) == (1,)
    async with trio.open_nursery() as nursery:
        start = partial(run_isolate, name="task", paused=True)
        isolate = await nursery.start(start, entry, port.send_port, 2)
        assert isolate.name == "task"
        assert port.receive_nowait() == (1,)
        isolate.resume(isolate.pause_token)
        assert await port.receive() == (2,)
        assert await isolate.wait() == (2,)


@each_way(isolate_handlers.fail, isolate_handlers.fail_async)
@within(20)
async def test_run_isolate_fails(kind: Kind, entry: Entry) -> None:
    """What the entry raises comes out of `run_isolate`, and cancels the nursery that has started it."""
    with pytest.raises(ZeroDivisionError, match="alone"):
        await run_isolate(entry, "alone")
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(run_isolate, entry, "with others")
            await trio.sleep_forever()
    assert [str(error) for error in caught.value.exceptions] == ["with others"]


@each_way(isolate_handlers.wait_in_receive, isolate_handlers.sleep)
@within(20)
async def test_run_isolate_is_cancelled(kind: Kind, entry: Entry, tmp_path: Any) -> None:
    """A cancelled nursery stops its isolates, and they may clean up."""
    port: ReceivePort[Any] = ReceivePort()
    async with trio.open_nursery() as nursery:
        isolate = await nursery.start(run_isolate, entry, port.send_port, tmp_path / "marker")
        assert await port.receive() == "begun"
        nursery.cancel_scope.cancel()
    assert not isolate.statistics().is_running
    assert (tmp_path / "marker").exists()


# Generations.


@each_way(port_handlers.serve, port_handlers.serve_async)
@pytest.mark.parametrize("depth", [0, 1])
@within(40)
async def test_messages_between_generations(kind: Kind, entry: Entry, depth: int) -> None:
    """Ports reach through generations of isolates, both ways, with messages of any size, in order."""
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(work.nest, home.send_port, depth, entry):
        there = await home.receive()
        big = b"x" * 3_000_000
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for number in range(300):
                    await there.send(number)
                await there.send(big)

            nursery.start_soon(send)
            assert [await home.receive() for _ in range(300)] == list(range(300))
            assert await home.receive() == big
        ring = port_handlers.ring("a", "b")
        await there.send(port_handlers.Ask(port_handlers.walk, ring))
        assert await home.receive() == "abb"
        await there.send("stop")


@pytest.mark.usefixtures("kind")
@within(40)
async def test_a_grandchild_dies() -> None:
    """A port of a grandchild's is broken when that is killed, though nobody here has killed it."""
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(work.kill_the_innermost, home.send_port):
        child, grandchild = await home.receive()
        await grandchild.send(port_handlers.Ask(port_handlers.open_port, 1))
        # The answer went to the child, whose port the grandchild was given; what follows fills its port.
        await child.send("now")
        assert await home.receive() == "killed"
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await grandchild.send("into the blue")
        await child.send("done")


@those_with("own process")
@within(40)
async def test_the_tree_ends_with_its_block(kind: Kind, fifo: Fifo) -> None:
    """When a block is left, the isolates of its isolates are gone, whether it is killed or stopped."""
    for is_killed in (False, True):
        with trio.CancelScope() as scope:
            async with open_isolate(work.nest_and_tell, fifo.path, 2) as isolate:
                pids = [int(await fifo.line()) for _ in range(3)]
                assert pids[0] == isolate.pid
                if is_killed:
                    isolate.kill()
                else:
                    scope.cancel()
        for pid in pids:
            await wait_gone(pid)


# Siblings.


@PAIRS
@pytest.mark.usefixtures("kind")
@within(40)
async def test_siblings_play(kind: Kind, one: Entry, other: Entry) -> None:
    """Siblings send to each other, with ports that travel in their messages; the parent hears nothing."""
    skip_what_blocks(kind, one, other)
    home: ReceivePort[Any] = ReceivePort()
    async with (
        open_isolate(one, home.send_port, ROUNDS) as first,
        open_isolate(other, home.send_port, ROUNDS) as second,
    ):
        left, right = await home.receive(), await home.receive()
        await left.send((right, 1))
        assert await first.wait() + await second.wait() == ROUNDS
    assert home.statistics().buffered == 0


@each_way(work.add_up, work.add_up_async)
@SENDERS
@within(40)
async def test_siblings_keep_order(kind: Kind, entry: Entry, sender: Entry) -> None:
    """Messages from sibling to sibling arrive in order, through a port far smaller than their number."""
    skip_what_blocks(kind, sender)
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, home.send_port, 500) as isolate:
        there = await home.receive()
        async with open_isolate(sender, there, 500, home.send_port):
            assert await home.receive() == "sent"
        assert await isolate.wait() == sum(number * (number + 1) for number in range(500))


@each_way(work.stay, work.stay_async)
@SENDERS
@within(40)
async def test_a_sibling_dies(kind: Kind, entry: Entry, sender: Entry) -> None:
    """One that waits for a place at a sibling's port is woken by `BrokenResourceError` when that dies."""
    skip_what_blocks(kind, sender)
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, home.send_port) as isolate:
        there = await home.receive()
        async with open_isolate(sender, there, 3, home.send_port) as other:
            await other.ping()
            isolate.kill()
            with pytest.raises(IsolateDied):
                await isolate.wait()
            assert await home.receive() == "broken"


@each_way(work.stay, work.stay_async)
@SENDERS
@within(40)
async def test_a_sibling_that_was_dead_before(kind: Kind, entry: Entry, sender: Entry) -> None:
    """Sending to a sibling that has long been gone is broken, and no hang, for one who never knew it."""
    skip_what_blocks(kind, sender)
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, home.send_port) as isolate:
        there = await home.receive()
        isolate.kill()
    async with open_isolate(sender, there, 1_000_000, home.send_port):
        assert await home.receive() == "broken"


@pytest.mark.usefixtures("kind")
@within(40)
async def test_a_sender_dies() -> None:
    """A sibling's death takes nothing from the others: a third one is heard by the same port."""
    home: ReceivePort[Any] = ReceivePort()
    async with port_handlers.serving(port_handlers.serve_async) as server:
        there: SendPort[Any] = await server.ask(port_handlers.open_port, 10)
        for tag in range(3):
            async with open_isolate(work.send_to_async, there, 10, home.send_port) as isolate:
                assert await home.receive() == "sent"
                isolate.kill()
            while (await server.ask(port_handlers.statistics_of_kept)).buffered < 10:
                await trio.lowlevel.checkpoint()
            assert await server.ask(port_handlers.receive_kept, 10) == list(range(10)), tag


@each_way(port_handlers.serve, port_handlers.serve_async)
@within(60)
async def test_all_with_all(kind: Kind, entry: Entry) -> None:
    """Each of several siblings sends to each: all that was sent arrives, once."""
    count = 4
    async with (
        port_handlers.serving(entry) as a,
        port_handlers.serving(entry) as b,
        port_handlers.serving(entry) as c,
        port_handlers.serving(entry) as d,
    ):
        servers = (a, b, c, d)
        ports = [await server.ask(port_handlers.open_port) for server in servers]
        for tag, server in enumerate(servers):
            for port in ports:
                await server.ask(port_handlers.send_on, port, tag, tag)
        for server in servers:
            while (await server.ask(port_handlers.statistics_of_kept)).buffered < 2 * count:
                await trio.lowlevel.checkpoint()
            assert sorted(await server.ask(port_handlers.receive_kept, 2 * count)) == [0, 0, 1, 1, 2, 2, 3, 3]
