"""A crew of isolates that serve the same calls: opened, used, and ended as one.

Which call goes to whom is `_dispatch`'s business, and who is replaced that of `_posts`; this module
knows when calls can be made, what becomes of them when nobody will serve them, and how it all ends.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from copy import copy
from typing import Any, Final, cast, final

import trio

from ._call import Call, Counts
from ._client import Client
from ._dispatch import Dispatcher, stays
from ._errors import (
    IsolateDied,
    IsolateError,
    IsolateSpawnError,
    RestartLimitExceeded,
    UnsendableError,
    rename_path,
)
from ._here import BELONGS, check_in_trio
from ._options import Options
from ._posts import Posts
from ._restart import Restart

_NOT_REPLACED: Final = "with restart=None, those that die are not replaced"


@final
class Crew:
    """The isolates of one worker or pool. Opened by `open_crew`.

    The arguments are those of its `posts`.
    """

    def __init__(
        self,
        options: Options,
        *,
        size: int,
        restart: Restart | None,
        is_pool: bool,
        replaces_killed: bool = True,
        least: int | None = None,
        most_calls: int | None = None,
        max_memory: int | None = None,
    ) -> None:
        self.options = options
        self._noun = "pool" if is_pool else "isolate" if options.spec.is_entry else "worker"
        self.is_closed = False
        self.is_ending = False
        self.failure: IsolateError | None = None  # why nothing will be served any more
        self.dispatch = Dispatcher(options, self.check_usable, self._check_part, self._find_unserved)
        self.call = self.dispatch.call
        self.posts = Posts(
            options,
            self.dispatch,
            size=size,
            least=least,
            restart=restart,
            is_pool=is_pool,
            replaces_killed=replaces_killed,
            most_calls=most_calls,
            max_memory=max_memory,
            is_over=self._is_over,
            fail=self._fail,
            on_death=self._on_death,
            on_error=self.end_body,
        )
        self._handler_error: BaseException | None = None
        self._was_killed = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope(shield=True)
        self.body_scope = trio.CancelScope()

    # Calls.

    @property
    def clients(self) -> list[Client]:
        """The open ones."""
        return self.dispatch.clients

    @property
    def counts(self) -> Counts:
        return self.dispatch.counts

    def _check_part(self) -> None:
        if self._is_over():
            raise self._unserved()

    def check_usable(self) -> None:
        """Raise unless calls can be made now, and here."""
        if self.is_closed:
            raise trio.ClosedResourceError(f"{self.options.spec.name!r} is closed")
        self.check_run()

    def check_run(self) -> None:
        if not trio.lowlevel.in_trio_run() or trio.lowlevel.current_trio_token() is not self._token:
            noun = self._noun
            way = "isolate.wait" if noun == "isolate" else f"{noun}.call, ..."
            raise RuntimeError(
                f"{self.options.spec.name!r} {BELONGS}; from a thread, use "
                f"trio.from_thread.run({way}) or trio.from_thread.run_sync({noun}.kill)"
            )

    def _find_unserved(self) -> BaseException | None:
        return self._unserved() if self.failure is not None or self._is_over() else None

    def check_served(self) -> None:
        """Raise unless calls can be made now, and there is, or will be, somebody to serve them."""
        self.check_usable()
        if (error := self._find_unserved()) is not None:
            raise error

    def _unserved(self) -> BaseException:
        """What a caller gets whom nobody will serve."""
        self.posts.unnoticed.clear()
        failure = self.failure
        if self._was_killed:
            return IsolateDied(
                self.options.spec.name,
                signal="SIGKILL",
                maybe_executed=False,
                serves_calls=not self.options.spec.is_entry,
            )
        if isinstance(failure, IsolateDied):
            error = copy(failure)
            error.maybe_executed = False
            return self._with_none_left(error)
        if isinstance(failure, IsolateSpawnError):
            return self._with_none_left(IsolateSpawnError(str(failure)))
        if isinstance(failure, RestartLimitExceeded):
            return RestartLimitExceeded(str(failure), causes=failure.causes)
        return trio.ClosedResourceError(f"{self.options.spec.name!r} is closed")

    def _with_none_left(self, error: IsolateError) -> IsolateError:
        if self._noun != "isolate":
            error.add_note(
                f"the {self._noun} {self.options.spec.name!r} has no isolates left: {_NOT_REPLACED}"
            )
        return error

    # Lives and deaths.

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Keep the isolates, until `leave` ends it."""
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            await self.posts.run()

    def end_body(self, error: BaseException) -> None:
        """A handler of a port has raised over a message from one of the isolates."""
        self._handler_error = self._handler_error or error
        self.body_scope.cancel()

    def _is_over(self) -> bool:
        return self.is_ending or self._was_killed

    def _on_death(self, client: Client, unbegun: list[Call]) -> None:
        """Have the calls that it had not begun, or that may be repeated, go to another one."""
        # Here and now: the block may be left, and its keeper gone, before anybody else knows of it.
        if not self.posts.replaces_dead and client.isolate.died_unasked and not client.was_noticed:
            self.posts.unnoticed.append(client.isolate.died(maybe_executed=False))
        moving: list[Call] = []
        for call in unbegun:
            if stays(call) or self._was_killed:
                call.fail(client.isolate.died(maybe_executed=False))
            elif self._is_over():
                call.fail(self._unserved())
            else:
                moving.append(call)
        self.dispatch.remove(client, moving)

    def _fail(self, failure: IsolateError) -> None:
        self.failure = failure
        self.dispatch.refuse()
        if not self.posts.was_manned:
            self.posts.opened.set()  # with nobody: the opening fails
        elif isinstance(failure, RestartLimitExceeded):
            self.body_scope.cancel()

    async def wait_open(self) -> None:
        """Wait for the first isolate. Raises `IsolateSpawnError` if the whole first round fails."""
        await self.posts.opened.wait()
        if not self.posts.was_manned and self.posts.least:
            self.posts.unnoticed.clear()
            raise next(iter(self.posts.first_failures.values()))

    # The end.

    def close(self) -> None:
        self.check_run()
        self.is_closed = True

    def kill(self) -> None:
        """End every isolate at once."""
        self.check_run()
        self._kill()

    def _kill(self) -> None:
        self.is_closed = True
        self._was_killed = True
        self.dispatch.refuse()
        for client in list(self.posts.all):
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
        await self.dispatch.wait_idle()
        await self.see_out()

    async def aclose(self) -> None:
        """As leaving the block does, before it is left. Cancelled: kill."""
        self.check_run()
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
        self.dispatch.refuse()
        grace = self.options.cancel_grace
        deadline = trio.current_time() + grace

        @trio.lowlevel.enable_ki_protection
        async def stop_one(client: Client) -> None:
            await client.stop_calls(grace)
            await client.isolate.close(max(0.0, deadline - trio.current_time()))

        await self._each(stop_one)

    async def _each(self, function: Callable[[Client], Any]) -> None:
        async with trio.open_nursery() as nursery:
            for client in list(self.posts.all):
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
        for client in list(self.posts.all):
            while not client.isolate.is_gone:
                try:
                    await client.isolate.wait_dead()
                except BaseException as exc:
                    came = only(exc)
        return came

    def _final_error(self, error: BaseException | None) -> BaseException | None:
        ours: BaseException | None = self._handler_error or self.posts.teardown_error
        if self._handler_error is None and isinstance(self.failure, RestartLimitExceeded):
            if isinstance(error, RestartLimitExceeded) and error.causes == self.failure.causes:
                return error  # the body was waiting for an answer, and was told
            ours = self.failure
        elif self._handler_error is None and self.posts.unnoticed:
            ours = self.posts.unnoticed[0]
        if error is None:
            return ours
        if ours is not None and ours is not error and not isinstance(error, trio.Cancelled):
            error.add_note(f"besides: {type(ours).__name__}: {ours}")
        return error


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
        crew.posts.make_client(1)  # what cannot be sent is said before anything is started
    except UnsendableError as exc:
        rename_path(exc, "handler", crew.options.word)
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
