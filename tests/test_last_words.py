"""What an isolate that crashed has still said, and under which name the system shows it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import handlers
from contract import both_loops
from fifo import within
from trio_isolates import IsolateDied, open_isolate, open_pool, open_worker
from trio_isolates._deaths import shorten_dump

PACKAGE = str(Path(sys.modules["trio_isolates"].__path__[0]))


def read_nothing() -> None:
    ctypes.string_at(0)


def abort_after_a_word() -> NoReturn:
    print("a word", file=sys.stderr)
    os.abort()


def crash_in_a_child() -> int:
    """Fork a child that crashes; return what became of it."""
    pid = os.fork()
    if pid == 0:
        os.abort()
    return os.waitpid(pid, 0)[1]


def crash_beside_a_thread() -> None:
    event = threading.Event()
    threading.Thread(target=wait_for_nothing, args=(event,), daemon=True).start()
    event.wait()
    read_nothing()


def wait_for_nothing(event: threading.Event) -> None:
    event.set()
    threading.Event().wait()


def comm() -> str:
    return Path("/proc/self/comm").read_text("utf-8").rstrip("\n")


@both_loops
@pytest.mark.parametrize(
    ("function", "signal", "words"),
    [
        (read_nothing, "SIGSEGV", "Fatal Python error: Segmentation fault"),
        (abort_after_a_word, "SIGABRT", "a word\nFatal Python error: Aborted"),
    ],
)
@within(20)
async def test_a_crash_says_where(
    handler: Callable[..., Any],
    function: Callable[[], object],
    signal: str,
    words: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Where an isolate crashed is in its IsolateDied and in the parent's stderr, once, the handler's part."""
    async with open_pool(handler, workers=1) as pool:
        with pytest.raises(IsolateDied) as caught:
            await pool.call(function)
    died = caught.value
    assert died.signal == signal
    assert died.stderr_tail.startswith(words)
    assert f" in {function.__name__}\n" in died.stderr_tail and PACKAGE not in died.stderr_tail
    assert f" in {function.__name__}\n" in str(died) and str(died).endswith(f" in {handler.__name__}")
    assert capfd.readouterr().err == died.stderr_tail


@within(20)
async def test_the_crashed_thread_comes_first(capfd: pytest.CaptureFixture[str]) -> None:
    """Of several threads, the one that crashed is named first, and the program's others follow."""
    with pytest.raises(IsolateDied) as caught:
        async with open_isolate(crash_beside_a_thread):
            pass
    dump = caught.value.stderr_tail
    assert dump.index(" in crash_beside_a_thread\n") < dump.index(" in wait_for_nothing\n")
    assert "_watch_parent" not in dump


@within(20)
async def test_a_crash_after_much_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """However much was written before, the dump is the end of the 64 KiB."""
    async with open_pool(workers=1) as pool:
        await pool.run(write_errors, 100_000)
        with pytest.raises(IsolateDied) as caught:
            await pool.run(read_nothing)
    tail = caught.value.stderr_tail
    assert len(tail) <= 64 << 10 and tail.startswith("x")
    assert tail.rstrip().endswith(" in read_nothing")


def write_errors(size: int) -> None:
    sys.stderr.write("x" * size)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@within(20)
async def test_a_crash_of_a_child_is_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    """A forked child of an isolate crashes into stderr; the isolate's own end does not show it."""
    async with open_pool(workers=1) as pool:
        assert await pool.run(crash_in_a_child) != 0
        assert " in crash_in_a_child\n" in capfd.readouterr().err
        with pytest.raises(IsolateDied) as caught:
            await pool.run(handlers.kill_self)
    assert "crash_in_a_child" not in caught.value.stderr_tail


@within(20)
async def test_stderr_that_takes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """A crash is told of even if the parent's stderr is full, or closed."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    stderr = os.dup(2)
    try:
        async with open_pool(workers=1) as pool:
            os.dup2(writer, 2)
            with pytest.raises(IsolateDied, match="read_nothing"):
                await pool.run(read_nothing)
            os.close(2)
            with pytest.raises(IsolateDied, match="read_nothing"):
                await pool.run(read_nothing)
    finally:
        os.dup2(stderr, 2)
        for fd in (reader, writer, stderr):
            os.close(fd)


def test_what_a_dump_is_cut_to() -> None:
    """Our frames go, with what called them; where there is nothing else, the innermost stays."""
    ours = f'  File "{PACKAGE}/_wire.py", line 1 in load\n  File "<string>", line 1 in <module>'
    head = "Fatal Python error: Aborted"
    assert shorten_dump(b"") == b""
    current = "Current thread 0x1 (most recent call first):"
    for there, here in [
        (f"{current}\n{ours}", f'{current}\n  File "{PACKAGE}/_wire.py", line 1 in load'),
        (
            f"Thread 0x2 (most recent call first):\n{ours}\n\n{current}\n  File a\n{ours}",
            f"{current}\n  File a",
        ),
        (
            f"{current}\n  File a\n{ours}\n\nExtension modules: b",
            f"{current}\n  File a\n\nExtension modules: b",
        ),
    ]:
        assert shorten_dump(f"{head}\n\n{there}\n".encode()) == f"{head}\n\n{here}\n".encode()


# Names.


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="the system keeps no such names")
@within(20)
async def test_ps_shows_the_name() -> None:
    """The system's name of the process is the isolate's, as much as the kernel keeps, and its number."""
    async with open_worker(name="parser") as worker, open_pool(workers=1, name="very-long-name") as pool:
        assert await worker.run(comm) == "parser"
        assert await pool.run(comm) == "very-long-nam.1"
    async with open_worker(name="very-long-worker") as worker, open_pool(workers=1, name="ü" * 9) as pool:
        assert await worker.run(comm) == "very-long-worke"
        assert await pool.run(comm) == "üüüüüü.1"  # of two bytes each


@pytest.mark.skipif(importlib.util.find_spec("setproctitle") is None, reason="the extra 'title' is missing")
@within(20)
async def test_the_whole_title() -> None:
    """With setproctitle, the command line is the isolate's name, and the short name stays."""
    async with open_worker(name="parser") as worker:
        command = Path(f"/proc/{worker.pid}/cmdline").read_bytes().rstrip(b"\0")
        assert command == b"trio_isolates: parser"
        assert await worker.run(comm) == "parser"
