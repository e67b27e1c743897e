"""What an isolate on Trio has answered goes out before a sync function blocks its loop."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

import contract
from contract import Gate, those_with
from contract_handlers import tell_and_wait_for
from fifo import Fifo, within
from handlers import apply_async, echo
from pool_handlers import tell_and_block
from trio_isolates import open_worker

kind, fifo, gate = contract.kind, contract.fifo, contract.gate


@those_with("blocks")
@pytest.mark.usefixtures("kind")
@within(20)
async def test_of_a_sync_function_behind_which_another_one_blocks(fifo: Fifo, gate: Gate) -> None:
    """Both have waited there; the first one's answer does not wait for the end of the second."""
    found: list[Any] = []
    is_answered = trio.Event()
    async with open_worker(apply_async, concurrency=1) as worker, trio.open_nursery() as nursery:

        async def quick() -> None:
            found.append(await worker.run(echo, "quick"))
            is_answered.set()

        nursery.start_soon(worker.call, tell_and_wait_for, fifo.path, "begun", gate.path)
        assert await fifo.line() == "begun"
        for call in (quick, lambda: worker.run(tell_and_block, fifo.path, "blocks", gate.path)):
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
        gate.let_pass()
        assert await fifo.line() == "blocks"
        try:
            with trio.fail_after(5):
                await is_answered.wait()
        finally:
            gate.let_pass()
    assert found == ["quick"]
