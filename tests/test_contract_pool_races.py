"""The contract of every engine: what happens to a pool's calls when two things happen at the same time."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import contract
import contract_handlers
import handlers
import pool_handlers as work
from contract import Gate, Kept, Kind, those_with
from fifo import Fifo, within
from trio_isolates import IsolateDied, Pool, Restart, exit_isolate, open_pool
from trio_isolates._dispatch import Dispatcher
from trio_isolates._memory import Page

kind, fifo, gate = contract.kind, contract.fifo, contract.gate
pytestmark = pytest.mark.usefixtures("kind")

SOON = Restart(max_restarts=100, within=100, min_backoff=0, max_backoff=0)


def pass_gate(pool: Pool[..., Any], fifo: Fifo, gate: Gate, **how: Any) -> Any:
    """A call that says "busy" and waits at the gate."""
    return partial(pool.run, contract_handlers.tell_and_wait_for, fifo.path, "busy", gate.path, **how)


@within(20)
async def test_a_call_that_moves_waits_from_when_it_was_sent(kind: Kind, fifo: Fifo, gate: Gate) -> None:
    """A call that a death sends back into the line has waited no longer than it has existed."""
    async with open_pool(handlers.apply_async, workers=1, concurrency=1, restart=SOON) as pool:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pass_gate(pool, fifo, gate, retries=1))
            assert await fifo.line() == "busy"
            nursery.start_soon(pool.run, handlers.echo, "at hand")
            await trio.testing.wait_all_tasks_blocked()
            assert pool.statistics().in_flight == 2
            kind.kill(pool)
            assert await fifo.line() == "busy"
            gate.let_pass()
        assert pool.statistics().wait_time.max <= trio.current_time() - started


@within(20)
async def test_resize_as_an_isolate_is_relieved(fifo: Fifo, gate: Gate) -> None:
    """A pool shrinks in the moment in which an isolate is relieved: that finishes what it has."""
    async with open_pool(handlers.apply_async, workers=2, max_calls_per_worker=2) as pool:
        await pool.resize(2)
        async with trio.open_nursery() as nursery:
            kept = Kept(nursery)
            kept.start(pass_gate(pool, fifo, gate))
            assert await fifo.line() == "busy"
            client = next(client for client in pool._crew.clients if client.load)

            async def go_on() -> None:
                await trio.testing.wait_all_tasks_blocked()
                gate.let_pass()

            nursery.start_soon(go_on)
            pool._crew.posts.relieve(client)
            await pool.resize(1)
        assert kept.errors == []
        assert (pool.statistics().done, pool.statistics().workers) == (1, 1)


@within(20)
async def test_a_block_left_by_an_error_stops_those_that_are_relieved(fifo: Fifo, gate: Gate) -> None:
    """What an isolate still does that was relieved is stopped, and what it has not begun never begins."""
    async with trio.open_nursery() as nursery:
        kept = Kept(nursery)
        with pytest.raises(KeyError):
            async with open_pool(
                handlers.apply_async, workers=1, max_calls_per_worker=2, concurrency=1, cancel_grace=20
            ) as pool:
                kept.start(pass_gate(pool, fifo, gate, key=1))
                assert await fifo.line() == "busy"
                kept.start(partial(pool.run, handlers.tell, fifo.path, "begun all the same", key=1))
                while not pool.statistics().recycled:
                    await trio.lowlevel.checkpoint()
                raise KeyError
        await trio.testing.wait_all_tasks_blocked()
        assert [type(error) for error in kept.errors] == 2 * [trio.ClosedResourceError]
    handlers.tell(fifo.path, "nothing else")
    assert await fifo.line() == "nothing else"


@within(20)
async def test_one_call_that_may_have_begun_keeps_no_other_back(
    fifo: Fifo, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several calls at hand, the first may have begun: those behind it go to a free isolate."""
    ask_back, asked = Page.ask_back, set[int]()

    def ask(page: Page, ident: int) -> bool:
        asked.add(ident)
        return ask_back(page, ident) or len(asked) == 1

    monkeypatch.setattr(Page, "ask_back", ask)
    async with open_pool(handlers.apply_async, workers=1, concurrency=1) as pool:
        (client,) = pool._crew.clients
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pass_gate(pool, fifo, gate))
            assert await fifo.line() == "busy"
            client.limit = 3
            for text in ("second", "third"):
                nursery.start_soon(pool.run, handlers.tell, fifo.path, text)
                await trio.testing.wait_all_tasks_blocked()
            assert client.load == 3
            await pool.resize(2)
            assert await fifo.line() == "third"
            gate.let_pass()
            assert await fifo.line() == "second"
        assert pool.statistics().done == 3


@within(20)
async def test_an_isolate_that_is_busy_for_long_is_spared(fifo: Fifo, gate: Gate) -> None:
    """Calls that are sent to a busy isolate and taken back again do not add up there."""
    async with open_pool(handlers.apply_async, workers=2, concurrency=1) as pool:
        await pool.resize(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pass_gate(pool, fifo, gate))
            assert await fifo.line() == "busy"

            busy = max(pool._crew.clients, key=lambda client: client.load)

            async def call_often() -> None:
                while busy.has_room or busy.load > 1:
                    await pool.call(handlers.echo, 1)

            async with trio.open_nursery() as callers:
                for _ in range(3):
                    callers.start_soon(call_often)
            assert busy.load == 1
            gate.let_pass()
        while not busy.has_room:
            await trio.lowlevel.checkpoint()
        assert pool.statistics().late_replies == 0


@within(20)
async def test_an_isolate_that_is_stopped_takes_nothing_from_others(
    fifo: Fifo, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that come as a pool is being stopped begin no call that another isolate has at hand."""
    async with trio.open_nursery() as nursery:
        kept = Kept(nursery)
        with pytest.raises(KeyError):
            async with open_pool(handlers.apply_async, workers=2, concurrency=1, cancel_grace=20) as pool:
                await pool.resize(2)
                for _ in range(2):
                    kept.start(pass_gate(pool, fifo, gate))
                for _ in range(2):
                    assert await fifo.line() == "busy"
                kept.start(pool.run, handlers.tell, fifo.path, "begun all the same")
                await trio.testing.wait_all_tasks_blocked()
                first = min(pool._crew.clients, key=lambda client: client.load)
                stop_calls = type(first).stop_calls

                async def stop_one_first(client: Any, grace: float) -> None:
                    if client is not first:
                        await stopped.wait()
                    await stop_calls(client, grace)
                    stopped.set()

                stopped = trio.Event()
                monkeypatch.setattr(type(first), "stop_calls", stop_one_first)
                raise KeyError
        await trio.testing.wait_all_tasks_blocked()
        assert [type(error) for error in kept.errors] == 3 * [trio.ClosedResourceError]
    handlers.tell(fifo.path, "nothing else")
    assert await fifo.line() == "nothing else"


@those_with("own process")
@within(20)
async def test_what_stands_behind_a_sync_function_though_there_are_places(fifo: Fifo, gate: Gate) -> None:
    """A sync function blocks the loop: calls behind it go to a free isolate, also if there are places."""
    async with (
        open_pool(handlers.apply_async, workers=1, concurrency=4) as pool,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(pool.run, work.tell_and_block, fifo.path, "first", gate.path)
        assert await fifo.line() == "first"
        nursery.start_soon(pool.run, handlers.tell, fifo.path, "second")
        await trio.testing.wait_all_tasks_blocked()
        await pool.resize(2)
        assert await fifo.line() == "second"
        gate.let_pass()


@those_with("own process")
@within(20)
async def test_an_answer_does_not_wait_for_the_next_sync_function(fifo: Fifo, gate: Gate) -> None:
    """What is done is told, though the loop goes on to a function that blocks it, and others run beside."""
    async with open_pool(handlers.apply_async, workers=1) as pool, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(pass_gate(pool, fifo, gate))
            assert await fifo.line() == "busy"
        nursery.start_soon(pool.run, work.tell_and_block, fifo.path, "first", gate.path)
        assert await fifo.line() == "first"
        kept = Kept(nursery)
        for text in ("second", "third"):  # they come together
            kept.start(pool.run, handlers.tell, fifo.path, text)
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(pool.run, work.tell_and_block, fifo.path, "last", fifo.path.parent / "gate")
        await trio.testing.wait_all_tasks_blocked()
        gate.let_pass()
        assert [await fifo.line() for _ in range(3)] == ["second", "third", "last"]
        while len(kept.outcomes) < 2:
            await trio.lowlevel.checkpoint()
        gate.let_pass(3)


@within(20)
async def test_no_call_stands_behind_a_long_one_in_a_relieved_isolate(fifo: Fifo, gate: Gate) -> None:
    """An isolate that has served its time finishes what it has begun; what it has not goes to others."""
    async with (
        open_pool(handlers.apply_async, workers=1, max_calls_per_worker=2, concurrency=1) as pool,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(pass_gate(pool, fifo, gate))
        assert await fifo.line() == "busy"
        await pool.run(handlers.tell, fifo.path, "behind")
        assert await fifo.line() == "behind"
        statistics = pool.statistics()
        assert (statistics.recycled, statistics.in_flight) == (1, 1)
        gate.let_pass()


@within(20)
async def test_a_broadcast_as_an_isolate_is_relieved(monkeypatch: pytest.MonkeyPatch) -> None:
    """An isolate that is relieved as a broadcast begins is not one that can serve, and has not died."""
    call_on = Dispatcher.call_on

    async def relieve_others(dispatch: Dispatcher, client: Any, *call: Any) -> Any:
        for other in list(dispatch.clients):
            if other is not client:
                pool._crew.posts.relieve(other)
        return await call_on(dispatch, client, *call)

    async with open_pool(handlers.apply_async, workers=3) as pool:
        await pool.resize(3)
        monkeypatch.setattr(Dispatcher, "call_on", relieve_others)
        assert await pool.broadcast(handlers.echo, 1) == [1]


@within(20)
async def test_a_call_that_never_ran_took_no_time(fifo: Fifo, gate: Gate) -> None:
    """Of calls that were cancelled before they began, statistics do not say how long they ran."""
    async with open_pool(handlers.apply_async, workers=1, concurrency=1) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pass_gate(pool, fifo, gate))
            assert await fifo.line() == "busy"
            async with trio.open_nursery() as cancelled:
                cancelled.start_soon(pool.run, handlers.echo, 1)
                await trio.testing.wait_all_tasks_blocked()
                cancelled.cancel_scope.cancel()
            while pool.statistics().in_flight > 1:
                await trio.lowlevel.checkpoint()
            assert pool.statistics().run_time.count == 0
            gate.let_pass()
        assert pool.statistics().run_time.count == 1


@within(20)
async def test_a_call_behind_an_exit_has_not_begun(fifo: Fifo, gate: Gate) -> None:
    """When a sync function ends its isolate, the call behind it there goes to the next one."""
    async with open_pool(handlers.apply_async, workers=1, concurrency=1) as pool:
        async with trio.open_nursery() as nursery:
            kept = Kept(nursery)
            kept.start(pass_gate(pool, fifo, gate))
            assert await fifo.line() == "busy"
            pool._crew.clients[0].limit = 3
            for call in ((exit_isolate,), (handlers.tell, fifo.path, "behind")):
                kept.start(pool.run, *call)
                await trio.testing.wait_all_tasks_blocked()
            assert pool.statistics().in_flight == 3
            gate.let_pass()
        assert await fifo.line() == "behind"
        assert [type(error) for error in kept.errors] == [IsolateDied]
    handlers.tell(fifo.path, "once")
    assert await fifo.line() == "once"


@within(20)
async def test_a_pool_that_has_died_is_not_half_revived(kind: Kind) -> None:
    """When all have died and none is replaced, `resize` says so, as calls do, and starts nobody."""
    async with open_pool(handlers.apply_async, workers=1, restart=None) as pool:
        kind.kill(pool)
        for action in (partial(pool.call, handlers.echo, 1), partial(pool.resize, 2)):
            with pytest.raises(IsolateDied):
                await action()
        assert pool.pids == ()


@within(20)
async def test_a_block_left_by_an_error_with_a_call_on_its_way_back(
    fifo: Fifo, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that was asked back is told once that the block is left, whatever its isolate then says."""
    monkeypatch.setattr(Page, "ask_back", lambda *_: True)
    async with trio.open_nursery() as nursery:
        kept = Kept(nursery)
        with pytest.raises(KeyError):
            async with open_pool(handlers.apply_async, workers=1, concurrency=1, cancel_grace=20) as pool:
                kept.start(pass_gate(pool, fifo, gate))
                assert await fifo.line() == "busy"
                kept.start(pool.run, handlers.tell, fifo.path, "never")
                await trio.testing.wait_all_tasks_blocked()
                assert pool._crew.clients[0].ask_back(lambda _: True) is None
                raise KeyError
        await trio.testing.wait_all_tasks_blocked()
        assert [type(error) for error in kept.errors] == 2 * [trio.ClosedResourceError]
    handlers.tell(fifo.path, "nothing else")
    assert await fifo.line() == "nothing else"
