"""The lives of actors: what runs side by side, cancellation, deaths, entry and exit, and the main program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import actor_handlers as work
import contract
from contract import Gate, Kind, cancel_when_begun, those_with
from fifo import Fifo, within
from programs import running
from trio_isolates import (
    IsolateDied,
    IsolateSpawnError,
    Restart,
    RestartLimitExceeded,
    actor_worker,
    open_actor,
)

kind, fifo, gate = contract.kind, contract.fifo, contract.gate

# As somebody would use it who has no type checker: sync methods are awaited.
open_any: Callable[..., Any] = open_actor

each_class = pytest.mark.parametrize("cls", [work.Counter, work.AsyncCounter])


# Side by side, and one at a time.


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("concurrency", [None, 2, 1])
@within(20)
async def test_async_methods_side_by_side(concurrency: int | None, fifo: Fifo, gate: Gate) -> None:
    """Async methods run side by side, as many as `concurrency` says."""
    most: list[int] = []

    async def take_part() -> None:
        most.append(await actor.take_part(fifo.path, gate.path))

    async with (
        open_any(work.AsyncCounter, concurrency=concurrency) as actor,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(take_part)
        for _ in range(concurrency or 3):
            assert await fifo.line() == "begun"
        gate.let_pass(3)
    assert max(most) == (concurrency or 3)


@each_class
@pytest.mark.usefixtures("kind")
@within(20)
async def test_order(cls: Any) -> None:
    """Sync methods are called one at a time, in the order in which that was asked for; on Trio if it is one
    call at a time there, too."""
    made: list[int] = []
    sums: dict[int, int] = {}

    async def add(number: int) -> None:
        made.append(number)
        sums[number] = await actor.add(number)

    options = {"concurrency": 1} if cls is work.AsyncCounter else {}
    async with open_any(cls, **options) as actor:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(add, number)
        assert [sums[number] for number in made] == [sum(made[: place + 1]) for place in range(20)]


# Cancellation.


@those_with("interrupts sync code")
@each_class
@within(20)
async def test_a_sync_method_is_interrupted(kind: Kind, cls: Any, fifo: Fifo) -> None:
    """A cancelled sync method is interrupted in the middle, on either loop; the object lives on as it is."""
    async with open_any(cls) as actor:
        pid = actor_worker(actor).pid
        assert await cancel_when_begun(fifo, actor.tell_and_spin, fifo.path) is None
        assert await actor.get() == 11
        assert actor_worker(actor).pid == pid


@those_with("interrupts sync code")
@each_class
@within(20)
async def test_a_sync_stream_is_interrupted(kind: Kind, cls: Any, fifo: Fifo) -> None:
    """So is a generator in the middle of an item."""

    async def consume() -> None:
        async with actor.tell_and_yield(fifo.path) as items:
            await items.receive()

    async with open_any(cls, cancel_grace=30) as actor:
        assert await cancel_when_begun(fifo, consume) is None
        assert await actor.get() == 111


@pytest.mark.usefixtures("kind")
@within(20)
async def test_an_async_method_is_cancelled(fifo: Fifo) -> None:
    """A cancelled async method is cancelled where it waits; the object lives on."""
    async with open_any(work.AsyncCounter) as actor:
        assert await cancel_when_begun(fifo, actor.tell_and_wait, fifo.path) is None
        assert await actor.get() == 11


@those_with("own process")
@within(20)
async def test_what_cannot_be_cancelled(kind: Kind, fifo: Fifo) -> None:
    """A method that does not end costs the object its state: it is made again, from its arguments."""
    async with open_any(work.AsyncCounter, 5, cancel_grace=0.01) as actor:
        await actor.add(1)
        assert await cancel_when_begun(fifo, actor.refuse_to_be_cancelled, fifo.path) is None
        assert await actor.get() == 5
        assert actor_worker(actor).statistics().replaced == 1


@those_with("own process")
@within(20)
async def test_killed_when_cancelled(kind: Kind, fifo: Fifo) -> None:
    """With `on_cancel="kill"` no object is ever left half-changed."""
    async with open_any(work.Counter, 5, on_cancel="kill") as actor:
        assert await cancel_when_begun(fifo, actor.tell_and_spin, fifo.path) is None
        assert await actor.get() == 5


# Deaths.


@those_with("own process")
@within(20)
async def test_a_death_is_the_end(kind: Kind) -> None:
    """Without `restart`, an actor that has died is gone."""
    async with open_any(work.Counter, 5) as actor:
        for _ in range(2):
            with pytest.raises(IsolateDied):
                await actor.die()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_restart(kind: Kind, tmp_path: Path) -> None:
    """With `restart` it is made again from its arguments, and knows nothing of what was before."""
    async with open_any(work.Restarted, tmp_path, 9, restart=Restart(min_backoff=0)) as actor:
        for number in range(3):
            assert await actor.get() == number
            pid = actor_worker(actor).pid
            kind.kill(actor_worker(actor))
            await contract.wait_until_noticed(actor_worker(actor), pid)
        assert await actor.get() == 3
        assert actor_worker(actor).statistics().restarted == 3


@pytest.mark.usefixtures("kind")
@within(20)
async def test_restart_gives_up(kind: Kind, tmp_path: Path) -> None:
    """An object that cannot be made again is a failed start, which counts as any other."""
    policy = Restart(max_restarts=2, min_backoff=0)
    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_any(work.Restarted, tmp_path, 1, restart=policy) as actor:
            kind.kill(actor_worker(actor))
            await trio.sleep_forever()
    died, *failed = caught.value.causes
    assert isinstance(died, IsolateDied)
    assert [type(cause.__cause__) for cause in failed] == [work.CustomError] * 2


# Context managers.


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("cls", [work.Managed, work.AsyncManaged])
@within(20)
async def test_a_context_manager(cls: Any, fifo: Fifo) -> None:
    """It is entered when it has been made, and exited when the block is left, by an exception or not."""
    how = " async" if cls is work.AsyncManaged else ""
    for error in (None, KeyError("the body")):
        with pytest.raises(KeyError) if error else trio.CancelScope():
            async with open_any(cls, fifo.path) as actor:
                assert [await fifo.line() for _ in range(2)] == ["made", f"entered{how}"]
                assert await actor.say("hello") == await fifo.line() == "hello"
                if error:
                    raise error
        assert await fifo.line() == f"exited{how} (None, None, None)"


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("cls", [work.Managed, work.AsyncManaged])
@within(20)
async def test_a_context_manager_that_fails(cls: Any, fifo: Fifo) -> None:
    """If it cannot be entered it is not there; what it raises at its exit comes out of the block."""
    with pytest.raises(IsolateSpawnError) as caught:
        async with open_any(cls, fifo.path, "entered"):
            raise AssertionError
    assert type(caught.value.__cause__) is work.CustomError
    with pytest.raises(work.CustomError, match="exited"):
        async with open_any(cls, fifo.path, "exited"):
            pass


@pytest.mark.usefixtures("kind")
@within(20)
async def test_the_loop_of_an_async_manager() -> None:
    """An object whose methods are sync lives on Trio, if it is entered there."""
    async with open_any(work.Connection) as connection:
        assert await connection.get() == "from its task"


# The main program.


@within(30)
async def test_a_class_of_a_script(tmp_path: Path) -> None:
    """A class of an unguarded script, or of a notebook, keeps its identity, and so do its errors."""
    script = """
        import trio
        from trio_isolates import Restart, open_actor

        class MyError(Exception):
            pass

        class Point:
            def __init__(self, x):
                self.x = x

        class Account:
            opened = 0

            def __init__(self, amount):
                Account.opened += 1
                self.amount = amount

            def take(self, amount):
                if amount > self.amount:
                    raise MyError(self.amount)
                self.amount -= amount
                return Point(self.amount)

            def coins(self):
                for _ in range(self.amount):
                    yield Point(1)

        class AsyncAccount(Account):
            async def give(self, point):
                assert type(point) is Point
                self.amount += point.x
                return Account.opened

        async def main():
            for cls in (Account, AsyncAccount):
                async with open_actor(cls, 5) as account:
                    point = await account.take(2)
                    assert type(point) is Point and point.x == 3
                    try:
                        await account.take(9)
                    except MyError as exc:
                        assert exc.args == (3,)
                    else:
                        raise AssertionError
                    async with account.coins() as coins:
                        assert [type(coin) async for coin in coins] == [Point] * 3
                    if cls is AsyncAccount:
                        assert await account.give(Point(2)) == 1
            assert Account.opened == 0

        trio.run(main)
        print("DONE")
    """
    async with running(tmp_path, script) as program:
        assert await program.rest() == "DONE\n"
