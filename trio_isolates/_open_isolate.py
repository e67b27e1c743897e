"""`open_isolate`: a bare isolate that runs one entry, and talks by ports.

This module knows what becomes of the entry's end, of pauses and of exit notices; the isolate itself is
a crew's of one, and its entry a call.
"""

from __future__ import annotations

# pyright: reportPrivateUsage=false
# (users see only the ends of an isolate's life, which is opened and seen out here)
import itertools
import os
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, NoReturn, TypeVar, TypeVarTuple, Unpack, final, overload

import outcome
import trio
from attrs import evolve, frozen

from ._capability import Capability
from ._engine import Engine
from ._errors import IsolateDied
from ._functions import is_generator
from ._messages import CALL, PAUSE, RESUME
from ._options import ProcessOptions, make_changes, make_options
from ._pickling import Codec
from ._ports import SendPort
from ._shared_buffer import own
from ._supervisor import Crew, only, open_crew

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Ts = TypeVarTuple("Ts")

_KEPT_ERRORS = 1024


@frozen
class IsolateStatistics:
    """What `Isolate.statistics()` returns.

    Attributes:
        is_running: True until the isolate is gone.
        pauses: pauses that have not been resumed.
        errors: errors that were not fatal, so far.
    """

    is_running: bool
    pauses: int
    errors: int


@final
class Isolate(Generic[T_co]):
    """One isolate that runs an entry. Get one from `open_isolate`; it lives no longer than that block.

    Attributes:
        errors: a receive channel of what was raised and was not fatal, see `errors_are_fatal`; it
            ends with the isolate. It holds 1,024; what comes while it is full is printed.
        pause_token: of the pause with which it was opened; None without `paused=True`.
    """

    def __init__(self, crew: Crew, args: tuple[Any, ...], on_exit: SendPort[Any] | None) -> None:
        self._crew = crew
        self._args = args
        self._tokens: dict[Capability, int] = {}
        self._token_numbers = itertools.count(1)
        self._result: outcome.Outcome[Any] | None = None
        self._ended = trio.Event()
        self._waiting = 0
        self._was_killed = False
        self._is_noticed = False  # how it ended is known to the body, or was its own doing
        self._on_exit: dict[SendPort[Any], object] = {}
        self._error_count = 0
        self._errors, errors = trio.open_memory_channel[BaseException](_KEPT_ERRORS)
        self.errors: trio.abc.ReceiveChannel[BaseException] = errors
        self.pause_token: Capability | None = None
        self._body_scope = trio.CancelScope()
        self._isolate = None if not crew.clients else crew.clients[0].isolate
        if on_exit is not None:
            self.add_on_exit(on_exit)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Isolate cannot be sent: it stays with the block that opened it")

    def __repr__(self) -> str:
        return f"<trio_isolates.Isolate {self.name!r} pid={self.pid}>"

    @property
    def name(self) -> str:
        """Its name, as given to `open_isolate` or made up by it."""
        return self._crew.options.spec.name

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return None if self._isolate is None else self._isolate.pid

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> T_co:
        """Wait until the isolate is gone; return what the entry returned, or raise what it raised.

        What is raised here is not raised again when the block is left. `IsolateDied`: it was killed,
        or died. `trio.ClosedResourceError`: it was closed. After `exit_isolate` the value is None.
        """
        self._waiting += 1
        try:
            await self._ended.wait()
        finally:
            self._waiting -= 1
        self._is_noticed = True
        result = self._result
        assert result is not None
        if isinstance(result, outcome.Value):  # it may be waited for again: an outcome unwraps only once
            value: T_co = result.value
            return value
        assert isinstance(result, outcome.Error)
        raise result.error

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Stop the entry, and wait until the isolate is gone. Dart's `kill(priority: beforeNextEvent)`.

        An async entry is cancelled, a sync one sees `CallInterrupted`; what has not ended within
        `shutdown_grace` is killed. Cancelled: it is killed at once.
        """
        self._is_noticed = True
        try:
            await self._crew.stop()
            await self._ended.wait()
        except BaseException:
            self._crew.kill()
            with trio.CancelScope(shield=True):
                await self._ended.wait()
            raise

    def kill(self) -> None:
        """End it at once. Dart's `kill(priority: immediate)`. `wait` raises `IsolateDied`."""
        self._is_noticed = self._was_killed = True
        self._crew.kill()

    def pause(self, token: Capability | None = None) -> Capability:
        """Hold back messages and calls from the isolate; return the token that takes this back.

        Code that runs goes on. Each token that was used to pause must be resumed; to pause twice with
        the same one counts once. `ping`, `kill` and `aclose` work all the same.
        """
        token = token or Capability()
        if not isinstance(token, Capability):
            raise TypeError(f"give a Capability, or nothing; not {token!r}")
        if token not in self._tokens:
            self._tokens[token] = number = next(self._token_numbers)
            if self._isolate is not None:
                self._isolate.control(PAUSE, number)
        return token

    def resume(self, token: Capability) -> None:
        """Take a pause back. A token that does not pause it has no effect, as in Dart."""
        if not isinstance(token, Capability):
            raise TypeError(f"give the token that pause() returned, not {token!r}")
        number = self._tokens.pop(token, None)
        if number is not None and self._isolate is not None:
            self._isolate.control(RESUME, number)

    async def ping(self) -> None:
        """Wait until the isolate has taken all messages sent so far. It answers when it next takes some.

        A sync entry takes messages while it receives, and while it waits for room to send.

        Raises:
            IsolateDied: it died before it answered.
            trio.ClosedResourceError: it has ended before.
        """
        if self._ended.is_set() or self._isolate is None:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError(f"{self.name!r} has ended")
        if not await self._isolate.ping():
            raise self._isolate.died(maybe_executed=False)

    def add_on_exit(self, port: SendPort[Any], message: object = None) -> None:
        """Have `message` sent to `port` when the isolate is gone, after all that it has sent itself.

        A port gets one message, the last that was given for it, as it is now. If the isolate is gone
        already, it is sent now. It has a place there whether the port is full or not. Raises
        `UnsendableError`.
        """
        if not isinstance(port, SendPort):
            raise TypeError(f"give a SendPort, not {port!r}")
        codec = Codec(side=0)
        chunks, buffers, _ = codec.dumps(message, "message")
        message = codec.loads(b"".join(chunks), own(buffers))
        if self._ended.is_set():
            port.post(message)
        else:
            self._on_exit[port] = message

    def remove_on_exit(self, port: SendPort[Any]) -> None:
        """Have nothing sent there. Does nothing if nothing was to be sent."""
        self._on_exit.pop(port, None)

    def statistics(self) -> IsolateStatistics:
        """Return a record of its state."""
        return IsolateStatistics(not self._ended.is_set(), len(self._tokens), self._error_count)

    def _take_error(self, error: BaseException) -> None:
        self._error_count += 1
        try:
            self._errors.send_nowait(error)
        except (trio.WouldBlock, trio.BrokenResourceError):
            traceback.print_exception(error)

    async def _run(self) -> None:
        """Have the entry run, and see the isolate out."""
        result: outcome.Outcome[Any] = outcome.Error(trio.ClosedResourceError(f"{self.name!r} was closed"))
        try:
            result = outcome.Value(await self._crew.call(CALL, self._args))
        except Exception as exc:
            result = outcome.Error(exc)
        finally:
            with trio.CancelScope(shield=True):
                await self._crew.see_out()
            is_closed = isinstance(result, outcome.Error) and isinstance(
                result.error, trio.ClosedResourceError
            )
            if is_closed and self._was_killed and self._isolate is not None:  # before its entry was called
                result = outcome.Error(self._isolate.died(maybe_executed=False))
            self._result = result
            self._errors.close()
            self._ended.set()
            self._give_notice()
        is_known = self._is_noticed or self._waiting
        if isinstance(result, outcome.Error) and not isinstance(result.error, IsolateDied) and not is_known:
            self._body_scope.cancel()

    def _give_notice(self) -> None:
        """Send the exit notices: all of them, whatever the handler of a port here makes of one."""
        for port, message in list(self._on_exit.items()):  # what is added now is sent at once
            try:
                port.post(message)
            except BaseException as exc:
                self._crew.end_body(exc)

    def _final_error(self, error: BaseException | None) -> BaseException | None:
        """Return what the block is to raise, after a body that has raised this."""
        if self._is_noticed or not isinstance(self._result, outcome.Error):
            return error
        ours = self._result.error
        if error is None:
            return ours
        if ours is error or isinstance(ours, (trio.Cancelled, trio.ClosedResourceError)):
            return error
        if isinstance(ours, IsolateDied) and not (self._isolate and self._isolate.died_unasked):
            return error  # it did not end in time, and was killed for that
        if isinstance(error, trio.Cancelled):
            return ours
        error.add_note(f"besides: {type(ours).__name__}: {ours}")
        return error


def take_place(isolate: Isolate[Any], number: int) -> int:
    """Note that it takes the place of another one, if that had a number; return its own."""
    return number if isolate._isolate is None else isolate._isolate.take_place_of(number)


@overload
def open_isolate(
    entry: str,
    *args: object,
    name: str | None = ...,
    paused: bool = ...,
    errors_are_fatal: bool = ...,
    on_exit: SendPort[Any] | None = ...,
    shutdown_grace: float = ...,
    engine: Engine | str | None = ...,
    **process: Unpack[ProcessOptions],
) -> AbstractAsyncContextManager[Isolate[Any]]: ...
@overload
def open_isolate(
    entry: Callable[[*Ts], Awaitable[T]],
    *args: *Ts,
    name: str | None = ...,
    paused: bool = ...,
    errors_are_fatal: bool = ...,
    on_exit: SendPort[Any] | None = ...,
    shutdown_grace: float = ...,
    engine: Engine | str | None = ...,
    **process: Unpack[ProcessOptions],
) -> AbstractAsyncContextManager[Isolate[T]]: ...
@overload
def open_isolate(
    entry: Callable[[*Ts], T],
    *args: *Ts,
    name: str | None = ...,
    paused: bool = ...,
    errors_are_fatal: bool = ...,
    on_exit: SendPort[Any] | None = ...,
    shutdown_grace: float = ...,
    engine: Engine | str | None = ...,
    **process: Unpack[ProcessOptions],
) -> AbstractAsyncContextManager[Isolate[T]]: ...
def open_isolate(
    entry: Callable[[*Ts], Any] | str,
    *args: *Ts,
    name: str | None = None,
    paused: bool = False,
    errors_are_fatal: bool = True,
    on_exit: SendPort[Any] | None = None,
    shutdown_grace: float = 5.0,
    engine: Engine | str | None = None,
    nice: int | None = None,
    cpu_affinity: Iterable[int] | None = None,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> AbstractAsyncContextManager[Isolate[Any]]:
    """Run an entry in an isolate of its own for the length of a block. Dart's `Isolate.spawn`.

        port = ReceivePort()
        async with open_isolate(count, port.send_port) as isolate:
            print(await port.receive())
            print(await isolate.wait())

    An async entry has Trio; a sync one has the isolate's main thread for itself, and uses
    `send_sync`, `receive_sync` and plain `for`. The isolate lives until its entry has returned and
    no `RawReceivePort` of its has a handler. Leaving the block normally waits for that, as a nursery
    waits for its children; left by an exception or a cancellation, the entry is stopped as by
    `aclose`. What the entry raises cancels the body and comes out of the block as itself. An isolate
    that dies does not cancel the body: use `wait`, or an exit notice, to hear of it.

    Args:
        entry: what runs; a callable of any kind, or "package.module:function".
        *args: what it is called with; also send ports.
        name: shown in errors and logs.
        paused: hold back the call of the entry, and messages, until `resume(isolate.pause_token)`.
        errors_are_fatal: False: what the entry, or a handler of a `RawReceivePort`, raises goes to
            `isolate.errors` and the isolate goes on, as long as something keeps it alive.
        on_exit: a port that gets None when the isolate is gone, see `add_on_exit`.
        shutdown_grace: seconds that the entry has to end when it is stopped; it has no other grace.
        engine, nice, cpu_affinity, env, cwd, threads: as for `open_worker`.

    Raises:
        IsolateSpawnError: the process could not be started.
        UnsendableError: the entry or an argument cannot be pickled.
        IsolateDied: when the block is left: the isolate has died, and no `wait` has raised it.
    """
    if is_generator(entry):
        raise TypeError(f"the entry must not be a generator function, as {entry!r} is: use open_worker")
    options = make_options(
        "isolate", entry, name=name, cancel_grace=shutdown_grace, shutdown_grace=shutdown_grace, engine=engine
    )
    if on_exit is not None and not isinstance(on_exit, SendPort):
        raise TypeError(f"on_exit= must be a SendPort, not {on_exit!r}")
    changes = make_changes(nice=nice, cpu_affinity=cpu_affinity, env=env, cwd=cwd, threads=threads)
    spec = evolve(options.spec, is_entry=True, errors_are_fatal=errors_are_fatal, changes=changes)
    crew = Crew(evolve(options, spec=spec), size=1, restart=None, is_pool=False, replaces_killed=False)
    return _open(crew, args, paused, on_exit)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _open(
    crew: Crew, args: tuple[Any, ...], paused: bool, on_exit: SendPort[Any] | None
) -> AsyncGenerator[Isolate[Any], None]:
    async with open_crew(crew):
        isolate: Isolate[Any] = Isolate(crew, args, on_exit)
        crew.on_fault(isolate._take_error)
        if paused:
            isolate.pause_token = isolate.pause()
        error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(isolate._run)
                for _ in range(2):  # in whatever order Trio runs its tasks, the entry is called by then
                    await trio.lowlevel.cancel_shielded_checkpoint()
                try:
                    with isolate._body_scope:
                        yield isolate
                except BaseException as exc:
                    error = exc
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:  # a Ctrl-C
            error = error or only(group)
        error = isolate._final_error(error)
        if error is not None:
            raise error


async def run_isolate(
    entry: Callable[..., Any] | str,
    *args: Any,
    task_status: trio.TaskStatus[Isolate[Any]] = trio.TASK_STATUS_IGNORED,
    **options: Any,
) -> Any:
    """Run an entry in an isolate of its own, as a task; return what it returns.

        isolate = await nursery.start(run_isolate, count, port.send_port)

    It takes what `open_isolate` takes (with `functools.partial`, for keywords), raises what that
    does, and reports the `Isolate` as started. The isolate is gone when this returns.
    """
    async with open_isolate(entry, *args, **options) as isolate:
        task_status.started(isolate)
        return await isolate.wait()
