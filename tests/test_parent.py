"""Parents that die, are interrupted, or lose their forkserver."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import forkserver, popen_forkserver
from pathlib import Path
from typing import Any, Literal

import pytest
import trio

import contract
import handlers
from contract import both_loops
from fifo import Fifo, open_fifo, wait_gone, within
from programs import running
from trio_isolates import (
    IsolateDied,
    ReceivePort,
    SendPort,
    exit_isolate,
    open_isolate,
    open_pool,
    open_worker,
    run,
)
from trio_isolates._engine import _Started
from trio_isolates._job import Job, prepare_starts

fifo = contract.fifo

_forkserver: Any = forkserver._forkserver


# Left alone.

PARENT = """
    import os, sys, handlers, trio
    from pathlib import Path
    from trio_isolates import open_pool, open_worker
    fifo = Path(sys.argv[2])
    ways = {
        "idle": lambda: (handlers.apply, []),
        "idle_async": lambda: (handlers.apply_async, []),
        "blocked": lambda: (handlers.apply, [handlers.tell_and_sleep]),
        "spinning": lambda: (handlers.apply, [handlers.tell_and_spin]),
        "spinning_async": lambda: (handlers.apply_async, [handlers.tell_and_spin]),
        "forked": lambda: (handlers.apply, [handlers.fork_and_sleep]),
        "nested": lambda: (handlers.apply_async, [handlers.nest]),
    }

    async def main():
        handler, jobs = ways[sys.argv[1]]()
        async with open_pool(handler, workers=1) as pool, trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(pool.call, job, fifo, *([2] if job is handlers.nest else []))
            print("READY", *pool.pids, flush=True)
            await trio.sleep_forever()

    trio.run(main)
"""


@pytest.mark.parametrize(
    ("way", "tells"),
    [
        ("idle", 0),
        ("idle_async", 0),
        ("blocked", 1),
        ("spinning", 1),
        ("spinning_async", 1),
        ("forked", 1),
        ("nested", 3),
    ],
)
@within(20)
async def test_a_killed_parent_leaves_nobody(way: str, tells: int, tmp_path: Path, fifo: Fifo) -> None:
    """Everything that a program has started is gone within a second of its SIGKILL, whatever it is doing."""
    async with running(tmp_path, PARENT, way, fifo.path) as program:
        pids = {int(pid) for pid in await program.wait_for("READY")}
        pids |= {int(await fifo.line()) for _ in range(tells)}
        found = program.descendants()
        assert pids <= set(found)
        assert len(pids) >= 1 + (tells - 1 if way == "nested" else 0)
        program.process.kill()
        with trio.fail_after(1):
            for pid in found:
                await wait_gone(pid)
        # The forkserver's socket; only a program that ends can remove it.
        assert len(list(program.temporary.iterdir())) == 1
    assert await run(handlers.echo, 1) == 1


UNWATCHED = """
    import sys, handlers, trio, trio_isolates._boot
    from trio_isolates import open_worker
    trio_isolates._boot.main = handlers.run_without_deadman

    async def main():
        async with open_worker(getattr(handlers, sys.argv[1])):
            print("READY", flush=True)
            await trio.sleep_forever()

    trio.run(main)
"""


@pytest.mark.parametrize("handler", ["apply", "apply_async"])
@within(20)
async def test_a_worker_that_sees_the_end_of_its_link(handler: str, tmp_path: Path) -> None:
    """A worker that is the first to see that its parent is gone says nothing more to anybody."""
    async with running(tmp_path, UNWATCHED, handler) as program:
        await program.wait_for("READY")
        program.process.kill()
        assert await program.rest() == ""


# Ctrl-C.

INTERRUPTED = """
    import os, signal, sys, handlers, trio
    from pathlib import Path
    from trio_isolates import open_worker, CallInterrupted

    def work(fifo):
        try:
            handlers.tell(fifo, "started")
            handlers.hang()
        except KeyboardInterrupt:
            handlers.tell(fifo, "the worker saw it")
        except CallInterrupted:
            handlers.tell(fifo, "stopped")
            raise

    async def main():
        try:
            async with open_worker(work) as worker:
                print("READY", worker.pid, flush=True)
                await worker.call(Path(sys.argv[1]))
        finally:
            print("UNWOUND", flush=True)

    trio.run(main)
"""


@within(20)
async def test_ctrl_c(tmp_path: Path, fifo: Fifo) -> None:
    """Of a Ctrl-C to the whole group the workers see nothing; the parent unwinds its blocks."""
    async with running(tmp_path, INTERRUPTED, fifo.path) as program:
        (pid,) = await program.wait_for("READY")
        assert await fifo.line() == "started"
        os.killpg(program.process.pid, signal.SIGINT)
        os.kill(int(pid), signal.SIGINT)  # even if it were sent to the worker itself
        assert await fifo.line() == "stopped"
        await program.wait_for("UNWOUND")
        await program.ends_bare([int(pid)])


STUBBORN = """
    import os, signal, sys, handlers, trio
    from pathlib import Path
    from trio_isolates import open_worker

    async def main():
        how, fifo = sys.argv[1], Path(sys.argv[2])
        async with open_worker(handlers.hang_on, cancel_grace=1000) as worker, trio.open_nursery() as nursery:
            print("READY", flush=True)
            if how == "call":
                await worker.call(fifo)
            nursery.start_soon(worker.call, fifo)
            if how == "body":
                await trio.sleep_forever()

    trio.run(main)
"""


@pytest.mark.parametrize("how", ["call", "nursery", "body"])
@within(20)
async def test_second_ctrl_c_skips_the_grace(how: str, tmp_path: Path, fifo: Fifo) -> None:
    """A second Ctrl-C does not wait for a handler that does not stop, wherever the main task is waiting."""
    async with running(tmp_path, STUBBORN, how, fifo.path) as program:
        await program.wait_for("READY")
        assert await fifo.line() == "started"
        os.killpg(program.process.pid, signal.SIGINT)
        for _ in range(2):  # asked again: so the main task has come to wait for the end of it
            assert await fifo.line() == "not yet"
        os.killpg(program.process.pid, signal.SIGINT)
        with trio.fail_after(3):
            text = await program.rest()
        assert "KeyboardInterrupt" in text


# The forkserver.


@both_loops
@within(30)
async def test_the_forkserver_is_killed(handler: Callable[..., Any], fifo: Fifo) -> None:
    """Workers outlive their forkserver, can still be cancelled and killed, and new ones start."""
    on_cancel: Literal["kill", "interrupt"] = "kill" if handler is handlers.APPLIES[0] else "interrupt"
    async with open_pool(handler, workers=1, on_cancel=on_cancel, cancel_grace=0.05) as pool:
        (pid,) = pool.pids
        os.kill(_forkserver._forkserver_pid, signal.SIGKILL)
        assert await pool.call(os.getpid) == pid
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.call, handlers.tell_and_sleep, fifo.path)
            assert int(await fifo.line()) == pid
            started = time.perf_counter()
            nursery.cancel_scope.cancel()
        assert time.perf_counter() - started < 2
        await wait_gone(pid)
        assert await pool.call(os.getpid) != pid
    assert await run(handlers.echo, 1) == 1


@within(30)
async def test_the_forkserver_is_killed_and_the_block_left() -> None:
    """A worker whose forkserver is gone tears down and ends as any other."""
    async with open_worker(handlers.apply) as worker:
        os.kill(_forkserver._forkserver_pid, signal.SIGKILL)
        assert await worker.call(handlers.echo, 1) == 1
    assert await run(handlers.echo, 1) == 1


@within(15)
async def test_a_farewell_that_nobody_waits_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, fifo: Fifo
) -> None:
    """A worker whose forkserver is gone comes to its end by itself and in silence, long as that may take."""
    job_is_over = trio.Event()
    run_job = Job.run

    async def run_and_say(job: Job) -> None:
        await run_job(job)
        job_is_over.set()

    async def let_it_end(gate: Path) -> None:
        assert await fifo.line() == "our last line"
        await job_is_over.wait()
        await trio.to_thread.run_sync(gc.collect)  # Trio's thread forgets what it did last, too
        gate.write_text("go on\n")
        assert await fifo.line() == "really"

    (tmp_path / "gate").mkdir()
    with open_fifo(tmp_path / "gate") as gate:
        assert await run(handlers.echo, 1) == 1
        monkeypatch.setattr(Job, "run", run_and_say)
        retire = partial(handlers.wait_and_retire, fifo.path, gate.path)
        monkeypatch.setattr("trio_isolates._boot.retire", retire)
        async with trio.open_nursery() as nursery, open_worker(handlers.apply) as worker:
            nursery.start_soon(let_it_end, gate.path)
            os.kill(_forkserver._forkserver_pid, signal.SIGKILL)
            assert await worker.call(handlers.echo, 1) == 1
    assert capfd.readouterr() == ("", "")


@within(30)
async def test_the_forkserver_is_killed_before_a_start() -> None:
    """The start that finds the forkserver dead makes a new one."""
    assert await run(handlers.echo, 1) == 1
    os.kill(_forkserver._forkserver_pid, signal.SIGKILL)
    assert await run(handlers.echo, 2) == 2


@pytest.mark.parametrize(
    ("deed", "exitcode"), [(handlers.kill_self, -signal.SIGKILL), (partial(handlers.exit_at_once, 3), 3)]
)
@within(20)
async def test_the_forkserver_is_held_up(deed: Callable[[], object], exitcode: int) -> None:
    """How a worker has ended is known even if its forkserver has no time to say so."""
    async with open_pool(handlers.apply, workers=1, restart=None) as pool:
        server = _forkserver._forkserver_pid
        os.kill(server, signal.SIGSTOP)
        try:
            with pytest.raises(IsolateDied) as caught:
                await pool.call(deed)
        finally:
            os.kill(server, signal.SIGCONT)
    assert caught.value.exitcode == exitcode


@within(30)
async def test_ctrl_c_while_the_forkserver_starts(tmp_path: Path) -> None:
    """A Ctrl-C while the forkserver starts does it no harm and prints nothing; nothing stays held back."""
    script = """
        import os, signal, sys, trio
        from multiprocessing import forkserver, get_context
        from trio_isolates import _job, run
        def masks(pid):
            with open(f"/proc/{pid}/status") as status:
                lines = dict(line.split(":", 1) for line in status)
            return [bool(int(lines[name], 16) >> (signal.SIGINT - 1) & 1) for name in ("SigBlk", "SigIgn")]
        def hears_ctrl_c():
            sys.exit(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        if __name__ == "__main__":
            _job.prepare_starts()
            server = forkserver._forkserver._forkserver_pid
            os.kill(server, signal.SIGINT)
            print(trio.run(run, abs, -1))
            print(masks(server), masks(os.getpid()), forkserver._forkserver._forkserver_pid == server)
            child = get_context("forkserver").Process(target=hears_ctrl_c)
            child.start()
            child.join()
            print(child.exitcode)
    """
    async with running(tmp_path, script) as program:
        assert (await program.rest()).splitlines() == ["1", "[False, True] [False, False] True", "1"]


@within(20)
async def test_exit_codes_are_read_by_one_at_a_time() -> None:
    """Two threads that look at the same dead child at once both see how it ended."""
    prepare_starts()
    barrier = threading.Barrier(2)
    codes: list[int | None] = []

    def look(child: Any) -> None:
        barrier.wait()
        codes.append(child.poll())

    for _ in range(200):
        child: Any = popen_forkserver.Popen.__new__(popen_forkserver.Popen)
        child.returncode = None
        child.sentinel, tell = os.pipe()
        forkserver.write_signed(tell, 7)
        os.close(tell)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(trio.to_thread.run_sync, look, child)
        os.close(child.sentinel)
    assert set(codes) == {7}


# What an isolate has started.


def start(command: str) -> int:
    return subprocess.Popen([command, "1000"]).pid


async def start_async(command: str) -> int:
    return start(command)


def start_and_exit(port: SendPort[int]) -> None:
    port.send_sync(start("sleep"))
    exit_isolate()


async def start_and_exit_async(port: SendPort[int]) -> None:
    await port.send(start("sleep"))
    exit_isolate()


@pytest.mark.parametrize("handler", [start, start_async])
@within(20)
async def test_it_ends_its_own(handler: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What an isolate has started is gone when it ends, though its parent does not live to see to that."""
    monkeypatch.setattr(_Started, "kill_group", lambda _: None)
    async with open_worker(handler) as worker:
        pid = await worker.call("sleep")
    await wait_gone(pid)


@pytest.mark.parametrize("entry", [start_and_exit, start_and_exit_async])
@within(20)
async def test_it_ends_its_own_when_it_exits(
    entry: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is when the isolate ends itself."""
    monkeypatch.setattr(_Started, "kill_group", lambda _: None)
    port = ReceivePort[int]()
    async with open_isolate(entry, port.send_port):
        pid = await port.receive()
    port.close()
    await wait_gone(pid)
