"""Isolates for tests of programs that use isolates: tasks of the same process, without its waits.

`InlineEngine` keeps what makes an isolate one (messages are pickled both ways, each isolate has its
own end of a link, its own context, its own death) and leaves out the process, so that a test runs in
milliseconds, under `trio.testing.MockClock` too, and can have isolates die and values fail to travel
at points that it chooses. It does not know what a worker or a pool does with its isolates.
"""

from __future__ import annotations

import signal
import traceback
import warnings
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from functools import partial
from itertools import count
from typing import Any, Final, Literal, NoReturn, TypeAlias, final, get_args

import trio
from attrs import define, field

from ._async_server import AsyncServer
from ._bulk import Bulk
from ._data import pack_error
from ._deaths import Death
from ._engine import Host, current_engine
from ._errors import CallInterrupted, UnsendableError
from ._exchange import Exchange
from ._here import exchange_of_tasks, run_soon
from ._identities import Identities
from ._interrupt import Interrupter
from ._link import Link
from ._memory import Page
from ._messages import ADDRESS, DEFINE, ERROR, FAILED, RECORD, SPEC, VALUE, Changes, Chunk, Frame, Spec
from ._notes import File, Notes, take_over
from ._open_worker import Worker
from ._pickling import Codec
from ._pool import Pool
from ._run import isolate_limiter, usable_cpus
from ._service import Service, Work
from ._side import NearSide
from ._unsendable import type_name
from ._wire import encode_definitions

__all__ = ["InlineEngine"]

Point: TypeAlias = Literal["spawn", "pickle", "unpickle", "call"]

_CAPACITY: Final = 64 << 10  # bytes that are on their way in one direction, at most
_PATIENCE: Final = 10_000  # turns of Trio's loop in which a killed isolate should have ended

# No process has such a pid (Linux: at most 2**22), so that a signal sent to one by mistake hits nobody.
_pids = count(2**22 + 1)


@final
class InlineEngine:
    """Runs each isolate as tasks of this process and this Trio run.

        async with open_worker(handler, engine=InlineEngine()) as worker: ...

    or, for all isolates of a test, the pytest fixture `inline_isolates`. All the promises of workers
    and pools hold, with these exceptions, which need a process:

    * A sync handler runs in Trio's loop, one call at a time: while it runs, nothing else does, so it
      cannot be interrupted, nor killed. `on_cancel` makes no difference.
    * A kill is a cancellation from which no shield protects: `finally` blocks run, and what they
      await is cut short. What swallows `trio.Cancelled` for ever, or waits for a thread, goes on; a
      `RuntimeWarning` says so, and the isolate's end is waited for.
    * A handler that exits or crashes the process (`os._exit`, a segmentation fault) takes the test
      with it. A Ctrl-C that lands in a handler is that call's error.
    * Modules are shared: a handler that can be imported sees the test's own globals, environment,
      working directory, standard streams and logging. Only what is pickled is copied: arguments,
      results, errors, state of bound methods, and the globals of functions that travel by value.
    * What sets up a process (`nice`, `cpu_affinity`, `env`, `cwd`, `threads`) is checked, and makes no
      difference.
    * `pid` is made up, larger than any process's. `stderr_tail` is always empty.

    Isolates that an isolate opens are inline ones of the same engine.
    """

    def __init__(self) -> None:
        self._isolates: list[_InlineHost] = []  # not yet gone
        self._faults = _Faults()

    def __repr__(self) -> str:
        return f"<trio_isolates.testing.InlineEngine isolates={sum(i.is_alive for i in self._isolates)}>"

    @trio.lowlevel.enable_ki_protection
    async def host(self, name: str, changes: Changes, *, task_status: trio.TaskStatus[Host]) -> None:
        """Start an isolate and see it through its life; `open_worker` and its kin call this."""
        await trio.lowlevel.checkpoint()
        if (failure := self._faults.take("spawn")) is not None:
            raise failure
        isolate = _InlineHost(name, self._faults, changes)
        # As a new process does, it starts with no context variable set.
        context = Context()
        context.run(current_engine.set, self)
        context.run(isolate_limiter.set, trio.CapacityLimiter(usable_cpus()))
        self._isolates.append(isolate)
        try:
            async with trio.open_nursery() as nursery:
                context.run(nursery.start_soon, isolate.live)
                task_status.started(isolate)
                await isolate.watch()
        finally:
            self._isolates.remove(isolate)

    def kill(self, worker: Worker[..., Any] | Pool[..., Any] | str) -> None:
        """Have an isolate die as by SIGKILL from outside: unasked, without a last word, now.

        Args:
            worker: a worker; a pool, of which the first isolate that can serve is meant; or the name
                of an isolate, also of one that is still starting ("name.2" is a pool's second).

        Raises:
            ValueError: no such isolate is alive on this engine.
        """
        self._find(worker).kill()

    def stall(self, worker: Worker[..., Any] | Pool[..., Any] | str) -> None:
        """Have an isolate hang: from now on it reads nothing and none of its answers arrives.

        What it runs goes on unheard. It stays so until it is killed: by `kill`, by `shutdown_grace`, or
        by `cancel_grace` after the cancellation of a call that it has begun. One that it has not begun
        is cancelled at once, and the isolate lives on. Arguments and errors are as for `kill`.
        """
        self._find(worker).stall()

    def fail_next(self, point: Point, exc: BaseException) -> None:
        """Have something fail once, the next time that any isolate of this engine comes to it.

        Several failures of one point are used up one by one, in the order of these calls.

        Args:
            point: "spawn": the next start of an isolate raises `exc`.
                "pickle": the next result cannot be pickled, because of `exc`.
                "unpickle": the arguments of the next call cannot be unpickled, because of `exc`.
                "call": the next call raises `exc` instead of calling the handler.
            exc: the exception.
        """
        if point not in get_args(Point):
            raise ValueError(f"there is no point {point!r}; give one of {get_args(Point)}")
        if not isinstance(exc, BaseException):
            raise TypeError(f"exc must be an exception, not {exc!r}")
        self._faults.add(point, exc)

    def _find(self, worker: object) -> _InlineHost:
        pid: int | None = None
        name: str | None = None
        if isinstance(worker, Worker):
            pid, name = worker.pid, worker.name
        elif isinstance(worker, Pool):
            pid = next(iter(worker.pids), None)
        elif isinstance(worker, str):
            name = worker
        else:
            raise TypeError(f"give a Worker, a Pool or the name of an isolate, not {worker!r}")
        for isolate in self._isolates:
            if isolate.is_alive and (isolate.name == name if pid is None else isolate.pid == pid):
                return isolate
        raise ValueError(f"no isolate of {worker!r} is alive on {self!r}")


@final
class _Faults:
    """The failures that were ordered and have not happened yet."""

    def __init__(self) -> None:
        self._waiting: dict[Point, deque[BaseException]] = {point: deque() for point in get_args(Point)}

    def add(self, point: Point, exc: BaseException) -> None:
        self._waiting[point].append(exc)

    def take(self, point: Point) -> BaseException | None:
        waiting = self._waiting[point]
        return waiting.popleft() if waiting else None


@final
class _InlineHost:
    """One isolate: `live` is the isolate itself, `watch` its end, the rest is what the parent sees."""

    def __init__(self, name: str, faults: _Faults, changes: Changes) -> None:
        self.name = name
        self._changes = changes
        self.pid = next(_pids)
        self.page = Page.local()
        self.pipe, self._far = _open_pipes()
        side, self._far_side = NearSide.open_pair()
        self.bulk, self._far_bulk = (Bulk(end, has_segments=False) for end in (side, self._far_side))
        self._faults = faults
        self._notes: tuple[Notes, File] | None = None
        self._scope = trio.CancelScope(shield=True)  # only `kill` ends it
        self._exitcode = 0
        self._is_exiting = trio.Event()
        self._stopping = trio.Event()  # killed, or ended by itself
        self._ended = trio.Event()
        self._released = trio.Event()

    @property
    def is_alive(self) -> bool:
        return not self._stopping.is_set()

    @trio.lowlevel.enable_ki_protection
    async def live(self) -> None:
        """Serve until told to close, or killed."""
        try:
            with self._scope:
                await self._serve()
        except Exception:
            traceback.print_exc()
            self._exitcode = self._exitcode or 1
        finally:
            self._far.close()
            self._far_bulk.close()
            if self._notes is not None:
                notes, file = self._notes
                notes.flush()
                file.close()
            self._stopping.set()
            self._ended.set()

    async def _serve(self) -> None:
        identities = Identities()
        link = Link(self._far, find=self._far_bulk.find)
        codec = Codec(side=1, identities=identities)
        title = f"isolate {self.name!r} (pid {self.pid})"
        first = await self._read_spec(link, codec)
        if first is None:
            return
        path, frame = first
        exchange = Exchange(path, name=self.name, pid=self.pid, identities=identities)
        if self._notes is not None:
            exchange.notes = self._notes[0]
            exchange.notes.soon = exchange.soon
        exchange.expect_parent(codec, self._far_bulk)
        exchange_of_tasks.set(exchange)
        exchange.wake = partial(run_soon, trio.lowlevel.current_trio_token(), exchange.sweep)
        exchange.exit = partial(self._exit, link)
        try:
            spec: Spec = codec.loads(frame[2], frame[3])
            service = self._service = _FailingService(
                self._faults, spec, codec, self.page, title, exchange=exchange
            )
        except BaseException as exc:
            is_data_only = self._changes.is_data_only
            chunks, buffers, definitions = pack_error(codec, exc, title, is_data_only=is_data_only)
            await _say(
                link, encode_definitions(definitions) + self._far_bulk.encode(FAILED, 0, chunks, buffers)
            )
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_told, link)
            await AsyncServer(service, link).run()
            nursery.cancel_scope.cancel()

    async def _read_spec(self, link: Link, codec: Codec) -> tuple[bytes, Frame] | None:
        """Return where this isolate is and the frame that says what to serve; None if the parent is gone."""
        path = b""
        while frames := await link.read():
            for frame in frames:
                if frame[0] == DEFINE:
                    codec.define(frame[1], bytes(frame[2]))
                elif frame[0] == ADDRESS:
                    path = bytes(frame[2])
                elif frame[0] == RECORD:
                    self._notes = take_over(self._far_side, frame[1], bytes(frame[2]), path)
                elif frame[0] == SPEC:
                    return path, frame
        return None

    def _exit(self, link: Link) -> NoReturn:
        for chunks in self._service.last_words():
            link.write(chunks, now=True)
        link.finish()
        self._service.exchange.is_paused = True  # no call begins any more
        self._is_exiting.set()
        raise CallInterrupted

    async def _end_when_told(self, link: Link) -> None:
        await self._is_exiting.wait()
        await link.drained()
        self._far.close()
        self._scope.cancel()
        self._stopping.set()

    async def watch(self) -> None:
        """Wait for the end and for everybody to know of it. Cancelled: kill."""
        try:
            await self._stopping.wait()
        finally:
            self.kill()
            await self._reap()
        await self._released.wait()

    async def _reap(self) -> None:
        for _ in range(_PATIENCE):
            if self._ended.is_set():
                return
            _break_shields(self._scope)
            await trio.lowlevel.cancel_shielded_checkpoint()
        warnings.warn(
            f"isolate {self.name!r} was killed and does not end: it waits for a thread, or swallows "
            "trio.Cancelled. A process would be gone; an inline isolate has to be waited for.",
            RuntimeWarning,
            stacklevel=1,
        )
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    # What the parent sees.

    async def wait_dead(self) -> Death:
        await self._ended.wait()
        return Death(self.pid, self._exitcode)

    def release(self) -> None:
        self._released.set()

    def kill(self) -> None:
        if self.is_alive:
            self._exitcode = -signal.SIGKILL
            self._far.close()  # no last word
            self._scope.cancel()
            self._stopping.set()

    hand_over = None

    def interrupt(self) -> None:
        pass

    def stall(self) -> None:
        self._far.stall()


def _break_shields(scope: Any) -> None:
    """Have a cancelled scope cancel all inside of it, shielded or not.

    Trio has no public way from a scope to those inside of it, for good reasons: to hold its
    clean-up against a cancellation is every task's right, but not against a kill.
    """
    waiting = [scope._cancel_status]
    while waiting:
        if (status := waiting.pop()) is not None:
            status._scope.shield = False
            waiting += status._children


@final
class _FailingService(Service):
    """A service in which things fail when a test has ordered it."""

    def __init__(
        self, faults: _Faults, spec: Spec, codec: Codec, page: Page, title: str, *, exchange: Exchange
    ) -> None:
        interrupter = Interrupter(page)
        super().__init__(spec, codec, interrupter, title, lambda: None, exchange=exchange, may_block=False)
        self._faults = faults

    def open(self, frame: Frame) -> tuple[int, Work]:
        if (exc := self._faults.take("unpickle")) is not None:
            words = f"cannot unpickle the message: {type(exc).__name__}: {exc}"
            raise UnsendableError(words, type_name=type_name(exc)) from exc
        kind, work = super().open(frame)
        if (exc := self._faults.take("call")) is not None:
            work = partial(_raise, exc), *work[1:]
        return kind, work

    def encode(self, kind: int, ident: int, value: object = None) -> list[Chunk]:
        if kind == VALUE and (exc := self._faults.take("pickle")) is not None:
            name = type_name(value)
            words = f"result: cannot pickle '{name}': {type(exc).__name__}: {exc}"
            kind, value = ERROR, UnsendableError(words, path="result", type_name=name)
            value.__cause__ = exc
        return super().encode(kind, ident, value)


def _raise(exc: BaseException, *_args: object, **_kwargs: object) -> object:
    raise exc


async def _say(link: Link, chunks: list[Chunk]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run_writer)
        link.write(chunks, now=True)
        await link.drained()
        nursery.cancel_scope.cancel()


@define(eq=False)
class _Stream:
    """Bytes on their way in one direction."""

    data: bytearray = field(factory=bytearray)
    is_closed: bool = False
    changed: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    def close(self) -> None:
        self.is_closed = True
        self.changed.unpark_all()


@final
class _MemoryPipe:
    """One end of a `Pipe` that stays within the process."""

    def __init__(self, incoming: _Stream, outgoing: _Stream) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._is_stalled = False

    def send(self, chunks: Sequence[Chunk]) -> int:
        stream = self._outgoing
        if stream.is_closed:
            raise BrokenPipeError
        room = 0 if self._is_stalled else _CAPACITY - len(stream.data)
        if not room:
            raise BlockingIOError
        for chunk in chunks:
            stream.data += memoryview(chunk)[: _CAPACITY - len(stream.data)]
        stream.changed.unpark_all()
        return room - (_CAPACITY - len(stream.data))

    def receive(self, memory: memoryview) -> int:
        stream = self._incoming
        if self._is_stalled or not (stream.data or stream.is_closed):
            raise BlockingIOError
        count = min(len(memory), len(stream.data))
        memory[:count] = stream.data[:count]
        del stream.data[:count]
        stream.changed.unpark_all()
        return count

    async def wait_readable(self) -> None:
        stream = self._incoming
        await _wait(stream, ready=bool(stream.data or stream.is_closed) and not self._is_stalled)

    async def wait_writable(self) -> None:
        stream = self._outgoing
        has_room = len(stream.data) < _CAPACITY and not self._is_stalled
        await _wait(stream, ready=stream.is_closed or has_room)

    def stall(self) -> None:
        self._is_stalled = True

    def close(self) -> None:
        self._incoming.close()
        self._outgoing.close()


async def _wait(stream: _Stream, *, ready: bool) -> None:
    if ready:
        await trio.lowlevel.checkpoint()
    else:
        await stream.changed.park()


def _open_pipes() -> tuple[_MemoryPipe, _MemoryPipe]:
    there, back = _Stream(), _Stream()
    return _MemoryPipe(back, there), _MemoryPipe(there, back)
