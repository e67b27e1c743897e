"""The one job of trio-parallel in which an isolate lives, and how its process is started.

Three seams are here, each for our own starts only: in multiprocessing's preparation of a child, in its
look at whether a child has ended, and in Trio's choice of a thread limiter. This module does not know
what the process does.
"""

from __future__ import annotations

# trio-parallel has no types, and the list of multiprocessing's children is its private one:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.popen_forkserver
import multiprocessing.resource_tracker
import multiprocessing.spawn
import multiprocessing.util
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextvars import ContextVar
from importlib import import_module
from multiprocessing.reduction import DupFd
from typing import Any, Final, NoReturn, cast, final

import trio
import trio._threads
import trio_parallel

from . import _boot
from ._deaths import EndedEarly, read_peak

HAS_SERVER: Final = sys.platform == "linux" and hasattr(trio_parallel.WorkerType, "FORKSERVER")
_PRELOAD: Final = [f"{__package__}._preload"]


_job_to_start: ContextVar[Job | None] = ContextVar("_job_to_start", default=None)


class _ImportModule:
    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self._name,)


class _Handover:
    """Pickles into an assignment in the child, by functions of the standard library alone."""

    def __init__(self, fds: Sequence[int]) -> None:
        self._fds = fds

    def __reduce__(self) -> tuple[Any, ...]:
        fds = [DupFd(fd) for fd in self._fds]
        return setattr, (_ImportModule("multiprocessing.process"), _boot.HANDOVER, fds)


_plain_preparation_data = multiprocessing.spawn.get_preparation_data


def _preparation_data(name: str) -> dict[str, Any]:
    """For our own starts: hand over the descriptors, and leave the parent's `__main__` alone.

    A re-imported `__main__` would run an unguarded script again in every isolate.
    """
    data = _plain_preparation_data(name)
    job = _job_to_start.get()
    if job is not None:
        if name != "ignore":  # for the preloading of the forkserver, not for a process
            job.process_name = name
        data.pop("init_main_from_path", None)
        data.pop("init_main_from_name", None)
        data["trio_isolates"] = _Handover(job.fds)
    return data


_plain_poll = multiprocessing.popen_forkserver.Popen.poll
_poll_lock = threading.Lock()


def _poll(self: Any, flag: int = os.WNOHANG) -> int | None:
    """In the place of multiprocessing's, which loses the exit code if two threads are in it at once.

    A start in one thread polls all children, also one for whose end another thread waits.
    """
    if self.returncode is None:
        if not multiprocessing.connection.wait([self.sentinel], 0 if flag == os.WNOHANG else None):
            return None
        with _poll_lock:
            is_news = self.returncode is None  # else another thread was here meanwhile
            _plain_poll(self, flag)
            if is_news:
                self.peak_rss = read_peak(self.sentinel)
    return cast(int, self.returncode)


_plain_thread_limiter = trio.to_thread.current_default_thread_limiter


def _thread_limiter() -> trio.CapacityLimiter:
    """For our own starts and ends: a limiter that nobody else holds.

    trio-parallel does both in threads under Trio's default limiter, shielded: with all its tokens
    taken by the program's own threads, nothing could be started, killed or left.
    """
    job = _job_to_start.get()
    return _plain_thread_limiter() if job is None else job.thread_limiter


def prepare_starts() -> None:
    """Take our place in multiprocessing's preparation of a child, and in Trio's choice of a limiter; once."""
    if multiprocessing.spawn.get_preparation_data is _preparation_data:
        return
    multiprocessing.spawn.get_preparation_data = _preparation_data
    trio._threads.current_default_thread_limiter = _thread_limiter
    multiprocessing.popen_forkserver.Popen.poll = _poll  # type: ignore[method-assign]
    # Made before the first start, it is inherited: a killed isolate that had isolates leaves no folder.
    multiprocessing.util.get_temp_dir()
    server: Any = multiprocessing.forkserver._forkserver
    # Untouched by the program: then the server may load what every isolate needs.
    if server._preload_modules == ["__main__"]:
        server.set_forkserver_preload(_PRELOAD)
        if HAS_SERVER and server._forkserver_pid is None:
            _start_server()


def _start_server() -> None:
    """Start the forkserver with Ctrl-C held back until it has loaded what makes it ignore that."""
    multiprocessing.resource_tracker.ensure_running()  # first, as its start ends by letting Ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@final
class _Unheard:
    """In the place of the channel by which trio-parallel gets a job's outcome, and would unpickle it.

    Whatever comes is the end of the job, and is not read.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def receive(self) -> NoReturn:
        await trio.lowlevel.wait_readable(self._fd)
        raise trio.EndOfChannel


def _unheard(worker_class: Any) -> Any:
    class Worker(worker_class):  # type: ignore[misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._receive_chan = _Unheard(self._recv_pipe.fileno())

    return Worker


@final
class Job:
    """The one job of a private trio-parallel context, and what became of it."""

    def __init__(self, worker_type: Any, fds: Sequence[int], *, is_data_only: bool) -> None:
        self._worker_type = worker_type
        self._is_data_only = is_data_only
        self.fds = fds
        self.process_name: str | None = None
        self.thread_limiter = trio.CapacityLimiter(1)
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.exitcode: int | None = None
        self.peak_rss: int | None = None
        self.failure: BaseException | None = None
        # trio-parallel takes a process for dead when the forkserver is, and would let go of its pipes
        # while it still writes its farewell.
        self._context: Any = None

    def let_go(self) -> None:
        self._context = None

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        token = _job_to_start.set(self)
        try:
            with self.scope:
                async with trio_parallel.open_worker_context(
                    idle_timeout=float("inf"),
                    init=bool,
                    retire=_boot.retire,
                    grace_period=5.0,
                    worker_type=self._worker_type,
                ) as context:
                    self._context = context
                    if self._is_data_only:
                        vars(context)["_worker_class"] = _unheard(vars(context)["_worker_class"])
                    await context.run_sync(_boot.main, kill_on_cancel=True, limiter=trio.CapacityLimiter(1))
                self.exitcode = 0
        except trio_parallel.BrokenWorkerError as exc:
            process = next((arg for arg in exc.args if hasattr(arg, "exitcode")), None)
            self.exitcode = getattr(process, "exitcode", None)
            self.peak_rss = getattr(getattr(process, "_popen", None), "peak_rss", None)
            del process
            # Not the exception itself: its frames and its process hold pipes open, until a collection or
            # until Trio's thread has let go of it.
            traceback.clear_frames(exc.__traceback__)
            exc.with_traceback(None).args = ()
            self.failure = EndedEarly(self.exitcode)
        except (OSError, EOFError) as exc:
            self.failure = exc.with_traceback(None)
        finally:
            _job_to_start.reset(token)
            self._forget_process()
            self.ended.set()

    def _forget_process(self) -> None:
        """Join what trio-parallel found dead and did not join: multiprocessing would keep its pipes."""
        for process in list(multiprocessing.process._children):  # type: ignore[attr-defined]
            if process.name == self.process_name:
                process.join(0)
