"""Messages that fight back, garbage on the link: one call fails, and the next is answered."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import contract
import handlers
from contract import AnyPool
from fifo import within
from handlers import MIB, Owned, Trap, apply
from trio_isolates import (
    IsolateDied,
    ProtocolError,
    RemoteError,
    Restart,
    RestartLimitExceeded,
    UnsendableError,
    open_pool,
)

fifo, pool = contract.fifo, contract.pool


ENDERS = [
    ValueError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    handlers.Unheard,
    StopIteration,
    trio.EndOfChannel,
]


# Values that fight back. None of them costs the worker.


@pytest.mark.parametrize("error", ENDERS)
@within(20)
async def test_an_argument_that_raises_while_it_is_pickled(pool: AnyPool, error: type[BaseException]) -> None:
    """The call fails with the path of the culprit and its exception as the cause; nothing was sent."""
    pids = pool.pids
    with pytest.raises(UnsendableError) as caught:
        await pool.call(handlers.echo, {"jobs": [1, Trap(handlers.raise_it, error, when="dumps")]})
    assert caught.value.path == "args[1]['jobs'][1]"
    assert isinstance(caught.value.__cause__, error)
    assert await pool.call(os.getpid) == pids[0]


@pytest.mark.parametrize("error", ENDERS)
@within(20)
async def test_an_argument_that_raises_while_it_is_unpickled(
    pool: AnyPool, error: type[BaseException]
) -> None:
    """The call fails, and the worker lives."""
    pids = pool.pids
    with pytest.raises(UnsendableError, match=error.__name__) as caught:
        await pool.call(handlers.echo, Trap(handlers.raise_it, error))
    assert caught.value.path == ""
    assert await pool.call(os.getpid) == pids[0]


@pytest.mark.parametrize("error", ENDERS)
@within(20)
async def test_a_result_that_raises_while_it_is_pickled(pool: AnyPool, error: type[BaseException]) -> None:
    """The call fails with the path of the culprit, and the worker lives."""
    pids = pool.pids
    with pytest.raises(UnsendableError) as caught:
        await pool.call(handlers.make_trap, handlers.raise_it, (error,), "dumps")
    assert caught.value.path == "result"
    assert await pool.call(os.getpid) == pids[0]


@pytest.mark.parametrize("error", ENDERS)
@within(20)
async def test_a_result_that_raises_while_it_is_unpickled(pool: AnyPool, error: type[BaseException]) -> None:
    """The call fails here, in the parent, and the worker lives."""
    pids = pool.pids
    with pytest.raises(UnsendableError, match=error.__name__):
        await pool.call(handlers.make_owned, os.getpid(), handlers.raise_it, (error,))
    assert await pool.call(os.getpid) == pids[0]


@pytest.mark.parametrize("deed", [handlers.exit_at_once, handlers.crash, handlers.kill_self])
@within(20)
async def test_arguments_that_kill_are_not_passed_on(
    pool: AnyPool, deed: Callable[[], object], tmp_path: Path
) -> None:
    """What kills a worker while it is unpickled kills one worker, not each that comes after it."""
    counter = tmp_path / "counter"
    for _ in range(2):
        with pytest.raises(IsolateDied) as caught:
            await pool.call(handlers.echo, Trap(deed, counter=counter))
        assert caught.value.maybe_executed
    assert await pool.call(handlers.echo, 1) == 1
    assert counter.read_bytes() == b"xx"
    assert pool.statistics().restarted == 2


@pytest.mark.parametrize("deed", [handlers.exit_at_once, handlers.crash])
@within(20)
async def test_a_result_that_kills_while_it_is_pickled(pool: AnyPool, deed: Callable[[], object]) -> None:
    """A worker that dies while it pickles a result had begun that call."""
    with pytest.raises(IsolateDied) as caught:
        await pool.call(handlers.make_trap, deed, (), "dumps")
    assert caught.value.maybe_executed


@within(30)
async def test_a_hundred_bad_and_a_hundred_good(pool: AnyPool) -> None:
    """A hundred messages of each bad kind leave no trace in the hundred good ones after them."""
    pids = pool.pids
    for _ in range(25):
        with pytest.raises(UnsendableError):
            await pool.call(handlers.echo, Trap(handlers.raise_it, ValueError, when="dumps"))
        with pytest.raises(UnsendableError):
            await pool.call(handlers.echo, Trap(handlers.raise_it, ValueError))
        with pytest.raises(UnsendableError):
            await pool.call(handlers.make_trap, handlers.raise_it, (ValueError,), "dumps")
        with pytest.raises(UnsendableError):
            await pool.call(handlers.make_owned, os.getpid(), handlers.raise_it, (ValueError,))
    assert [await pool.call(handlers.echo, number) for number in range(100)] == list(range(100))
    assert pool.pids == pids
    statistics = pool.statistics()
    assert (statistics.in_flight, statistics.queued, statistics.restarted) == (0, 0, 0)


@within(20)
async def test_a_value_that_opens_differently_elsewhere(pool: AnyPool) -> None:
    """A value that unpickles well there and badly here fails on the way home only."""
    assert await pool.call(type, Owned(handlers.raise_it, ValueError, where=os.getpid())) is type(None)


# Exceptions that fight back.


@within(20)
async def test_exceptions_that_cannot_travel(pool: AnyPool) -> None:
    """An exception that does not pickle, not unpickle, or cannot be shown, arrives as its RemoteError."""
    with pytest.raises(RemoteError, match="locked in") as caught:
        await pool.call(handlers.raise_it, handlers.Locked, "locked in")
    assert caught.value.type_name == "handlers.Locked"
    assert "raise_it" in caught.value.traceback
    assert "lock" in str(caught.value.__cause__)
    with pytest.raises(RemoteError, match="a and b") as caught:
        await pool.call(handlers.raise_it, handlers.NeedsTwo, "a", "b")
    assert caught.value.type_name == "handlers.NeedsTwo"
    with pytest.raises(RemoteError):
        await pool.call(handlers.raise_it, handlers.Refuses)
    with pytest.raises((RemoteError, handlers.NoText)):
        await pool.call(handlers.raise_it, handlers.NoText)


@within(20)
async def test_groups_arrive_leaf_by_leaf(pool: AnyPool) -> None:
    """Of a group, each leaf that can travel arrives as itself, the others as RemoteErrors."""
    with pytest.raises(ExceptionGroup, match="outer") as caught:
        await pool.call(handlers.raise_group)
    key, two, inner = caught.value.exceptions
    assert isinstance(key, KeyError) and key.args == ("a",)
    assert isinstance(two, RemoteError) and two.type_name == "handlers.NeedsTwo"
    assert isinstance(inner, ExceptionGroup)
    locked, error = inner.exceptions
    assert isinstance(locked, RemoteError) and locked.type_name == "handlers.Locked"
    assert isinstance(error, OSError) and error.errno == 5
    with pytest.raises(ExceptionGroup, match="outer") as caught:
        await pool.call(handlers.raise_base_group)
    interrupt, value = caught.value.exceptions
    assert isinstance(interrupt, RemoteError) and interrupt.type_name == "KeyboardInterrupt"
    assert isinstance(value, ValueError)


@within(20)
async def test_chains_arrive(pool: AnyPool) -> None:
    """The causes of an exception come along, in the place of one that cannot travel a RemoteError."""
    with pytest.raises(ValueError, match="third") as caught:
        await pool.call(handlers.raise_chain)
    second = caught.value.__cause__
    assert isinstance(second, RemoteError) and second.text == "second"
    first = second.__cause__
    causes = []
    while first is not None:
        causes.append(type(first).__name__)
        first = first.__cause__ or first.__context__
    assert "KeyError" in causes


@within(20)
async def test_too_many_deaths_end_the_block(tmp_path: Path) -> None:
    """When the pool's workers die faster than `restart` allows, its block is left with every cause."""
    policy = Restart(max_restarts=2, min_backoff=0, max_backoff=0)
    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_pool(apply, workers=1, restart=policy) as pool:
            while True:
                for pid in pool.pids:
                    os.kill(pid, 9)
                await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(caught.value.causes) == 3
    assert all(isinstance(cause, IsolateDied) for cause in caught.value.causes)


# Garbage on the link.

GARBAGE = {
    "noise": b"\xff" * 64,
    "text": b"HTTP/1.1 200 OK\r\n\r\n" * 4,
    "too large": struct.pack("<QQHBB", 3 << 30, 1, 0, 16, 0xD1),
    "parent's word": struct.pack("<QQHBB", 0, 1, 0, 1, 0xD1),
    "bad buffers": struct.pack("<QQHBB", 16, 1, 2, 16, 0xD1) + struct.pack("<QQ", 1 << 40, 0),
    "bad definition": struct.pack("<QQHBB", 1, 1, 0, 8, 0xD1) + b"?",
}


@pytest.mark.parametrize("garbage", GARBAGE)
@within(20)
async def test_garbage_on_the_link(pool: AnyPool, garbage: str) -> None:
    """A worker that writes what no isolate writes is killed and replaced; its call gets ProtocolError."""
    pids = pool.pids
    with pytest.raises(ProtocolError):
        await pool.call(handlers.write_garbage, GARBAGE[garbage])
    assert await pool.call(os.getpid) not in pids


@within(20)
async def test_a_flood_of_nothing_large_takes_no_memory(pool: AnyPool) -> None:
    """A header that announces a large message makes the parent take memory only as the bytes arrive."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    header = struct.pack("<QQHBB", 1 << 30, 1, 0, 16, 0xD1)
    with pytest.raises(IsolateDied):
        await pool.call(_announce_and_die, header)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert after - before < 64 * MIB


def _announce_and_die(header: bytes) -> None:
    handlers.write_garbage(header)
    handlers.kill_self()
