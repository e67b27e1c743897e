"""A call that never begins takes no `SharedBuffer` away, whichever way it ends; both engines."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

import bulk_handlers as work
import contract
from contract import AnyWorker, Gate, Kept, Kind
from contract_handlers import tell_and_wait_for, wait_for_word
from fifo import Fifo, within
from handlers import apply_async
from trio_isolates import Restart, open_pool, open_worker
from trio_isolates._memory import Page

kind, fifo, gate = contract.kind, contract.fifo, contract.gate
SIZE = 300_000


def no_room(_page: Page, _ident: int) -> bool:
    """In the place of `Page.cancel`: it may have begun, for all that can be known."""
    return True


class Sent:
    """A call that carries a buffer, and whether it was cancelled, or what it raised."""

    def __init__(self) -> None:
        self.buffer = work.filled(SIZE, 4)
        self.scope = trio.CancelScope()
        self.error: BaseException | None = None

    async def call(self, worker: AnyWorker) -> None:
        try:
            with self.scope:
                await worker.call(work.total, self.buffer)
        except trio.ClosedResourceError as exc:
            self.error = exc

    def check_gone(self) -> None:
        with pytest.raises(ValueError, match="somebody else's"):
            _ = self.buffer.view

    def check_here(self) -> None:
        assert work.total(self.buffer) == 4 * SIZE


@pytest.mark.usefixtures("kind")
@within(20)
async def test_the_block_is_left(fifo: Fifo, gate: Gate) -> None:
    """By an exception, with the call behind another one: it is told that the worker is closed."""
    sent = Sent()
    async with trio.open_nursery() as nursery:
        with pytest.raises(KeyError):
            async with open_worker(apply_async, concurrency=1) as worker:
                Kept(nursery).start(worker.call, tell_and_wait_for, fifo.path, "begun", gate.path)
                assert await fifo.line() == "begun"
                nursery.start_soon(sent.call, worker)
                await trio.testing.wait_all_tasks_blocked()
                sent.check_gone()
                raise KeyError
    assert sent.error is not None
    sent.check_here()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_cancelled_with_no_room_to_tell(
    fifo: Fifo, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The isolate hears only by its link that the call is cancelled, and says that it never ran."""
    sent = Sent()
    async with open_worker(apply_async, concurrency=1) as worker, trio.open_nursery() as nursery:
        nursery.start_soon(worker.call, tell_and_wait_for, fifo.path, "begun", gate.path)
        assert await fifo.line() == "begun"
        async with trio.open_nursery() as others:
            others.start_soon(sent.call, worker)
            await trio.testing.wait_all_tasks_blocked()
            sent.check_gone()
            monkeypatch.setattr(Page, "cancel", no_room)
            sent.scope.cancel()
        sent.check_here()
        gate.let_pass()
    assert worker.statistics().cancelled == 1


@within(20)
async def test_dead_before_it_hears(
    kind: Kind, fifo: Fifo, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The isolate dies with a call that was to be stopped, and had not begun."""
    sent = Sent()
    async with (
        open_worker(apply_async, concurrency=1, restart=Restart()) as worker,
        trio.open_nursery() as nursery,
    ):
        Kept(nursery).start(worker.call, tell_and_wait_for, fifo.path, "begun", gate.path)
        assert await fifo.line() == "begun"
        nursery.start_soon(sent.call, worker)
        await trio.testing.wait_all_tasks_blocked()
        sent.check_gone()
        monkeypatch.setattr(Page, "cancel", no_room)
        sent.scope.cancel()
        kind.kill(worker)
    sent.check_here()


@within(20)
async def test_cancelled_in_line_again(kind: Kind, fifo: Fifo, gate: Gate) -> None:
    """Its isolate has died before it began the call, and the next one is not there yet."""
    sent = Sent()
    gate.let_pass()
    init = partial(wait_for_word, gate.path)
    async with open_pool(apply_async, workers=1, concurrency=1, init=init) as pool:
        async with trio.open_nursery() as nursery:
            kept = Kept(nursery)
            kept.start(pool.call, tell_and_wait_for, fifo.path, "begun", gate.path)
            assert await fifo.line() == "begun"
            nursery.start_soon(sent.call, pool)
            await trio.testing.wait_all_tasks_blocked()
            sent.check_gone()
            kind.kill(pool)
            while not kept.errors:
                await trio.lowlevel.checkpoint()
            sent.scope.cancel()
        sent.check_here()
        gate.let_pass()
