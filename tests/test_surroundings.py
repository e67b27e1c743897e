"""What a worker has from its parent: descriptors, log, environment; and isolates of its own."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

import contract
import handlers
from contract import AnyPool
from fifo import Fifo, wait_gone, within
from handlers import APPLIES, apply, apply_async
from trio_isolates import IsolateDied, open_pool, open_worker, run

fifo, pool = contract.fifo, contract.pool


# Prints.


@within(20)
async def test_prints_arrive_before_the_answer(capfd: pytest.CaptureFixture[str]) -> None:
    """What a worker prints is in the parent's stdout and stderr, in order, when the call returns."""
    with capfd.disabled():
        await run(handlers.echo, 1)  # the forkserver starts with other descriptors
    for handler in APPLIES:
        async with open_worker(handler) as worker:
            for number in range(3):
                await worker.call(handlers.print_out, f"out {number}")
                print(f"parent {number}", flush=True)
                await worker.call(handlers.print_error, f"err {number}")
                out, err = capfd.readouterr()
                assert out == f"out {number}\nparent {number}\n"
                assert err == f"err {number}\n"


@within(30)
async def test_print_flood(pool: AnyPool, capfd: pytest.CaptureFixture[str]) -> None:
    """Fifty thousand lines arrive whole, and before the answer."""
    assert await pool.call(handlers.flood, 50_000) == 50_000
    lines = capfd.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in lines] == [str(number) for number in range(50_000)]


@within(20)
async def test_raw_writes(pool: AnyPool, capfd: pytest.CaptureFixture[str]) -> None:
    """What a worker writes to descriptors 1 and 2 goes where its prints go."""
    await pool.call(handlers.write_standard)
    assert capfd.readouterr() == ("raw out\n", "raw err\n")


@within(20)
async def test_closed_standard_descriptors(pool: AnyPool) -> None:
    """A worker that closes its descriptors 0 to 2 goes on answering."""
    (pid,) = pool.pids
    await pool.call(handlers.close_standard)
    assert await pool.call(os.getpid) == pid
    assert await pool.call(handlers.echo, b"x" * 100_000) == b"x" * 100_000


@within(20)
async def test_all_descriptors_closed(pool: AnyPool) -> None:
    """A worker that closes every descriptor, the link among them, is dead and replaced."""
    (pid,) = pool.pids
    with pytest.raises(IsolateDied):
        await pool.call(handlers.close_everything)
    await wait_gone(pid)
    assert await pool.call(os.getpid) != pid


# Logging and warnings.


@within(20)
async def test_log_records_go_home(pool: AnyPool, caplog: pytest.LogCaptureFixture) -> None:
    """Records reach the parent's logging tree with logger, level, text and traceback, before the answer."""
    await pool.call(handlers.log_it, "tests.fault", logging.WARNING, "watch out")
    await pool.call(handlers.log_error, "tests.fault")
    first, second = caplog.records
    assert (first.name, first.levelname, first.getMessage()) == ("tests.fault", "WARNING", "watch out")
    assert first.process in pool.pids
    assert (second.levelname, second.getMessage()) == ("ERROR", "it failed")
    assert second.exc_text is not None and "KeyError: 'logged'" in second.exc_text


@within(20)
async def test_log_levels_are_the_parents(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker keeps to the levels that the parent's loggers have when it starts."""
    monkeypatch.setattr(logging.getLogger("tests.loud"), "level", logging.DEBUG)
    monkeypatch.setattr(logging.getLogger("tests.quiet"), "level", logging.ERROR)
    async with open_worker(apply) as worker:
        await worker.call(handlers.log_it, "tests.loud", logging.DEBUG, "heard")
        await worker.call(handlers.log_it, "tests.quiet", logging.WARNING, "not heard")
    assert [record.getMessage() for record in caplog.records] == ["heard"]


@within(20)
async def test_log_record_that_does_not_open(pool: AnyPool, capsys: pytest.CaptureFixture[str]) -> None:
    """A record whose extra field cannot be unpickled costs the record, not the worker."""
    (pid,) = pool.pids
    await pool.call(_log_owned, os.getpid())
    assert await pool.call(os.getpid) == pid
    assert "in the parent" in capsys.readouterr().err


def _log_owned(parent: int) -> None:
    value = handlers.Owned(handlers.raise_it, ValueError, "in the parent", where=parent)
    handlers.log_it("tests.fault", logging.WARNING, "text", {"field": value})


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@within(20)
async def test_a_forked_child_that_logs(
    pool: AnyPool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a worker forks has no link: it logs to stderr, and the worker goes on answering and logging."""
    (pid,) = pool.pids
    for _ in range(2):
        assert await pool.call(_fork_and_log, "tests.fault") == 0
        assert capfd.readouterr().err == "from the child\n"
        await pool.call(handlers.log_it, "tests.fault", logging.WARNING, "from the worker")
    assert [record.getMessage() for record in caplog.records] == ["from the worker"] * 2
    assert await pool.call(os.getpid) == pid


def _fork_and_log(name: str) -> int:
    child = os.fork()
    if child == 0:
        handlers.log_it(name, logging.WARNING, "from the child")
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@within(20)
async def test_a_forked_child_that_returns() -> None:
    """A child that goes on where its worker was forked ends there: only the worker answers."""
    async with open_worker(apply) as worker:
        pid = worker.pid
        for _ in range(2):
            assert await worker.call(_fork_and_return) == pid
            assert await worker.call(handlers.echo, 1) == 1
        assert worker.statistics().late_replies == 0
        assert worker.pid == pid


def _fork_and_return() -> int:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return os.getpid()


@within(20)
async def test_warnings(pool: AnyPool, capfd: pytest.CaptureFixture[str]) -> None:
    """Warnings are what the parent's filters make of them: an error here."""
    with pytest.raises(UserWarning, match="look"):
        await pool.call(handlers.warn, "look")


@within(20)
async def test_warnings_are_shown(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """Where the parent's filters show a warning, it is on stderr when the call returns."""
    import warnings

    warnings.simplefilter("always")
    async with open_worker(apply) as worker:
        await worker.call(handlers.warn, "look")
        assert "UserWarning: look" in capfd.readouterr().err


@within(20)
async def test_warnings_of_a_library(pool: AnyPool) -> None:
    """A filter for a library's own warnings holds in an isolate, which does not import the library for it."""
    import warnings

    from odd_warnings import OddWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", (OddWarning, PendingDeprecationWarning))
        async with open_worker(apply) as worker:
            assert not await worker.call(is_imported, "odd_warnings")
            await worker.call(handlers.warn, "look")
            for name in ("OddWarning", "VeryOddWarning"):
                with pytest.raises(OddWarning, match="odd") as caught:
                    await worker.call(warn_oddly, name)
                assert type(caught.value).__name__ == name
            assert await run(filter_names_of_a_nested_isolate) == [
                "OddWarning",
                "PendingDeprecationWarning",
                "Warning",
            ]


def is_imported(name: str) -> bool:
    return name in sys.modules


def warn_oddly(name: str) -> None:
    import warnings

    import odd_warnings

    warnings.warn("odd", getattr(odd_warnings, name), stacklevel=1)


def filter_names() -> list[str]:
    import warnings

    found: list[str] = []
    for entry in warnings.filters[:2]:
        categories = entry[2] if isinstance(entry[2], tuple) else (entry[2],)
        found += [category.__qualname__ for category in categories]
    return found


async def filter_names_of_a_nested_isolate() -> list[str]:
    return await run(filter_names)


# Environment.


@within(20)
async def test_environment_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, working directory, sys.path and umask are the parent's when the isolate starts."""
    await run(handlers.echo, 1)  # the forkserver has started by now
    monkeypatch.setenv("TESTED", "yes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "added"))
    mask = os.umask(0o027)
    try:
        for handler in APPLIES:
            async with open_worker(handler) as worker:
                environ, cwd, path, umask = await worker.call(handlers.surroundings, "TESTED")
                assert (environ, cwd, path, umask) == ("yes", os.getcwd(), sys.path, 0o027)
        monkeypatch.delenv("TESTED")
        assert (await run(handlers.surroundings, "TESTED"))[0] is None
    finally:
        os.umask(mask)


# Isolates inside of isolates.


@within(30)
async def test_isolates_open_isolates() -> None:
    """An isolate can run others and open pools; its answer is like any other."""
    assert await run(handlers.nested_sum, [1, 2, 3]) == (6, [1, 4, 9])


@within(30)
async def test_a_whole_tree_ends_with_its_block(fifo: Fifo) -> None:
    """When the outermost block is cancelled, every isolate below it is gone."""
    pids = []
    async with open_worker(apply_async, cancel_grace=0.5) as worker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.call, handlers.nest, fifo.path, 2)
            pids = [int(await fifo.line()) for _ in range(3)]
            nursery.cancel_scope.cancel()
        for pid in pids[1:]:
            await wait_gone(pid)
        assert await worker.call(handlers.echo, 1) == 1
    await wait_gone(pids[0])


@within(30)
async def test_a_killed_tree_is_gone(fifo: Fifo) -> None:
    """A killed isolate takes along the isolates that it had opened, and theirs."""
    async with open_pool(apply_async, workers=1) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_death, pool, handlers.nest, fifo.path, 2)
            pids = [int(await fifo.line()) for _ in range(3)]
            os.kill(pids[0], 9)
            with trio.fail_after(1):
                for pid in pids:
                    await wait_gone(pid)
        assert await pool.call(handlers.echo, 1) == 1


async def _expect_death(pool: AnyPool, *args: Any) -> None:
    with pytest.raises(IsolateDied):
        await pool.call(*args)


# Two loops.


def test_two_loops_in_two_threads() -> None:
    """Two Trio runs in two threads have workers of their own at the same time."""
    both = threading.Barrier(2)
    results: list[set[int]] = []

    async def main() -> None:
        with trio.fail_after(20):
            async with open_pool(apply, workers=2) as pool:
                await trio.to_thread.run_sync(both.wait)  # both have a pool now
                results.append(set(await pool.map(range(20), _pid)))
                with pytest.raises(IsolateDied):
                    await pool.call(handlers.kill_self)
                assert await pool.call(handlers.echo, 1) == 1

    threads = [threading.Thread(target=trio.run, args=(main,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = results
    assert first and second and not first & second


def _pid(_: int) -> int:
    return os.getpid()
