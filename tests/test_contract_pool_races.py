"""The contract of every engine: what happens to a pool's calls when two things happen at the same time."""

from __future__ import annotations

import itertools
import os
from functools import partial
from pathlib import Path
from typing import Any

import outcome
import pytest
import trio
import trio.testing

import contract
import contract_handlers
import handlers
import pool_handlers as work
from contract import Gate, Kept, Kind, capture, those_with
from fifo import Fifo, within
from trio_isolates import IsolateDied, Pool, Restart, open_pool
from trio_isolates._memory import RING, Page

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
    """What an isolate still does that was relieved is stopped as all else, and what it has not begun never is."""
    async with trio.open_nursery() as nursery:
        kept = Kept(nursery)
        with pytest.raises(KeyError):
            async with open_pool(
                handlers.apply_async, workers=1, max_calls_per_worker=2, concurrency=1, cancel_grace=20
            ) as pool:
                kept.start(pass_gate(pool, fifo, gate))
                assert await fifo.line() == "busy"
                kept.start(pool.run, handlers.tell, fifo.path, "begun all the same")
                while not pool.statistics().recycled:
                    await trio.lowlevel.checkpoint()
                raise KeyError
        await trio.testing.wait_all_tasks_blocked()
        assert [type(error) for error in kept.errors] == 2 * [trio.ClosedResourceError]
    handlers.tell(fifo.path, "nothing else")
    assert await fifo.line() == "nothing else"
