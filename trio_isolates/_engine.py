"""Starting an isolate somewhere: the seam, and the engine that starts processes.

An engine gives a byte stream, a page that both sides see, a death notice with a reason, and a kill,
nothing more. It does not know what is said on the stream. `ProcessEngine` hosts each isolate as one
long job of a trio-parallel worker process that is never used again.
"""

from __future__ import annotations

# trio-parallel has no types, and the list of multiprocessing's children is its private one:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false
import contextlib
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Final, Protocol, final

import trio
import trio_parallel
from attrs import define, field

from . import _environment
from ._bulk import Bulk
from ._deaths import (
    Death,
    EndedEarly,
    MemoryWatch,
    exitcode_of_zombie,
    print_dump,
    shorten_dump,
)
from ._interrupt import SIGNAL
from ._job import HAS_SERVER, Job, prepare_starts
from ._link import Pipe, SocketPipe, receive_fds
from ._memory import TAIL_SIZE, Page
from ._messages import Changes
from ._side import SocketSide

_REASON_WAIT: Final = 0.09  # seconds that a death seen by the kernel waits for trio-parallel's exit code
_PEAK_WAIT: Final = 0.02  # and where the exit code is known, for the word of how much memory it had


class Host(Protocol):
    """A started isolate, as its engine sees it."""

    @property
    def pid(self) -> int: ...

    @property
    def pipe(self) -> Pipe: ...

    @property
    def page(self) -> Page: ...

    async def wait_dead(self) -> Death:
        """Wait until the isolate is gone, and say how it ended."""
        ...

    def release(self) -> None:
        """After the death: the stream has been read to its end and nothing here is needed any more."""
        ...

    def kill(self) -> None:
        """End it at once, with everything it has started. Does nothing if it is gone."""
        ...

    def interrupt(self) -> None:
        """Make the isolate look at the page now. Does nothing where that is not possible."""
        ...

    @property
    def bulk(self) -> Bulk:
        """By which large memory travels."""
        ...

    @property
    def hand_over(self) -> Callable[[Sequence[int]], int] | None:
        """Gives the isolate descriptors, and returns the number under which a frame may speak of them.

        Raises `OSError`. None where the isolate can use none.
        """
        ...


class Engine(Protocol):
    """Starts isolates."""

    async def host(self, name: str, changes: Changes, *, task_status: trio.TaskStatus[Host]) -> None:
        """Start one, report it as started, and return when nothing of it is left.

        changes: where an isolate is no process of its own, they make no difference. Raises `OSError`
        or `EndedEarly` if it could not be started. A cancellation kills it.
        """
        ...


@define(eq=False)
class _Started:
    """The process host's state: written by the tasks of `ProcessEngine.host`, read through `Host`."""

    pid: int
    pipe: SocketPipe
    page: Page
    pidfd: int
    bulk: Bulk
    hand_over: Callable[[Sequence[int]], int]
    _give_up: Callable[[], None]
    _memory_watch: MemoryWatch
    _dead: trio.Event = field(factory=trio.Event)
    _released: trio.Event = field(factory=trio.Event)
    _death: Death | None = None

    @property
    def is_gone(self) -> bool:
        return self._death is not None

    async def wait_dead(self) -> Death:
        await self._dead.wait()
        assert self._death is not None
        return self._death

    def release(self) -> None:
        self._released.set()

    async def watch(self, job: Job) -> None:
        """Wait for the end, whoever sees it first, and report it; return when we are released."""
        at: float | None = None
        exitcode: int | None = None
        try:
            if self.pidfd >= 0:
                await trio.lowlevel.wait_readable(self.pidfd)
                at = time.monotonic()
                exitcode = exitcode_of_zombie(self.pid)
                self.kill_group()
                with trio.move_on_after(_REASON_WAIT if exitcode is None else _PEAK_WAIT):
                    await job.ended.wait()
            else:
                await job.ended.wait()
        finally:
            self._death = self._look_into(job, exitcode, at)
            self.kill_group()
            self._dead.set()
        await self._released.wait()

    def _look_into(self, job: Job, exitcode: int | None, at: float | None) -> Death:
        if exitcode is None:
            exitcode = job.exitcode
        dump = shorten_dump(self.page.last_words())
        print_dump(dump)
        tail = self.page.stderr_tail() + dump.decode("utf-8", "replace")
        return Death(
            self.pid,
            exitcode,
            tail[-TAIL_SIZE:],
            peak_rss=job.peak_rss,
            out_of_memory=exitcode == -signal.SIGKILL and self._memory_watch.explains_a_kill(),
            at=time.monotonic() if at is None else at,
        )

    def kill(self) -> None:
        if self.is_gone:
            return
        self.kill_group()
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        else:
            self._give_up()

    def kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def interrupt(self) -> None:
        if self.is_gone:
            return
        with contextlib.suppress(ProcessLookupError):
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, SIGNAL)
            else:
                os.kill(self.pid, SIGNAL)


def _open_standard() -> list[int]:
    """Descriptors 1 and 2, as far as they are open."""
    fds: list[int] = []
    for fd in (1, 2):
        try:
            os.fstat(fd)
        except OSError:
            break
        fds.append(fd)
    return fds


@final
class ProcessEngine:
    """Each isolate is a process of its own, started by a forkserver where there is one, else by spawn."""

    def __init__(self) -> None:
        self._worker_type = trio_parallel.WorkerType["FORKSERVER" if HAS_SERVER else "SPAWN"]

    @trio.lowlevel.enable_ki_protection
    async def host(self, name: str, changes: Changes, *, task_status: trio.TaskStatus[Host]) -> None:
        prepare_starts()
        for attempt in (1, 2):
            try:
                await self._host(name, changes, task_status)
                return
            except (EOFError, ConnectionError, FileNotFoundError):
                # The forkserver died while it was asked; the next start makes a new one.
                if attempt == 2:
                    raise

    async def _host(self, name: str, changes: Changes, task_status: trio.TaskStatus[Host]) -> None:
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.callback(theirs.close)
            side, their_side = socket.socketpair()
            stack.callback(side.close)
            stack.callback(their_side.close)
            pipe = SocketPipe(ours)
            stack.callback(pipe.close)
            page = Page.create(pickle.dumps((name, _environment.capture(changes), changes.is_data_only)))
            stack.callback(page.close)
            memory_watch = MemoryWatch()
            fds = [theirs.fileno(), their_side.fileno(), page.fd, *_open_standard()]

            job = Job(self._worker_type, fds, is_data_only=changes.is_data_only)
            stack.callback(job.let_go)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(job.run)
                hello = await _receive_hello(side, job, stack)
                if hello is None:
                    nursery.cancel_scope.cancel()
                else:
                    theirs.close()
                    their_side.close()
                    pid, pidfd = hello
                    beside = SocketSide(side)
                    started = _Started(
                        pid, pipe, page, pidfd, Bulk(beside), beside.send, job.scope.cancel, memory_watch
                    )
                    task_status.started(started)
                    await started.watch(job)
                    job.scope.cancel()
            if hello is None:
                raise job.failure or EndedEarly(job.exitcode)


async def _receive_hello(
    side: socket.socket, job: Job, stack: contextlib.ExitStack
) -> tuple[int, int] | None:
    """Wait for the process to say its pid and hand over its pidfd; None if it ended before.

    stack: closes the pidfd.
    """
    side.setblocking(False)
    hello: tuple[int, int] | None = None
    async with trio.open_nursery() as nursery:

        @trio.lowlevel.enable_ki_protection
        async def wait_for_end() -> None:
            await job.ended.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait_for_end)
        while hello is None:
            await trio.lowlevel.wait_readable(side)
            with contextlib.suppress(BlockingIOError):
                data, fds = receive_fds(side, 64)
                for fd in fds:  # at once: a cancellation may come out of the nursery below
                    stack.callback(os.close, fd)
                if not data:
                    await job.ended.wait()
                hello = int(data), fds[0] if fds else -1
        nursery.cancel_scope.cancel()
    return hello


current_engine: ContextVar[Engine | None] = ContextVar("current_engine", default=None)
_process_engine: Final = ProcessEngine()


def find_engine(engine: Engine | str | None) -> Engine:
    """Return the engine itself, the one of that name, or the one in force where it is None."""
    if engine is None:
        return current_engine.get() or _process_engine
    if isinstance(engine, type):
        raise TypeError(f"engine= must be an engine object, not a class; did you mean {engine.__name__}()?")
    if not isinstance(engine, str):
        if not callable(getattr(engine, "host", None)):
            raise TypeError(f"engine= must be 'process' or an engine object, not {engine!r}")
        return engine
    if engine == "process":
        return _process_engine
    raise ValueError(f"there is no engine {engine!r}; give 'process' or an engine object")
