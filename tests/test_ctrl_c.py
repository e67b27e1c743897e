"""Ctrl-C in the middle of the ways to make many calls at once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

import contract
from fifo import Fifo, wait_gone, within
from programs import running

fifo = contract.fifo


MANY = """
    import sys, handlers, trio
    from pathlib import Path
    from trio_isolates import open_pool

    how, nature, fifo = sys.argv[1], sys.argv[2], Path(sys.argv[3])

    def work(fifo):
        if nature == "stubborn":
            handlers.hang_on(fifo)
        handlers.tell(fifo, "started")
        handlers.hang()

    async def open_map(pool):
        async with pool.open_map([fifo] * 2) as results:
            async for result in results:
                pass

    ways = {
        "map": lambda pool: pool.map([fifo] * 2),
        "open_map": open_map,
        "broadcast": lambda pool: pool.broadcast(work, fifo),
    }

    async def main():
        async with open_pool(work, workers=2, cancel_grace=1000) as pool:
            while pool.statistics().workers < 2:
                await trio.lowlevel.checkpoint()
            print("READY", *pool.pids, flush=True)
            try:
                await ways[how](pool)
            except KeyboardInterrupt:
                print("BARE", await pool.run(abs, -1) if nature == "mild" else "", flush=True)
                raise

    trio.run(main)
"""

ways = pytest.mark.parametrize("how", ["map", "open_map", "broadcast"])


@ways
@within(20)
async def test_comes_out_bare(how: str, tmp_path: Path, fifo: Fifo) -> None:
    """It is raised as itself, when what was in flight has stopped; the pool could go on."""
    async with running(tmp_path, MANY, how, "mild", fifo.path) as program:
        pids = await program.wait_for("READY")
        assert [await fifo.line(), await fifo.line()] == ["started", "started"]
        os.killpg(program.process.pid, signal.SIGINT)
        assert await program.wait_for("BARE") == ["1"]
        await program.ends_bare(map(int, pids))
        assert list(program.temporary.iterdir()) == []


@ways
@pytest.mark.parametrize("further", [1, 2])
@within(20)
async def test_further_ones_leave_nothing(how: str, further: int, tmp_path: Path, fifo: Fifo) -> None:
    """Further ones skip the grace of what does not stop, and nothing is left behind."""
    async with running(tmp_path, MANY, how, "stubborn", fifo.path) as program:
        await program.wait_for("READY")
        assert [await fifo.line(), await fifo.line()] == ["started", "started"]
        found = program.descendants()
        os.killpg(program.process.pid, signal.SIGINT)
        for _ in range(4):  # asked again: so the main task has come to wait for the end of it
            assert await fifo.line() == "not yet"
        for _ in range(further):
            os.killpg(program.process.pid, signal.SIGINT)
        with trio.fail_after(5):
            text = await program.rest()
        assert "KeyboardInterrupt" in text
        assert "Group" not in text
        for pid in found:
            await wait_gone(pid)
        assert list(program.temporary.iterdir()) == []


WORST_MOMENT = """
    import os, signal, sys, trio, trio.testing
    from trio_isolates import ChildSpec, ReceivePort, open_isolate, open_pool, open_supervisor

    armed = None
    sleep = trio.lowlevel.wait_task_rescheduled

    def press_and_sleep(abort):
        # By now the task has left itself where it will be woken from, and does not wait yet.
        global armed
        if trio.lowlevel.current_task() is armed:
            armed = None
            os.kill(os.getpid(), signal.SIGINT)
        return sleep(abort)

    def arm():
        global armed
        armed = trio.lowlevel.current_task()

    def work(number):
        ReceivePort().receive_sync()

    async def next_result(pool):
        async with pool.open_map([1, 2]) as results:
            arm()
            await anext(results)

    async def drain(pool):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.call, 1)
            await trio.testing.wait_all_tasks_blocked()
            arm()
            await pool.drain()

    async def resize(pool):
        arm()
        await pool.resize(2)

    async def wait(pool):
        async with open_isolate(work, 1) as isolate:
            arm()
            await isolate.wait()

    async def receive(pool):
        async with ReceivePort() as port:
            try:
                arm()
                await port.receive()
            finally:
                port.send_port.send_nowait("late")

    async def send(pool):
        async with ReceivePort(max_buffer_size=1) as port:
            port.send_port.send_nowait("first")
            try:
                arm()
                await port.send_port.send("second")
            finally:
                port.receive_nowait()

    async def start(pool):
        async with open_supervisor() as supervisor:
            arm()
            await supervisor.start(ChildSpec(work, (1,)))

    async def main():
        async with open_pool(work, workers=1) as pool:
            trio.lowlevel.wait_task_rescheduled = trio._core.wait_task_rescheduled = press_and_sleep
            try:
                await globals()[sys.argv[1]](pool)
            except BaseException as error:
                while isinstance(error, BaseExceptionGroup):
                    error, = error.exceptions
                print("RAISED", type(error).__name__, flush=True)
            print("ANSWERS", *[await pool.run(abs, -n) for n in (1, 2, 3)], flush=True)

    trio.run(main)
"""


@pytest.mark.parametrize("where", ["next_result", "drain", "resize", "wait", "receive", "send", "start"])
@within(20)
async def test_where_it_is_about_to_wait(where: str, tmp_path: Path) -> None:
    """A task that was interrupted there is not woken by what it would have waited for, in another wait."""
    async with running(tmp_path, WORST_MOMENT, where) as program:
        assert await program.wait_for("RAISED") == ["KeyboardInterrupt"]
        assert await program.wait_for("ANSWERS") == ["1", "2", "3"]
        await program.rest()
        assert program.process.returncode == 0


BUILDING = """
    import os, signal, time, trio
    import pieces_handlers as work
    from trio_isolates import _pieces, open_worker

    marks = []

    def on_open(name):
        marks.append(name)
        if len(marks) in (1, 15):
            os.kill(os.getpid(), signal.SIGINT)
        if len(marks) >= 15:  # it is being built until it is given up
            time.sleep(0.02)

    async def handler(what):
        if what == "large":
            return [work.many_marks("mark") for _ in range(20)]
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    async def main():
        async with open_worker(handler, cancel_grace=1000) as worker, trio.open_nursery() as nursery:
            nursery.start_soon(worker.call, "large")
            print("READY", worker.pid, flush=True)
            await worker.call("stubborn")  # sent first, as it is at once

    _pieces._PIECE = 0.0
    work.on_open.append(on_open)
    trio.run(main)
"""


@within(20)
async def test_a_further_one_while_an_answer_is_built(tmp_path: Path) -> None:
    """It skips the grace of a call, too, while the large answer to another one is being built."""
    async with running(tmp_path, BUILDING) as program:
        (pid,) = await program.wait_for("READY")
        with trio.fail_after(10):
            assert "KeyboardInterrupt" in await program.rest()
        await wait_gone(int(pid))
