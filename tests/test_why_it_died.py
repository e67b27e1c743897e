"""Deaths that explain themselves: in the middle of what, after how long, with how much memory, and why."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import contract
import handlers
from contract import Gate, Kept, Kind
from fifo import Fifo, within
from trio_isolates import (
    IsolateDied,
    IsolateSpawnError,
    _engine,
    actor_worker,
    open_actor,
    open_isolate,
    open_pool,
    open_worker,
)
from trio_isolates import _deaths as deaths

kind, fifo, gate = contract.kind, contract.fifo, contract.gate
MIB = 1 << 20


def die(*_args: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


async def die_async() -> None:
    die()


def die_full(size: int) -> None:
    memory = bytearray(size)
    memory[::4096] = b"x" * len(memory[::4096])
    die()


def die_after(fifo: Path, gate: Path) -> None:
    handlers.tell(fifo)
    with gate.open("rb") as file:
        file.read(1)
    die()


def die_in_stream() -> Iterator[int]:
    yield 1
    die()


async def tell_and_wait(fifo: Path) -> None:
    handlers.tell(fifo)
    await trio.sleep_forever()


class Actor:
    def die(self) -> None:
        die()


async def death_of(awaitable: Any) -> IsolateDied:
    with pytest.raises(IsolateDied) as caught:
        await awaitable
    return caught.value


# Which call.


@within(30)
async def test_which_call() -> None:
    """A death names the function that was asked for, by whatever door and wrapping."""
    async with open_pool(die, workers=1) as pool:
        assert (await death_of(pool.call())).call == "die"
        assert (await death_of(pool.call(1))).call == "die"
        assert (await death_of(pool.run(die_async))).call == "die_async"
        assert (await death_of(pool.run(functools.partial(functools.partial(die, 1), 2)))).call == "die"
        assert (await death_of(pool.run(lambda: die(1)))).call == "test_which_call.<locals>.<lambda>"
        assert (await death_of(pool.run(Actor().die))).call == "Actor.die"
        assert (await death_of(pool.map([1, 2]))).call == "die"
        assert (await death_of(pool.map([1, 2], die_full))).call == "die_full"
    async with open_pool("handlers:kill_self", workers=1) as pool:
        assert (await death_of(pool.call())).call == "handlers:kill_self"
    async with open_pool(die_in_stream, workers=1) as streams, streams.open_stream() as items:
        assert await items.receive() == 1
        assert (await death_of(items.receive())).call == "die_in_stream"
    async with open_actor(Actor) as actor:
        died: Any = actor.die
        assert (await death_of(died())).call == "die"
        assert (await death_of(actor_worker(actor).run(die))).call is None  # it had not begun
    async with open_isolate(die) as isolate:
        assert (await death_of(isolate.wait())).call == "die"


@within(20)
async def test_each_of_many_calls(fifo: Fifo, gate: Gate) -> None:
    """Of calls side by side, each is told its own name and its own time."""
    async with trio.open_nursery() as nursery, open_pool(tell_and_wait, workers=1) as pool:
        kept = Kept(nursery)
        start = time.monotonic()
        kept.start(pool.call, fifo.path)
        await fifo.line()
        between = time.monotonic()
        kept.start(pool.run, die_after, fifo.path, gate.path)
        await fifo.line()
        after = time.monotonic()
        gate.let_pass()
        while len(kept.outcomes) < 2:
            await trio.lowlevel.checkpoint()
        end = time.monotonic()
    by_name: dict[str | None, IsolateDied] = {}
    for error in kept.errors:
        assert isinstance(error, IsolateDied)
        by_name[error.call] = error
    first, second = by_name["tell_and_wait"].seconds, by_name["die_after"].seconds
    assert first is not None and second is not None
    assert after - between <= first <= end - start
    assert 0 <= second <= end - between
    assert first > second


@within(20)
async def test_whoever_kills(kind: Kind, fifo: Fifo) -> None:
    """Killed by others, an isolate's call is named, on any engine; killed by us, the error is as short."""
    async with trio.open_nursery() as nursery, open_pool(tell_and_wait, workers=1) as pool:
        kept = Kept(nursery)
        kept.start(pool.call, fifo.path)
        await fifo.line()
        kind.kill(pool)
        while not kept.outcomes:
            await trio.lowlevel.checkpoint()
        kept.start(pool.call, fifo.path)
        await fifo.line()
        (pid,) = pool.pids
        pool.kill()
    theirs, ours = kept.errors
    assert isinstance(theirs, IsolateDied) and isinstance(ours, IsolateDied)
    assert (theirs.call, theirs.seconds is not None) == ("tell_and_wait", True)
    assert (ours.call, ours.seconds, ours.peak_rss, ours.out_of_memory) == (None, None, None, False)
    assert str(ours) == (
        f"isolate {ours.name!r} (pid {pid}) was killed by SIGKILL; the call may have been executed"
    )


# How much memory.


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine, the forkserver is waited for."""
    monkeypatch.setattr(_engine, "_PEAK_WAIT", 10)
    monkeypatch.setattr(_engine, "_REASON_WAIT", 10)


@pytest.mark.usefixtures("patience")
@within(30)
async def test_peak_memory() -> None:
    """The most memory that an isolate had is in its death, in a call, idle, and before it was ready."""
    async with open_pool(workers=1) as pool:
        died = await death_of(pool.run(die_full, 200 * MIB))
        assert died.peak_rss is not None and 200 * MIB < died.peak_rss < 400 * MIB
        assert f", peak memory {died.peak_rss / MIB:.0f} MiB; " in str(died)
        small = await death_of(pool.run(die))
        assert small.peak_rss is not None and small.peak_rss < 150 * MIB
    with pytest.raises(IsolateSpawnError) as caught:
        async with open_worker(init=functools.partial(die_full, 200 * MIB)):
            pass
    cause = caught.value.__cause__
    assert isinstance(cause, IsolateDied) and cause.peak_rss is not None and cause.peak_rss > 200 * MIB


def exit_code_of_a_child(code: int) -> int | None:
    process = multiprocessing.get_context("forkserver").Process(target=os._exit, args=(code,))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.usefixtures("patience")
@within(30)
async def test_late_callers() -> None:
    """Who calls a worker that is dead and not replaced is told of its death in full, and of no call."""
    async with open_worker() as worker:
        first = await death_of(worker.run(die))
        later = await death_of(worker.run(die))
    assert (later.call, later.seconds, later.maybe_executed) == (None, None, False)
    assert later.peak_rss == first.peak_rss is not None


@pytest.mark.usefixtures("patience")
@within(30)
async def test_the_forkserver_serves_others_as_before() -> None:
    """multiprocessing in an isolate shares the forkserver, and reads the exit codes that it knows."""
    async with open_worker() as worker:
        for code in (0, 7):
            assert await worker.run(exit_code_of_a_child, code) == code
        assert (await death_of(worker.run(die))).peak_rss is not None


def test_a_forkserver_that_says_nothing() -> None:
    """Of one that is not ours, there is the exit code alone; nobody waits for more."""
    reader, writer = os.pipe()
    assert deaths.read_peak(reader) is None
    os.close(writer)
    assert deaths.read_peak(reader) is None
    os.close(reader)


# Out of memory.


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of the kernel's: how many processes it has killed for lack of memory."""
    file = tmp_path / "memory.events"
    file.write_text("low 0\noom 9\noom_kill 3\n")
    monkeypatch.setattr(deaths, "_counter", lambda: file)
    monkeypatch.setattr(deaths.MemoryWatch, "_explained", 0)
    return file


@within(30)
async def test_out_of_memory(counter: Path, fifo: Fifo, gate: Gate) -> None:
    """A SIGKILL while the kernel counts one of its own is likely that one; the next is another's."""
    async with trio.open_nursery() as nursery, open_pool(workers=1) as pool:
        kept = Kept(nursery)
        for number, kills in enumerate((3, 4, 4, 5), 1):
            kept.start(pool.run, die_after, fifo.path, gate.path)
            await fifo.line()
            counter.write_text(f"oom 9\noom_kill {kills}\n")
            gate.let_pass()
            while len(kept.outcomes) < number:
                await trio.lowlevel.checkpoint()
    deaths_seen = [error for error in kept.errors if isinstance(error, IsolateDied)]
    found = [(died.out_of_memory, "likely out of memory" in str(died)) for died in deaths_seen]
    assert found == [(False, False), (True, True), (False, False), (True, True)]


def test_one_kill_is_one_death(counter: Path) -> None:
    """Of two isolates that end by a SIGKILL while the kernel counts one, one was it."""
    watches = [deaths.MemoryWatch() for _ in range(3)]
    counter.write_text("oom_kill 5\n")
    assert [watch.explains_a_kill() for watch in watches] == [True, True, False]


@within(30)
async def test_not_out_of_memory(counter: Path, fifo: Fifo) -> None:
    """What ended in another way, or was killed by us, was not out of memory, whatever the kernel counts."""
    async with open_pool(workers=1) as pool:
        counter.write_text("oom_kill 10\n")
        assert not (await death_of(pool.run(os._exit, 3))).out_of_memory
        assert not (await death_of(pool.run(handlers.crash))).out_of_memory
    async with open_isolate(tell_and_wait, fifo.path) as isolate:
        await fifo.line()
        counter.write_text("oom_kill 20\n")
        isolate.kill()
        assert not (await death_of(isolate.wait())).out_of_memory


@pytest.mark.parametrize(
    ("membership", "files", "found"),
    [
        ("0::/user.slice/a\n", ["user.slice/a/memory.events"], "user.slice/a/memory.events"),
        ("0::/\n", ["memory.events"], "memory.events"),
        ("0::/../../host\n", ["memory.events"], "memory.events"),
        ("0::/\n", [], None),
        ("4:cpu,memory:/a\n0::/\n", ["memory/a/memory.oom_control"], "memory/a/memory.oom_control"),
        ("4:memory:/docker/a\n", ["memory/memory.oom_control"], "memory/memory.oom_control"),
        ("4:cpu:/a\n", ["memory.events"], None),
        (None, ["memory.events"], None),
    ],
)
def test_where_the_kernel_counts(
    membership: str | None,
    files: list[str],
    found: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The count is found in both versions of control groups, inside of containers, or not at all."""
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if membership is not None:
        (tmp_path / "membership").write_text(membership)
    monkeypatch.setattr(deaths, "_GROUPS", tmp_path)
    monkeypatch.setattr(deaths, "_MEMBERSHIP", tmp_path / "membership")
    assert deaths._counter.__wrapped__() == (None if found is None else tmp_path / found)


@pytest.mark.parametrize("text", ["", "oom_kill_disable 0\nunder_oom 0\n", None])
def test_kernels_that_do_not_count(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older kernel has the file and no such line in it; then nothing is claimed."""
    file = tmp_path / "memory.oom_control"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(deaths, "_counter", lambda: file)
    assert not deaths.MemoryWatch().explains_a_kill()
