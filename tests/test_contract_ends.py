"""The contract of every engine, third part: how calls, workers and pools end."""

from __future__ import annotations

import math
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outcome
import pytest
import trio
import trio.testing

import contract
import contract_handlers as work
import handlers
import pool_handlers
from contract import Gate, Kept, Kind, both_loops, cancel_when_begun, those_with, wait_until_noticed
from fifo import Fifo, within
from handlers import apply, apply_async
from trio_isolates import (
    IsolateDied,
    IsolateSpawnError,
    Restart,
    RestartLimitExceeded,
    open_pool,
    open_worker,
)

kind, fifo, gate = contract.kind, contract.fifo, contract.gate


# Calls that are cancelled.


@pytest.mark.usefixtures("kind")
@both_loops
@within(20)
async def test_cancelled_while_it_runs(handler: Callable[..., Any], fifo: Fifo, tmp_path: Path) -> None:
    """Cancelled is raised when the async function, itself cancelled, has cleaned up; its worker lives."""
    marker = tmp_path / "marker"
    async with open_worker(handler) as worker:
        pid = worker.pid
        assert await cancel_when_begun(fifo, worker.run, work.tell_and_wait, fifo.path, marker) is None
        assert marker.exists()
        assert await worker.call(work.add, 1) == 11
        assert worker.pid == pid
        assert (worker.statistics().cancelled, worker.statistics().replaced) == (1, 0)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("options", [{"concurrency": 1}, {"max_in_flight": 1}], ids=["sent", "unsent"])
@within(20)
async def test_cancelled_while_queued(options: dict[str, Any], fifo: Fifo, gate: Gate) -> None:
    """A call that is cancelled before its turn returns at once, and never runs."""
    async with open_worker(work.tell_and_wait_for, **options) as worker, trio.open_nursery() as nursery:
        nursery.start_soon(worker.call, fifo.path, "first", gate.path)
        assert await fifo.line() == "first"
        async with trio.open_nursery() as inner:
            inner.start_soon(worker.call, fifo.path, "second", gate.path)
            await trio.testing.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
        gate.let_pass(2)
        await worker.call(fifo.path, "third", gate.path)
        assert await fifo.line() == "third"
        assert (worker.statistics().cancelled, worker.statistics().done) == (1, 2)


@pytest.mark.usefixtures("kind")
@within(20)
async def test_what_comes_instead_of_cancelled(fifo: Fifo) -> None:
    """A value or an error with which the cancelled handler ends comes instead of Cancelled."""
    async with open_worker(apply_async) as worker:
        answered = await cancel_when_begun(fifo, worker.call, work.answer_when_cancelled, fifo.path)
        assert answered == outcome.Value("ended before that")
        failed = await cancel_when_begun(fifo, worker.call, work.fail_when_cancelled, fifo.path)
        assert isinstance(failed, outcome.Error) and isinstance(failed.error, work.CustomError)
        assert failed.error.__context__ is None  # Cancelled is not shipped
        found = worker.statistics()
        assert (found.done, found.failed, found.cancelled) == (1, 1, 0)


@those_with("own process")
@within(20)
async def test_cancelled_too_late(kind: Kind, fifo: Fifo, gate: Gate) -> None:
    """A call whose answer is on its way is not killed for: that would hit the one behind it."""
    ends: list[object] = []
    async with (
        open_worker(pool_handlers.tell_and_block, on_cancel="kill") as worker,
        trio.open_nursery() as nursery,
    ):
        scope = trio.CancelScope()

        async def first() -> None:
            with scope:
                ends.append(await worker.call(fifo.path, "first", gate.path))

        nursery.start_soon(first)
        assert await fifo.line() == "first"
        nursery.start_soon(worker.call, fifo.path, "second", gate.path)
        await trio.testing.wait_all_tasks_blocked()
        gate.let_pass()
        select.select([fifo], [], [], 10)  # without Trio: nobody reads the answer
        scope.cancel()
        assert await fifo.line() == "second"
        gate.let_pass()
    assert ends == ["first"]
    assert (worker.statistics().done, worker.statistics().replaced) == (2, 0)


@pytest.mark.usefixtures("kind")
@within(20)
async def test_cancel_grace(fifo: Fifo) -> None:
    """A handler that has not ended when `cancel_grace` is over is killed, and its isolate replaced."""
    state = work.Teller(fifo.path, "state")
    async with open_worker(work.apply_with_state, state=state, cancel_grace=0.05) as worker:
        assert await fifo.line() == "state"
        pid = worker.pid
        assert await cancel_when_begun(fifo, worker.run, work.refuse_to_be_cancelled, fifo.path) is None
        assert await worker.run(work.add, 1) == 11
        assert await fifo.line() == "state"
        assert worker.pid != pid
        assert (worker.statistics().cancelled, worker.statistics().replaced) == (1, 1)


@pytest.mark.usefixtures("kind")
@within(20)
async def test_endless_cancel_grace(fifo: Fifo, gate: Gate) -> None:
    """With a `cancel_grace` of infinity a cancelled handler takes the time that it takes."""

    async def let_pass() -> None:
        await trio.testing.wait_all_tasks_blocked(0.01)
        gate.let_pass()

    async with open_worker(apply_async, cancel_grace=math.inf) as worker, trio.open_nursery() as nursery:
        pid = worker.pid
        nursery.start_soon(let_pass)
        result = await cancel_when_begun(fifo, worker.call, work.finish_first, fifo.path, gate.path)
        assert result == outcome.Value("finished")
        assert worker.pid == pid


@those_with("interrupts sync code")
@within(20)
async def test_cancelled_sync_code(kind: Kind, fifo: Fifo) -> None:
    """A sync handler is interrupted in the middle of what it does; its isolate lives."""
    async with open_worker(apply) as worker:
        pid = worker.pid
        for function in (handlers.tell_and_spin, handlers.tell_and_sleep):

            async def cancel() -> None:
                assert await fifo.line() == str(pid)
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel)
                with trio.CancelScope() as scope:
                    await worker.call(function, fifo.path)
            assert scope.cancelled_caught
        assert await worker.call(work.add, 1) == 11
        assert worker.pid == pid


# Blocks that are left.


@pytest.mark.usefixtures("kind")
@within(20)
async def test_left_normally(fifo: Fifo, gate: Gate) -> None:
    """A block that is left normally takes no new calls, and waits for those in flight."""
    async with trio.open_nursery() as nursery:
        kept = Kept(nursery)
        async with open_worker(work.tell_and_wait_for) as worker:
            kept.start(worker.call, fifo.path, "begun", gate.path)
            assert await fifo.line() == "begun"

            async def call_late() -> None:
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.ClosedResourceError):
                    await worker.call(fifo.path, "late", gate.path)
                gate.let_pass()

            nursery.start_soon(call_late)
        assert worker.pid is None
    assert kept.outcomes == [outcome.Value("x")]


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("open_one", [open_worker, open_pool])
@within(20)
async def test_close_and_aclose(open_one: Callable[..., Any], fifo: Fifo, gate: Gate) -> None:
    """`close` refuses new calls and lets those in flight go on; `aclose` waits for them."""
    options = {} if open_one is open_worker else {"workers": 1}
    async with open_one(work.tell_and_wait_for, **options) as opened, trio.open_nursery() as nursery:
        kept = Kept(nursery)
        kept.start(opened.call, fifo.path, "begun", gate.path)
        assert await fifo.line() == "begun"
        opened.close()
        opened.close()
        with pytest.raises(trio.ClosedResourceError):
            await opened.call(fifo.path, "late", gate.path)
        with pytest.raises(trio.ClosedResourceError):
            await opened.run(work.add, 1)
        nursery.start_soon(opened.aclose)
        await trio.testing.wait_all_tasks_blocked()
        assert kept.outcomes == []
        gate.let_pass()
    assert kept.outcomes == [outcome.Value("x")]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_aclose_cancelled(fifo: Fifo) -> None:
    """A cancelled `aclose` kills; what was in flight dies with the isolate."""
    async with open_worker(apply_async) as worker, trio.open_nursery() as nursery:
        kept = Kept(nursery)
        kept.start(worker.call, work.tell_and_wait, fifo.path)
        assert await fifo.line() == "begun"
        with trio.CancelScope() as scope:
            scope.cancel()
            await worker.aclose()
        assert worker.pid is None
    assert [type(error) for error in kept.errors] == [IsolateDied]


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("open_one", [open_worker, open_pool])
@within(20)
async def test_kill(open_one: Callable[..., Any], fifo: Fifo) -> None:
    """`kill` ends what is in flight with IsolateDied; later calls find it closed; leaving raises nothing."""
    options = {} if open_one is open_worker else {"workers": 1}
    async with open_one(apply_async, name="mine", **options) as opened, trio.open_nursery() as nursery:
        kept = Kept(nursery)
        kept.start(opened.call, work.tell_and_wait, fifo.path)
        assert await fifo.line() == "begun"
        opened.kill()
        with pytest.raises(trio.ClosedResourceError):
            await opened.call(work.add, 1)
    (died,) = kept.errors
    assert isinstance(died, IsolateDied)
    assert died.name == ("mine" if open_one is open_worker else "mine.1")
    assert (died.exitcode, died.signal, died.maybe_executed) == (-9, "SIGKILL", True)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("open_one", [open_worker, open_pool])
@pytest.mark.parametrize(
    "error", [KeyError("mine"), ExceptionGroup("mine", [KeyError("mine")]), work.Unheard("mine")], ids=repr
)
@within(20)
async def test_left_by_an_exception(
    open_one: Callable[..., Any], error: BaseException, fifo: Fifo, tmp_path: Path
) -> None:
    """The body's exception comes out as it is; calls in flight are stopped first, and see it closed."""
    marker = tmp_path / "marker"
    async with trio.open_nursery() as nursery:
        kept = Kept(nursery)
        with pytest.raises(type(error)) as caught:
            async with open_one(apply_async) as opened:
                kept.start(opened.call, work.tell_and_wait, fifo.path, marker)
                assert await fifo.line() == "begun"
                raise error
        assert caught.value is error
        assert marker.exists()
    assert [type(error) for error in kept.errors] == [trio.ClosedResourceError]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_left_by_a_cancellation(fifo: Fifo) -> None:
    """A cancelled block has `cancel_grace` for everything, then what is left is killed."""
    async with trio.open_nursery() as nursery:
        kept = Kept(nursery)
        with trio.CancelScope() as scope:
            async with open_worker(apply_async, cancel_grace=0.05) as worker:
                for function in (
                    work.refuse_to_be_cancelled,
                    work.refuse_to_be_cancelled,
                    work.tell_and_wait,
                ):
                    kept.start(worker.call, function, fifo.path)
                    assert await fifo.line() == "begun"
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert worker.pid is None
    assert [type(error) for error in kept.errors] == 3 * [trio.ClosedResourceError]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_shutdown_grace(fifo: Fifo) -> None:
    """A `teardown` that has not ended after `shutdown_grace` is killed, without a word."""
    async with open_worker(teardown=work.Hanger(fifo.path, "begun"), shutdown_grace=0.05) as worker:
        assert await worker.run(work.add, 1) == 11
    assert await fifo.line() == "begun"
    assert worker.pid is None


# Deaths that nobody asked for.


@within(20)
async def test_dies_idle(kind: Kind) -> None:
    """The death of an idle worker is told when the block is left; it neither cancels nor hides anything."""
    with pytest.raises(IsolateDied) as caught:
        async with open_worker(work.add, name="mine") as worker:
            pid = worker.pid
            kind.kill(worker)
            await wait_until_noticed(worker, pid)
    died = caught.value
    assert (died.name, died.pid, died.maybe_executed) == ("mine", pid, False)
    assert (died.exitcode, died.signal) == (-9, "SIGKILL")
    with pytest.raises(KeyError) as mine:
        async with open_worker(work.add) as worker:
            kind.kill(worker)
            await wait_until_noticed(worker, worker.pid)
            raise KeyError("mine")
    assert [note.partition(":")[0] for note in mine.value.__notes__] == ["besides"]


@within(20)
async def test_dies_just_before_the_end(kind: Kind, fifo: Fifo) -> None:
    """The death of an idle worker is told even if nobody knew of it when the block was left."""
    with pytest.raises(IsolateDied):
        async with open_worker(work.add) as worker:
            kind.kill(worker)
    with pytest.raises(IsolateDied):
        async with (
            open_worker(work.add, teardown=work.Hanger(fifo.path, "begun")) as worker,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(worker.aclose)
            assert await fifo.line() == "begun"
            kind.kill(worker)


@within(20)
async def test_dies_idle_and_is_called(kind: Kind) -> None:
    """A call to a dead worker tells the death, and then leaving the block does not tell it again."""
    async with open_worker(work.add) as worker:
        kind.kill(worker)
        await wait_until_noticed(worker, worker.pid)
        for _ in range(2):
            with pytest.raises(IsolateDied) as caught:
                await worker.call(1)
            assert (caught.value.signal, caught.value.maybe_executed) == ("SIGKILL", False)


@within(20)
async def test_dies_in_calls(kind: Kind, fifo: Fifo) -> None:
    """Each call that had begun gets an IsolateDied of its own, those that had not one that says so."""
    async with open_worker(apply_async, concurrency=2) as worker, trio.open_nursery() as nursery:
        kept = Kept(nursery)
        for _ in range(3):
            kept.start(worker.call, work.tell_and_wait, fifo.path)
            await trio.testing.wait_all_tasks_blocked()
        assert [await fifo.line(), await fifo.line()] == ["begun", "begun"]
        kind.kill(worker)
    died = [error for error in kept.errors if isinstance(error, IsolateDied)]
    assert sorted(error.maybe_executed for error in died) == [False, True, True]
    assert len({id(error) for error in died}) == 3
    assert worker.statistics().failed == 2


@within(20)
async def test_successor(kind: Kind, fifo: Fifo, gate: Gate) -> None:
    """A pool replaces what died in a call, uncounted; calls that had not begun go to the successor."""
    never = Restart(max_restarts=0)
    async with open_pool(work.tell_and_wait_for, workers=1, concurrency=1, restart=never) as pool:
        pids = pool.pids
        async with trio.open_nursery() as nursery:
            kept = Kept(nursery)
            for number in range(3):
                kept.start(pool.call, fifo.path, str(number), gate.path)
                await trio.testing.wait_all_tasks_blocked()
            assert await fifo.line() == "0"
            kind.kill(pool)
            assert await fifo.line() in {"1", "2"}
            gate.let_pass(2)
        assert [type(error) for error in kept.errors] == [IsolateDied]
        assert kept.outcomes.count(outcome.Value("x")) == 2
        assert pool.pids != pids
        assert pool.statistics().restarted == 1


@within(20)
async def test_restart(kind: Kind) -> None:
    """A worker with a `Restart` is replaced when it dies, until that was too often: the body is cancelled."""
    policy = Restart(max_restarts=2, within=math.inf, min_backoff=0, max_backoff=0)
    pids: list[int | None] = []
    with pytest.raises(RestartLimitExceeded, match="more than max_restarts=2") as caught:
        async with open_worker(work.add, restart=policy) as worker:
            while True:
                assert await worker.call(1) == 11
                pids.append(worker.pid)
                kind.kill(worker)
                await wait_until_noticed(worker, pids[-1])
                if len(pids) == 3:
                    await trio.sleep_forever()
    assert [type(cause) for cause in caught.value.causes] == 3 * [IsolateDied]
    assert [cause.pid for cause in caught.value.causes if isinstance(cause, IsolateDied)] == pids
    assert caught.value.__cause__ is caught.value.causes[-1]


@within(20)
async def test_restart_fails(kind: Kind, tmp_path: Path) -> None:
    """A restart that fails counts as a death does."""
    init = work.FailLater(tmp_path / "marker")
    policy = Restart(max_restarts=1, min_backoff=0, max_backoff=0)
    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_pool(work.add, workers=1, init=init, restart=policy) as pool:
            kind.kill(pool)
            await trio.sleep_forever()
    assert [type(cause) for cause in caught.value.causes] == [IsolateDied, IsolateSpawnError]


@within(20)
async def test_pool_lives(kind: Kind) -> None:
    """A pool whose isolates die idle answers all calls, with others."""
    async with open_pool(work.add, workers=2, restart=Restart(max_restarts=9, min_backoff=0)) as pool:
        for restarted in (1, 2, 3):
            assert await pool.map(range(10)) == list(range(10, 20))
            kind.kill(pool)
            while pool.statistics().restarted < restarted:
                await trio.lowlevel.checkpoint()
        assert await pool.call(1) == 11
