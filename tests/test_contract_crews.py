"""The contract of every engine: who is started and replaced, in which order calls are begun, for whom."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import outcome
import pytest
import trio
import trio.testing

import contract
import contract_handlers as work
from contract import Gate, Kept, Kind
from fifo import Fifo, within
from handlers import apply_async
from trio_isolates import (
    IsolateDied,
    IsolateSpawnError,
    Restart,
    RestartLimitExceeded,
    UnsendableError,
    open_pool,
    open_worker,
)

kind, fifo, gate = contract.kind, contract.fifo, contract.gate

SOON = Restart(max_restarts=1000, min_backoff=0, max_backoff=0)
LATE = Restart(max_restarts=1000, min_backoff=1000, max_backoff=1000)
"""The first restart is immediate; those after it never come in the time of a test."""


# The first round.


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("restart", [None, LATE], ids=["never", "late"])
@within(20)
async def test_all_of_the_first_round_fail(restart: Restart | None, fifo: Fifo) -> None:
    """Opening fails when each isolate of a pool has failed to start once, without waiting for any restart."""
    with pytest.raises(IsolateSpawnError, match="code 1") as caught:
        async with open_pool(work.add, workers=3, init=TellAndFail(fifo), restart=restart):
            raise AssertionError
    assert isinstance(caught.value.__cause__, work.CustomError)
    for _ in range(3):
        assert await fifo.line() == "init"


@pytest.mark.usefixtures("kind")
@within(20)
async def test_one_of_the_first_round_fails(tmp_path: Path) -> None:
    """A pool of which one isolate fails to start opens with the others, and tries that one again."""
    init = FailFirst(tmp_path / "marker")
    async with open_pool(work.add, workers=3, init=init, restart=SOON) as pool:
        assert await pool.map(range(10)) == list(range(10, 20))
        while pool.statistics().workers < 3:
            await trio.lowlevel.checkpoint()
        assert pool.statistics().restarted == 1


@pytest.mark.usefixtures("kind")
@within(20)
async def test_one_of_the_first_round_fails_for_good(tmp_path: Path) -> None:
    """Without restarts, a pool serves with those that have started, and tells the failure at its end."""
    with pytest.raises(IsolateSpawnError, match="code 1"):
        async with open_pool(work.add, workers=2, init=FailFirst(tmp_path / "marker"), restart=None) as pool:
            while len(pool._crew.posts._posts) == 2:  # until its failure is known
                await trio.lowlevel.checkpoint()
            assert await pool.map(range(10)) == list(range(10, 20))
            assert pool.statistics().workers == 1


class FailFirst:
    """Fails the first time that it is called, in whichever isolate that is."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __call__(self) -> None:
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return
        raise work.CustomError(1)


class TellAndFail(work.Teller):
    """Says that it has come, and fails."""

    def __init__(self, fifo: Fifo) -> None:
        super().__init__(fifo.path, "init")

    def __call__(self, *args: object) -> list[Any]:
        super().__call__(*args)
        raise work.CustomError(1)


# What cannot be sent any more.


@within(20)
async def test_a_handler_that_cannot_be_sent_again(kind: Kind) -> None:
    """If what the handler holds has changed so that no successor can have it, that is a failed start."""
    adder = work.Adder(10)
    policy = Restart(max_restarts=2, within=math.inf, min_backoff=0, max_backoff=0)
    with pytest.raises(RestartLimitExceeded, match="lock") as caught:
        async with open_pool(adder, workers=1, restart=policy) as pool:
            assert await pool.call(1) == 11
            adder.lock = threading.Lock()  # type: ignore[attr-defined]
            kind.kill(pool)
            await trio.sleep_forever()
    causes = caught.value.causes
    assert [type(cause) for cause in causes] == [IsolateDied, IsolateSpawnError, IsolateSpawnError]
    assert isinstance(causes[-1].__cause__, UnsendableError)
    assert causes[-1].__cause__.path.endswith("lock")


@within(20)
async def test_a_handler_that_can_be_sent_again(kind: Kind) -> None:
    """Until the limit is reached each restart tries anew: when the handler can be sent, the pool goes on."""
    adder = work.Adder(10)
    async with open_pool(adder, workers=1, restart=SOON) as pool:
        adder.lock = threading.Lock()  # type: ignore[attr-defined]
        kind.kill(pool)
        while pool.statistics().restarted < 3:
            await trio.lowlevel.checkpoint()
        del adder.lock  # type: ignore[attr-defined]
        assert await pool.call(1) == 11


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("restart", [None, LATE], ids=["never", "late"])
@within(20)
async def test_a_handler_that_cannot_be_sent_at_the_start(restart: Restart | None) -> None:
    """If that happens between the check of what is asked for and the first start, opening fails as well."""
    with pytest.raises(IsolateSpawnError, match="only once") as caught:
        async with open_pool(SendableOnce(), workers=2, restart=restart):
            raise AssertionError
    assert isinstance(caught.value.__cause__, UnsendableError)


class SendableOnce:
    """Can be pickled the first time only."""

    def __init__(self) -> None:
        self.was_sent = False

    def __call__(self) -> None:
        pass

    def __reduce__(self) -> tuple[Any, ...]:
        if self.was_sent:
            raise ValueError("only once")
        self.was_sent = True
        return SendableOnce, ()


# Order.


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("open_one", [open_worker, open_pool])
@within(20)
async def test_the_line(open_one: Callable[..., Any], fifo: Fifo, gate: Gate) -> None:
    """Calls that wait for a place are begun in the order in which they were made; nobody passes the line."""
    options = {"max_in_flight": 2} if open_one is open_worker else {"workers": 1}

    async def call_twice() -> None:
        await opened.call(fifo.path, "0", gate.path)
        await opened.call(fifo.path, "last", gate.path)  # made as soon as there is a place for somebody

    async with (
        open_one(work.tell_and_wait_for, concurrency=1, **options) as opened,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(call_twice)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, 8):
            nursery.start_soon(opened.call, fifo.path, str(number), gate.path)
            await trio.testing.wait_all_tasks_blocked()
        assert (opened.statistics().in_flight, opened.statistics().queued) == (2, 6)
        begun = []
        for _ in range(9):
            begun.append(await fifo.line())
            gate.let_pass()
        assert begun == ["0", "1", "2", "3", "4", "5", "6", "7", "last"]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_cancelled_place_in_the_line(fifo: Fifo, gate: Gate) -> None:
    """Calls that are cancelled while they wait leave the others in their order."""
    async with (
        open_worker(work.tell_and_wait_for, concurrency=1, max_in_flight=2) as worker,
        trio.open_nursery() as nursery,
    ):
        scopes: list[trio.CancelScope] = []

        async def call(number: int) -> None:
            with scopes[number]:
                await worker.call(fifo.path, str(number), gate.path)

        for number in range(8):
            scopes.append(trio.CancelScope())
            nursery.start_soon(call, number)
            await trio.testing.wait_all_tasks_blocked()
        for number in (1, 2, 4, 7):
            scopes[number].cancel()
        begun = []
        for _ in range(4):
            begun.append(await fifo.line())
            gate.let_pass()
        assert begun == ["0", "3", "5", "6"]
        assert worker.statistics().cancelled == 4


@pytest.mark.parametrize("open_one", [open_worker, open_pool])
@within(20)
async def test_calls_that_move(kind: Kind, open_one: Callable[..., Any], fifo: Fifo, gate: Gate) -> None:
    """Calls that a dead isolate had not begun go to its successor in their order, before those in line."""
    options = {"max_in_flight": 4} if open_one is open_worker else {"workers": 1}
    async with (
        open_one(work.tell_and_wait_for, concurrency=1, restart=SOON, **options) as opened,
        trio.open_nursery() as nursery,
    ):
        kept = Kept(nursery)
        for number in range(8):
            kept.start(opened.call, fifo.path, str(number), gate.path)
            await trio.testing.wait_all_tasks_blocked()
        assert opened.statistics().in_flight == (4 if open_one is open_worker else 2)
        assert await fifo.line() == "0"
        kind.kill(opened)
        begun = [await fifo.line()]
        kind.kill(opened)
        while len(begun) < 7:
            begun.append(await fifo.line())
            if len(begun) > 1:
                gate.let_pass()
        gate.let_pass()
    assert begun == ["1", "2", "3", "4", "5", "6", "7"]
    assert [type(error) for error in kept.errors] == [IsolateDied, IsolateDied]
    assert kept.outcomes.count(outcome.Value("x")) == 6


@pytest.mark.usefixtures("kind")
@within(20)
async def test_cancelled_by_its_own_pickling(fifo: Fifo, gate: Gate) -> None:
    """A call in line that is cancelled while it is pickled never runs; those behind it are served.

    They may hold what was described to the isolate in that pickle for the first time.
    """

    class Local:
        pass

    local = Local()
    scope = trio.CancelScope()
    async with open_worker(apply_async, max_in_flight=1) as worker, trio.open_nursery() as nursery:
        kept = Kept(nursery)
        kept.start(worker.call, work.tell_and_wait_for, fifo.path, "begun", gate.path)
        assert await fifo.line() == "begun"

        async def call() -> None:
            with scope:
                await worker.call(work.mark, local, Cancels(scope))

        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        kept.start(worker.call, len, [local])
        gate.let_pass()
    assert scope.cancelled_caught
    assert kept.outcomes == [outcome.Value("x"), outcome.Value(1)]
    found = worker.statistics()
    assert (found.queued, found.done, found.failed, found.cancelled) == (0, 2, 0, 1)


class Cancels:
    """Cancels a scope when it is pickled."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope

    def __reduce__(self) -> tuple[Any, ...]:
        self._scope.cancel()
        return str, ()


# Other loops.


@pytest.mark.usefixtures("kind")
@within(20)
async def test_another_run() -> None:
    """A worker or pool that is used from another Trio run says so, and how to do it; the right way works."""
    home: Any = trio.from_thread.run
    async with open_worker(work.add) as worker, open_pool(work.add, workers=1) as pool:
        uses: list[tuple[Callable[..., Any], Any, Any]] = [
            (worker.call, (1,), 11),
            (worker.run, (work.add, 1), 11),
            (pool.call, (1,), 11),
            (pool.run, (work.add, 1), 11),
            (pool.map, ([1, 2],), [11, 12]),
            (pool.broadcast, (work.add, 1), [11]),
            (worker.aclose, (), None),
            (pool.aclose, (), None),
        ]
        for method, args, result in uses:
            what = "pool" if cast(Any, method).__self__ is pool else "worker"
            await trio.to_thread.run_sync(use_elsewhere, what, method, *args)
            assert await trio.to_thread.run_sync(home, method, *args) == result


def use_elsewhere(what: str, method: Callable[..., Any], *args: Any) -> None:
    with pytest.raises(
        RuntimeError, match=rf"another trio\.run \(.* same cell\).* trio\.from_thread\.run\({what}\.call, "
    ):
        trio.run(method, *args)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("how", ["close", "kill"])
@pytest.mark.parametrize("open_one", [open_worker, open_pool])
@within(20)
async def test_ended_from_elsewhere(open_one: Callable[..., Any], how: str, fifo: Fifo, gate: Gate) -> None:
    """`close` and `kill` from a thread or another Trio run raise, and change nothing for anybody."""
    options = {"max_in_flight": 1} if open_one is open_worker else {"max_in_flight": 1, "workers": 1}
    async with open_one(apply_async, **options) as opened, trio.open_nursery() as nursery:
        kept = Kept(nursery)
        for _ in range(3):
            kept.start(opened.call, work.tell_and_wait_for, fifo.path, "begun", gate.path)
        assert await fifo.line() == "begun"
        assert opened.statistics().queued == 2
        method = getattr(opened, how)

        async def in_a_run() -> None:
            method()

        for use in (method, partial(trio.run, in_a_run)):
            with pytest.raises(RuntimeError, match=r"another trio\.run.*trio\.from_thread\.run"):
                await trio.to_thread.run_sync(use)
        assert opened.statistics().queued == 2
        gate.let_pass(3)
    assert kept.outcomes == 3 * [outcome.Value("x")]
