"""What can still be told of a process that is dead: how it ended, where it crashed, its memory.

This module reads what the kernel, the forkserver and faulthandler have left. It does not know what
the process was there for.
"""

from __future__ import annotations

# The forkserver's pipe is multiprocessing's private one:
# pyright: reportPrivateUsage=false
import contextlib
import functools
import os
import re
import select
import signal
import time
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any, Final, cast, final

import trio_parallel
from attrs import field, frozen

_OURS: Final = re.compile(rb'  File "%b/' % re.escape(os.fsencode(Path(__file__).parent)))
_GROUPS: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")


@frozen
class Death:
    """How an isolate ended.

    exitcode is negative for a signal, None if nobody could tell; stderr_tail is the end of its stderr.
    peak_rss: the bytes of memory that it had at its largest, or None; out_of_memory: the kernel has
    killed something of this program for lack of memory, and by all appearances this; at: when it was
    seen to be dead, by `time.monotonic`.
    """

    pid: int | None
    exitcode: int | None
    stderr_tail: str = ""
    peak_rss: int | None = None
    out_of_memory: bool = False
    at: float = field(factory=time.monotonic)

    @property
    def signal(self) -> str | None:
        """The name of the signal that ended it ("SIGKILL"), or None."""
        if self.exitcode is None or self.exitcode >= 0:
            return None
        try:
            return signal.Signals(-self.exitcode).name
        except ValueError:
            return f"signal {-self.exitcode}"


@final
class EndedEarly(trio_parallel.BrokenWorkerError):  # type: ignore[misc]  # trio-parallel has no types
    """The process of an isolate ended before it could connect. `exitcode` is as in `Death`."""

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(exitcode)
        self.exitcode = exitcode


def exitcode_of_zombie(pid: int) -> int | None:
    """How a process has ended that its forkserver has not reaped yet; None if that cannot be told.

    A busy machine may keep the forkserver waiting for long. 0 is also what the kernel says to those
    whom it does not let look, so it tells nothing.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    state, *fields = stat.rpartition(b") ")[2].split()
    status = int(fields[48]) if state == b"Z" else 0
    return os.waitstatus_to_exitcode(status) if status else None


# Where it crashed.


def shorten_dump(dump: bytes) -> bytes:
    """Return what faulthandler wrote without the frames that are always there, the crashed thread first.

    Those are ours, and what called us. Where nothing else is, the innermost of ours stays.
    """
    head, *threads = dump.split(b"\n\n")
    kept: list[bytes] = []
    for thread in threads:
        lines = thread.splitlines()
        end = next((number for number, line in enumerate(lines) if _OURS.match(line)), len(lines))
        if lines and lines[0].startswith(b"Current thread"):
            kept.insert(0, b"\n".join(lines[: max(2, end)]))
        elif end > 1 or len(lines) == 1:
            kept.append(b"\n".join(lines[:end]))
    return b"\n\n".join([head, *kept]).rstrip() + b"\n" if dump else b""


def print_dump(dump: bytes) -> None:
    """Write to standard error what an isolate that crashed could not; as much as it takes without a wait."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        while dump and poll.poll(0) == [(2, select.POLLOUT)]:
            dump = dump[os.write(2, dump[: select.PIPE_BUF]) :]


# How much memory it had. Only who reaps a process is told, and that is the forkserver. It writes eight
# bytes of exit code into a pipe; ours writes eight more behind them, which nobody else reads.


class _ReapingOs:
    """`os`, as the loop of the forkserver sees it."""

    def __init__(self) -> None:
        self.peak: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        self.peak = None
        pid, status, usage = os.wait4(pid, options)
        if pid:
            self.peak = usage.ru_maxrss << 10
        return pid, status


def tell_peaks() -> None:
    """Have this forkserver say how much memory each process had that it reaps."""
    server: Any = forkserver
    reaper, plain_write = _ReapingOs(), server.write_signed

    def write_signed(fd: int, number: int) -> None:
        peak, reaper.peak = reaper.peak, None
        if peak is None:
            plain_write(fd, number)
        else:  # in one piece, so that who has read the first number finds the second
            os.write(fd, server.SIGNED_STRUCT.pack(number) + server.SIGNED_STRUCT.pack(peak))

    server.os, server.write_signed = reaper, write_signed


def read_peak(sentinel: int) -> int | None:
    """Read how much memory a process had, behind its exit code; None if its forkserver does not say."""
    try:
        if connection.wait([sentinel], 0):
            return cast(int, cast(Any, forkserver).read_signed(sentinel))
    except (OSError, EOFError):
        pass
    return None


# Who killed it.


@functools.cache
def _counter() -> Path | None:
    """Return the file in which the kernel counts what of our control group it has killed, or None."""
    try:
        lines = _MEMBERSHIP.read_text("utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, group = line.split(":", 2)
        folder, name = _GROUPS, "memory.events"
        if "memory" in controllers.split(","):
            folder, name = _GROUPS / "memory", "memory.oom_control"
        elif controllers:
            continue
        for file in (folder / group.lstrip("/") / name, folder / name):  # inside a container, the second
            if file.exists():
                return file
    return None


def _count_kills() -> int:
    file = _counter()
    with contextlib.suppress(OSError):
        for line in file.read_text("utf-8").splitlines() if file else ():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


@final
class MemoryWatch:
    """Knows whether the kernel has killed something of ours for lack of memory since this was made.

    Each such kill is one death: the next SIGKILL is not taken for another.
    """

    _explained = 0  # kills of which the deaths are known

    def __init__(self) -> None:
        self._before = _count_kills()

    def explains_a_kill(self) -> bool:
        before = max(self._before, MemoryWatch._explained)
        if _count_kills() <= before:
            return False
        MemoryWatch._explained = before + 1
        return True
