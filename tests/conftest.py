"""What holds for every test: it leaves nothing behind.

A hard limit of time for each test is in pyproject.toml (`timeout`).
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import psutil
import pytest

# A shell's background job ignores Ctrl-C, and one under nohup the end of its terminal; and so would the
# programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Inherited by every process that a test starts, so that one whose parent is dead is found as well.
MARK = "TRIO_ISOLATES_TEST_RUN"
RUN = os.environ[MARK] = f"{os.getpid()}.{time.time_ns()}"

STARTED = psutil.Process().create_time()

# Else each of the many processes that the tests start would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What every test would have to look at again: nobody becomes one of ours later.
_strangers: set[int] = set()

PATIENCE = 2.0
"""Seconds that what was killed may take until it is reaped, and what noticed an end until it has ended."""

FDS = next(folder for folder in (Path("/proc/self/fd"), Path("/dev/fd")) if folder.exists())
MAPS = Path("/proc/self/maps")
SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_NAMES = (
    "psm_",
    "pym-",
    "trio_isolates",
    "trio-isolates",
)  # not the semaphores of other programs

# What may stay, once per program, besides Trio's cached threads. Both are the standard library's own
# private records, which is how one that a test has killed and restarted is still known for what it is.
_forkserver: Any = forkserver._forkserver
_tracker: Any = resource_tracker._resource_tracker


def _describe(child: psutil.Process) -> str:
    try:
        return f"process {child.pid} ({child.status()}): {' '.join(child.cmdline())[:300]}"
    except psutil.ZombieProcess:
        return f"process {child.pid} (zombie)"
    except psutil.NoSuchProcess:
        return f"process {child.pid} (gone while it was looked at)"


def _processes() -> Iterator[psutil.Process]:
    """Everything below this process, and everything that came from it and lost its parent."""
    pids = set(psutil.pids())
    _strangers.intersection_update(pids)
    pids -= {os.getpid(), _forkserver._forkserver_pid, _tracker._pid} | _strangers
    below = {child.pid: child for child in psutil.Process().children(recursive=True)} if pids else {}
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = below.get(pid) or psutil.Process(pid)
            if pid in below or _is_ours(process):
                yield process


def _is_ours(process: psutil.Process) -> bool:
    """Return True if it came from this run; one of which it is certain that it did not is a stranger."""
    try:
        variables = process.environ()
    except psutil.AccessDenied:
        variables = {MARK: ""}
    except psutil.NoSuchProcess:  # a zombie, or one of the kernel's, if it is not gone
        variables = {}
    if variables.get(MARK) == RUN:
        return True
    if variables or process.create_time() < STARTED:  # it may have none because it just starts a program
        _strangers.add(process.pid)
    return False


def _fds() -> Iterator[tuple[str, object]]:
    kept = (_forkserver._forkserver_alive_fd, _tracker._fd)
    for name in os.listdir(FDS):
        with suppress(OSError):  # the one that lists the folder is gone by now
            stat = os.fstat(int(name))
            target = os.readlink(FDS / name) if MAPS.exists() else oct(stat.st_mode)
            if int(name) not in kept:
                yield f"fd {name} -> {target}", (int(name), stat.st_dev, stat.st_ino)


def _memory() -> Iterator[str]:
    if MAPS.exists():
        for line in MAPS.read_text("utf-8", "surrogateescape").splitlines():
            if "/memfd:" in line or "/dev/shm/" in line:
                yield f"mapped memory {line.split(maxsplit=3)[3]}"  # without its address, which may change
    if SHARED_MEMORY.exists():
        for name in os.listdir(SHARED_MEMORY):
            if name.startswith(SHARED_MEMORY_NAMES):
                yield f"shared memory {name}"


def _now(temporary: Path) -> dict[object, Any]:
    """All that is there: what identifies it, and how to name it to a reader."""
    found: dict[object, Any] = {child: child for child in _processes()}
    found |= {identity: text for text, identity in _fds()}
    found |= {text: text for text in _memory()}
    found |= {
        thread: f"thread {thread.name!r}"
        for thread in threading.enumerate()
        if not thread.name.startswith("Trio thread ")
    }
    found |= {path: f"file {path}" for path in temporary.iterdir()}
    return found


def pytest_collection_finish() -> None:
    """Have the collector, which many tests ask for, leave out all that is here before the first of them."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let go of what the tests have left to the collector while all that it needs is still there."""
    gc.unfreeze()
    gc.collect()


@pytest.fixture(scope="session")
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary folder of this run's own, where every file is one of ours.

    Its path is short, because a socket's may have only 104 characters on macOS.
    """
    # What lives longer than the run stays where it always is: tmp_path's folders, the forkserver's socket.
    tmp_path_factory.getbasetemp()
    get_temp_dir()
    with tempfile.TemporaryDirectory(prefix="ti-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture(autouse=True)
def nothing_left_behind(temporary_folder: Path) -> Iterator[None]:
    """Fail a test after which there is a process, fd, thread, file or piece of memory more than before it."""
    before = _now(temporary_folder)
    yield
    deadline = time.monotonic() + PATIENCE
    while left := {key: what for key, what in _now(temporary_folder).items() if key not in before}:
        if time.monotonic() > deadline:
            break
        gc.collect()  # a cycle may hold an fd; its ResourceWarning is an error of its own
        time.sleep(0.01)
    if left:
        text = "\n  ".join(_describe(w) if isinstance(w, psutil.Process) else w for w in left.values())
        for child in left.values():
            if isinstance(child, psutil.Process):
                with suppress(psutil.Error):  # or it would take the processor from the tests after this one
                    child.kill()
        pytest.fail(f"left behind {PATIENCE} seconds after the test:\n  {text}", pytrace=False)
