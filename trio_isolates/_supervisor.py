"""A crew of isolates that serve the same calls: who is alive, who takes the next call, who is replaced.

A call waits here, in order, until an isolate has a place for it; a call that its isolate had not
begun when it died comes back and goes to another. This module does not know what a call says.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, cast, final

import trio
from attrs import evolve

from ._client import Call, Client, Counts
from ._errors import (
    IsolateDied,
    IsolateError,
    IsolateSpawnError,
    RestartLimitExceeded,
    UnsendableError,
)
from ._here import check_in_trio
from ._messages import EXTENDED
from ._options import Options
from ._ports import SendPort
from ._queue import Line
from ._restart import Restart, RestartWindow

_UNSET: Final = object()
_AT_HAND: Final = 1  # calls that an isolate of a pool holds besides those it can run


@final
class Crew:
    """The isolates of one worker or pool. Opened by `open_crew`."""

    def __init__(
        self,
        options: Options,
        *,
        size: int,
        restart: Restart | None,
        is_pool: bool,
        replaces_killed: bool = True,
    ) -> None:
        self.options = options
        self.counts = Counts()
        self.replaced = 0
        self.restarted = 0
        self.clients: list[Client] = []  # open ones
        self.is_closed = False
        self.is_ending = False
        self.failure: IsolateError | None = None  # why nothing will be served any more
        self.size = size
        self._is_pool = is_pool
        self._replaces_killed = replaces_killed
        self._restart = restart
        self._window = None if restart is None else RestartWindow(restart)
        self._line: Line[Call] = Line()
        self._active = 0
        self._idle = trio.Event()
        self._all: list[Client] = []  # every one that is not known to be gone
        self._opened = trio.Event()
        self._was_manned = False
        self._first_failures: dict[int, IsolateError] = {}  # by the post
        self._teardown_error: BaseException | None = None
        self._handler_error: BaseException | None = None
        self._lost = 0  # posts that nobody will man again
        self._unnoticed: list[IsolateError] = []  # deaths of those that no call has shown
        self._was_killed = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope(shield=True)
        self.body_scope = trio.CancelScope()

    @property
    def queued(self) -> int:
        """How many calls wait for a place."""
        return len(self._line)

    # Calls.

    @trio.lowlevel.enable_ki_protection
    async def call(
        self,
        kind: int,
        payload: Any,
        kwargs: dict[str, Any] | None = None,
        port: SendPort[Any] | None = None,
        *,
        is_part: bool = False,
    ) -> Any:
        """Have one call served, by whoever has a place first.

        port: for its items, or its progress. is_part: of work that was begun before, and goes on when
        nothing new is taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not is_part:
            self.check_usable()
        elif self._is_over():
            raise self._unserved()
        if kwargs or port is not None or self.options.spec.context:
            kind, payload = EXTENDED, (kind, payload, kwargs or {}, self._context_values(), port)
        call = Call(trio.lowlevel.current_task(), kind, payload, self._leave_line)
        client = self._find_place()
        if client is not None:
            client.start(call)
        elif self.failure is not None or self._is_over():
            raise self._unserved()
        else:
            self._line.append(call)
        return await self._wait(call)

    @trio.lowlevel.enable_ki_protection
    async def call_on(self, client: Client, kind: int, payload: Any) -> Any:
        """Have one call served by this isolate and no other."""
        if self._is_over():
            raise self._unserved()
        if not client.is_open:  # it has died since it was chosen, and would never answer
            raise client.isolate.died(maybe_executed=False)
        call = Call(trio.lowlevel.current_task(), kind, payload, _stays)
        client.start(call)
        return await self._wait(call)

    async def _wait(self, call: Call) -> Any:
        self.begin_work()
        try:
            return await trio.lowlevel.wait_task_rescheduled(call.abort)
        finally:
            self.end_work()

    def begin_work(self) -> None:
        """From here to `end_work` something is in flight, which a normal end waits for."""
        self._active += 1

    def end_work(self) -> None:
        self._active -= 1
        if not self._active:
            self._idle.set()

    def _context_values(self) -> tuple[tuple[int, Any], ...]:
        values = ((index, var.get(_UNSET)) for index, var in enumerate(self.options.spec.context))
        return tuple((index, value) for index, value in values if value is not _UNSET)

    def check_usable(self) -> None:
        """Raise unless calls can be made now, and here."""
        if self.is_closed:
            raise trio.ClosedResourceError(f"{self.options.spec.name!r} is closed")
        self._check_run()

    def _check_run(self) -> None:
        if not trio.lowlevel.in_trio_run() or trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError(
                f"{self.options.spec.name!r} belongs to another trio.run; from a thread, "
                "use trio.from_thread.run(worker.call, ...) or trio.from_thread.run_sync(worker.kill)"
            )

    def _find_place(self) -> Client | None:
        """Return the isolate with the least to do that has a place; None if there is none, or a line."""
        if self._line:
            return None
        best: Client | None = None
        for client in self.clients:
            if client.has_room and (best is None or client.load < best.load):
                best = client
        return best

    def _leave_line(self) -> None:
        self.counts.cancelled += 1
        self._line.forget()

    def _unserved(self) -> BaseException:
        """What a caller gets whom nobody will serve."""
        self._unnoticed.clear()
        failure = self.failure
        if self._was_killed:
            return IsolateDied(self.options.spec.name, signal="SIGKILL", maybe_executed=False)
        if isinstance(failure, IsolateDied):
            return IsolateDied(
                failure.name,
                pid=failure.pid,
                exitcode=failure.exitcode,
                signal=failure.signal,
                maybe_executed=False,
                stderr_tail=failure.stderr_tail,
            )
        if isinstance(failure, IsolateSpawnError):
            return IsolateSpawnError(str(failure))
        if isinstance(failure, RestartLimitExceeded):
            return RestartLimitExceeded(str(failure), causes=failure.causes)
        return trio.ClosedResourceError(f"{self.options.spec.name!r} is closed")

    def _on_room(self, client: Client) -> None:
        """Send from the line here and now: in the order in which the calls were made."""
        while self._line and client.has_room:
            call = self._line.first
            try:
                client.start(call)
            except BaseException as exc:
                if not call.is_settled:
                    self._line.pop().fail(exc)
            else:
                if not call.is_settled:
                    self._line.pop()

    def _refuse_waiters(self) -> None:
        while self._line:
            self._line.pop().fail(self._unserved())

    # Lives and deaths.

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Keep the isolates, until `leave` ends it."""
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                for number in range(1, self.size + 1):
                    self._nursery.start_soon(self._keep, number)
                await trio.sleep_forever()

    def make_client(self, number: int) -> Client:
        options = self.options
        if self._is_pool:
            options = evolve(options, spec=evolve(options.spec, name=f"{options.spec.name}.{number}"))
        return Client(
            options, self.counts, on_room=self._on_room, on_death=self._on_death, on_error=self.end_body
        )

    def end_body(self, error: BaseException) -> None:
        """A handler of a port has raised over a message from one of the isolates."""
        self._handler_error = self._handler_error or error
        self.body_scope.cancel()

    @trio.lowlevel.enable_ki_protection
    async def _keep(self, number: int) -> None:
        """Keep one post manned: start an isolate, and another when that one is gone."""
        while not self._is_over():
            client: Client | None = None
            try:
                client = self.make_client(number)
            except UnsendableError as exc:  # what the handler holds has changed since
                failure: IsolateError = IsolateSpawnError(f"{self.options.spec.name!r}: {exc}")
                failure.__cause__ = exc
                self._note_failed_start(number, failure)
            else:
                failure = await self._serve(number, client)
            delay = None if self._is_over() else self._judge(client, failure)
            if delay is None:
                return
            await trio.sleep(delay)

    def _is_over(self) -> bool:
        return self.is_ending or self._was_killed

    async def _serve(self, number: int, client: Client) -> IsolateError:
        """See one isolate through its life; return how that ended."""
        assert self._nursery is not None
        self._all.append(client)
        self._nursery.start_soon(client.run)
        try:
            await client.isolate.wait_ready()
        except IsolateSpawnError as exc:
            self._all.remove(client)
            self._note_failed_start(number, exc)
            return exc
        self._admit(client)
        await client.isolate.wait_dead()
        self._all.remove(client)
        if self._teardown_error is None:
            self._teardown_error = client.isolate.teardown_error
        return client.isolate.died(maybe_executed=False)

    def _note_failed_start(self, number: int, failure: IsolateError) -> None:
        self._first_failures.setdefault(number, failure)
        if len(self._first_failures) == self.size:
            self._opened.set()

    def _admit(self, client: Client) -> None:
        self._opened.set()
        self._was_manned = True
        if self._is_pool:
            concurrency = client.isolate.concurrency
            if concurrency is not None:
                client.limit = min(client.limit, concurrency + _AT_HAND)
        client.is_open = True
        self.clients.append(client)
        self._on_room(client)

    def _on_death(self, client: Client, unbegun: list[Call]) -> None:
        """Have the calls that it had not begun go to another one, before all others."""
        if client in self.clients:
            self.clients.remove(client)
        # Here and now: the block may be left, and its keeper gone, before anybody else knows of it.
        if self._window is None and client.isolate.died_unasked and not client.was_noticed:
            self._unnoticed.append(client.isolate.died(maybe_executed=False))
        moving: list[Call] = []
        for call in unbegun:
            if call.leave_line == _stays or self._was_killed:
                call.fail(client.isolate.died(maybe_executed=False))
            elif self._is_over():
                call.fail(self._unserved())
            else:
                call.client = None
                moving.append(call)
        self._line.put_first(moving)
        for other in list(self.clients):
            self._on_room(other)

    def _judge(self, client: Client | None, failure: IsolateError) -> float | None:
        """Return the seconds after which to start again, or None not to."""
        if client is not None and client.is_ours:
            self.replaced += self._replaces_killed
            return 0.0 if self._replaces_killed else None
        if self._window is None:
            if client is None or not client.isolate.is_ready:
                self._unnoticed.append(failure)
            self._lost += 1
            if self._lost == self.size:
                self._fail(failure)
            return None
        self.restarted += 1
        if client is not None and client.died_in_call:
            return 0.0
        delay = self._window.record(trio.current_time(), failure)
        if delay is None:
            self.restarted -= 1
            causes = self._window.causes
            policy = self._restart
            assert policy is not None
            limit = RestartLimitExceeded(
                f"{self.options.spec.name!r}: {len(causes)} failures within {policy.within} seconds, "
                f"more than max_restarts={policy.max_restarts}; the last: {causes[-1]}",
                causes=causes,
            )
            limit.__cause__ = causes[-1]
            self._fail(limit)
        return delay

    def _fail(self, failure: IsolateError) -> None:
        self.failure = failure
        self._refuse_waiters()
        if not self._was_manned:
            self._opened.set()  # with nobody: the opening fails
        elif isinstance(failure, RestartLimitExceeded):
            self.body_scope.cancel()

    async def wait_open(self) -> None:
        """Wait for the first isolate. Raises `IsolateSpawnError` if the whole first round fails."""
        await self._opened.wait()
        if not self._was_manned:
            self._unnoticed.clear()
            raise next(iter(self._first_failures.values()))

    # The end.

    def close(self) -> None:
        self._check_run()
        self.is_closed = True

    def kill(self) -> None:
        """End every isolate at once."""
        self._check_run()
        self._kill()

    def _kill(self) -> None:
        self.is_closed = True
        self._was_killed = True
        self._refuse_waiters()
        for client in list(self._all):
            client.isolate.kill()

    def on_fault(self, take: Callable[[BaseException], None]) -> None:
        """Have errors that nobody waits for go there."""
        for client in self.clients:
            client.isolate.on_fault = take

    async def see_out(self) -> None:
        """End what is left of the isolates, which have nothing to do any more."""
        self.is_closed = True
        self.is_ending = True
        await self._each(lambda client: client.isolate.close(self.options.shutdown_grace))

    async def drain(self) -> None:
        """Wait until nothing is in flight any more; then have the isolates tear down and end."""
        self.is_closed = True
        while self._active:
            if self._idle.is_set():  # else somebody waits for it already
                self._idle = trio.Event()
            await self._idle.wait()
        await self.see_out()

    async def aclose(self) -> None:
        """As leaving the block does, before it is left. Cancelled: kill."""
        self._check_run()
        try:
            await self.drain()
        except BaseException:
            self._kill()
            with trio.CancelScope(shield=True):
                await self._wait_dead()
            raise

    async def stop(self) -> None:
        """Stop what is in flight, within `cancel_grace` seconds in total; tear down in what is left."""
        self.is_closed = True
        self.is_ending = True
        self._refuse_waiters()
        grace = self.options.cancel_grace
        deadline = trio.current_time() + grace

        @trio.lowlevel.enable_ki_protection
        async def stop_one(client: Client) -> None:
            if client.is_open:
                await client.stop_calls(grace)
            await client.isolate.close(max(0.0, deadline - trio.current_time()))

        await self._each(stop_one)

    async def _each(self, function: Callable[[Client], Any]) -> None:
        async with trio.open_nursery() as nursery:
            for client in list(self._all):
                nursery.start_soon(function, client)

    @trio.lowlevel.enable_ki_protection
    async def leave(self, error: BaseException | None) -> BaseException | None:
        """End everything, however the body ended; return what the block is to raise."""
        if error is None and self.failure is None:
            try:
                await self.drain()
            except BaseException as exc:
                error = only(exc)
        with trio.CancelScope(shield=True):
            try:
                await self.stop()
            except BaseException as exc:  # a second Ctrl-C: no grace
                error = error or only(exc)
            self._kill()
            error = await self._wait_dead() or error
        self._scope.cancel()
        return self._final_error(error)

    async def _wait_dead(self) -> BaseException | None:
        """Wait for the isolates that were killed, whatever comes; return what came, a further Ctrl-C."""
        came: BaseException | None = None
        for client in list(self._all):
            while not client.isolate.is_gone:
                try:
                    await client.isolate.wait_dead()
                except BaseException as exc:
                    came = only(exc)
        return came

    def _final_error(self, error: BaseException | None) -> BaseException | None:
        ours: BaseException | None = self._handler_error or self._teardown_error
        if self._handler_error is None and isinstance(self.failure, RestartLimitExceeded):
            if isinstance(error, RestartLimitExceeded) and error.causes == self.failure.causes:
                return error  # the body was waiting for an answer, and was told
            ours = self.failure
        elif self._handler_error is None and self._unnoticed:
            ours = self._unnoticed[0]
        if error is None:
            return ours
        if ours is not None and ours is not error and not isinstance(error, trio.Cancelled):
            error.add_note(f"besides: {type(ours).__name__}: {ours}")
        return error


def _stays() -> None:
    """The way out of the line for a call that is meant for one isolate only, and never stands in it."""


def only(error: BaseException) -> BaseException:
    """Take a single exception out of the group that a nursery of ours has put around it."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        found = [only(leaf) for leaf in group.exceptions]
        if len(found) == 1:
            return found[0]
        # Of several Ctrl-C, or one in the middle of a cancellation, the first stands for all.
        return next((leaf for leaf in found if isinstance(leaf, KeyboardInterrupt)), group)
    return error


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_crew(crew: Crew) -> AsyncGenerator[Crew, None]:
    """Man the crew for the length of a block. What the block's body raises comes out as it is."""
    error: BaseException | None = None
    check_in_trio()
    try:
        crew.make_client(1)  # what cannot be sent is said before anything is started
    except UnsendableError as exc:
        exc.rename("handler", crew.options.word)
        raise
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crew.run)
            try:
                with crew.body_scope:
                    await crew.wait_open()
                    yield crew
            except BaseException as exc:
                error = exc
            error = await crew.leave(error)
    except BaseExceptionGroup as group:  # a further Ctrl-C
        error = error or only(group)
    if error is not None:
        raise error
