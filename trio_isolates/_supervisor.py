"""A crew of isolates that serve the same calls: who is alive, who is replaced, and how it ends.

Each isolate has a post. One that dies, or has served its time, gives its post to another; posts are
added and given up as the crew is resized. Which call goes to whom is `_dispatch`'s business.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from copy import copy
from itertools import count
from typing import Any, Final, cast, final

import trio
from attrs import define, evolve, field

from ._client import Call, Client, Counts
from ._dispatch import Dispatcher, stays
from ._errors import (
    IsolateDied,
    IsolateError,
    IsolateSpawnError,
    RestartLimitExceeded,
    UnsendableError,
)
from ._here import check_in_trio
from ._options import Options
from ._restart import Restart, RestartWindow

_IDLE_TICKS: Final = 10  # seconds without a call after which a post above the least is given up


@define(eq=False)
class _Post:
    """A place for an isolate. settled: its first isolate is ready, or has failed. gone: it is given up."""

    number: int
    client: Client | None = None
    is_dropped: bool = False
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    settled: trio.Event = field(factory=trio.Event)
    gone: trio.Event = field(factory=trio.Event)
    idle_ticks: int = 0
    given: int = 0  # calls to its isolate, when last looked at


@final
class Crew:
    """The isolates of one worker or pool. Opened by `open_crew`.

    least: how many are kept when there is nothing to do; None: always `size`. most_calls, max_memory:
    after so many calls, or with so many bytes resident, an isolate gives its post to another.
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
        self.replaced = 0
        self.restarted = 0
        self.recycled = 0
        self.is_closed = False
        self.is_ending = False
        self.failure: IsolateError | None = None  # why nothing will be served any more
        self.size = size
        self.most_calls = most_calls
        self.dispatch = Dispatcher(
            options,
            self._check_call,
            self._find_unserved,
            on_wait=self._on_wait,
            on_worn=self._recycle,
        )
        self.call = self.dispatch.call
        self._least = size if least is None else least
        self._max_memory = max_memory
        self._is_pool = is_pool
        self._replaces_killed = replaces_killed
        self._restart = restart
        self._window = None if restart is None else RestartWindow(restart)
        self._posts: dict[int, _Post] = {}
        self._post_numbers = count(1)
        self._lost = 0  # posts that nobody will man again
        self._all: list[Client] = []  # every one that is not known to be gone
        self._opened = trio.Event()
        self._was_manned = False
        self._first_failures: dict[int, IsolateError] = {}  # by the post
        self._teardown_error: BaseException | None = None
        self._handler_error: BaseException | None = None
        self._unnoticed: list[IsolateError] = []  # deaths of those that no call has shown
        self._was_killed = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
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

    def _check_call(self, is_part: bool) -> None:
        if not is_part:
            self.check_usable()
        elif self._is_over():
            raise self._unserved()

    def check_usable(self) -> None:
        """Raise unless calls can be made now, and here."""
        if self.is_closed:
            raise trio.ClosedResourceError(f"{self.options.spec.name!r} is closed")
        self.check_run()

    def check_run(self) -> None:
        if not trio.lowlevel.in_trio_run() or trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError(
                f"{self.options.spec.name!r} belongs to another trio.run; from a thread, "
                "use trio.from_thread.run(worker.call, ...) or trio.from_thread.run_sync(worker.kill)"
            )

    def _find_unserved(self) -> BaseException | None:
        return self._unserved() if self.failure is not None or self._is_over() else None

    def _unserved(self) -> BaseException:
        """What a caller gets whom nobody will serve."""
        self._unnoticed.clear()
        failure = self.failure
        if self._was_killed:
            return IsolateDied(self.options.spec.name, signal="SIGKILL", maybe_executed=False)
        if isinstance(failure, IsolateDied):
            error = copy(failure)
            error.maybe_executed = False
            return error
        if isinstance(failure, IsolateSpawnError):
            return IsolateSpawnError(str(failure))
        if isinstance(failure, RestartLimitExceeded):
            return RestartLimitExceeded(str(failure), causes=failure.causes)
        return trio.ClosedResourceError(f"{self.options.spec.name!r} is closed")

    # Lives and deaths.

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Keep the isolates, until `leave` ends it."""
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                for _ in range(self._least):
                    self._add_post()
                if self._least < self.size:
                    self._nursery.start_soon(self._watch_idle)
                await trio.sleep_forever()

    def make_client(self, number: int) -> Client:
        options = self.options
        if self._is_pool:
            options = evolve(options, spec=evolve(options.spec, name=f"{options.spec.name}.{number}"))
        client = Client(
            options,
            self.counts,
            on_room=self.dispatch.on_room,
            on_death=self._on_death,
            on_return=self.dispatch.take_returned,
            on_error=self.end_body,
            on_heavy=self._recycle,
        )
        client.most = self.most_calls
        client.max_memory = self._max_memory
        return client

    def end_body(self, error: BaseException) -> None:
        """A handler of a port has raised over a message from one of the isolates."""
        self._handler_error = self._handler_error or error
        self.body_scope.cancel()

    def _add_post(self) -> _Post:
        assert self._nursery is not None
        post = _Post(next(self._post_numbers))
        self._posts[post.number] = post
        self._nursery.start_soon(self._keep, post)
        return post

    @trio.lowlevel.enable_ki_protection
    async def _keep(self, post: _Post) -> None:
        """Keep one post manned: start an isolate, and another when that one is gone."""
        try:
            with post.scope:
                await self._man(post)
        finally:
            self._posts.pop(post.number, None)
            post.settled.set()
            if post.client is not None and post.is_dropped:
                await self._see_off(post.client)
            post.gone.set()

    async def _man(self, post: _Post) -> None:
        while not (self._is_over() or post.is_dropped):
            client: Client | None = None
            try:
                client = self.make_client(post.number)
            except UnsendableError as exc:  # what the handler holds has changed since
                failure: IsolateError | None = IsolateSpawnError(f"{self.options.spec.name!r}: {exc}")
                assert failure is not None
                failure.__cause__ = exc
                self._note_failed_start(post, failure)
            else:
                failure = await self._serve(post, client)
            if failure is None:  # it has served its time
                continue
            delay = None if self._is_over() or post.is_dropped else self._judge(post, client, failure)
            if delay is None:
                return
            await trio.sleep(delay)

    def _is_over(self) -> bool:
        return self.is_ending or self._was_killed

    async def _serve(self, post: _Post, client: Client) -> IsolateError | None:
        """See one isolate through its life at this post; return how that ended, None if it was relieved."""
        assert self._nursery is not None
        self._all.append(client)
        post.client = client
        self._nursery.start_soon(client.run)
        try:
            await client.isolate.wait_ready()
        except IsolateSpawnError as exc:
            self._forget(client)
            post.client = None
            self._note_failed_start(post, exc)
            return exc
        self._admit(post, client)
        await client.left.wait()
        if client.isolate.death is None and not post.is_dropped:
            self.recycled += 1
            post.client = None
            self._nursery.start_soon(self._see_off, client)
            return None
        await client.isolate.wait_dead()
        post.client = None
        self._forget(client)
        return client.isolate.died(maybe_executed=False)

    def _forget(self, client: Client) -> None:
        if client in self._all:
            self._all.remove(client)
        if self._teardown_error is None:
            self._teardown_error = client.isolate.teardown_error

    def _note_failed_start(self, post: _Post, failure: IsolateError) -> None:
        post.settled.set()
        self._first_failures.setdefault(post.number, failure)
        if len(self._first_failures) >= self._least:
            self._opened.set()

    def _admit(self, post: _Post, client: Client) -> None:
        self._opened.set()
        post.settled.set()
        self._was_manned = True
        client.open()
        if self._is_pool:
            # In a pool that grows on demand, a call that waits has another isolate started.
            client.hold(at_hand=self._least == self.size)
        self.dispatch.add(client)

    def _on_death(self, client: Client, unbegun: list[Call]) -> None:
        """Have the calls that it had not begun, or that may be repeated, go to another one."""
        # Here and now: the block may be left, and its keeper gone, before anybody else knows of it.
        if self._window is None and client.isolate.died_unasked and not client.was_noticed:
            self._unnoticed.append(client.isolate.died(maybe_executed=False))
        moving: list[Call] = []
        for call in unbegun:
            if stays(call) or self._was_killed:
                call.fail(client.isolate.died(maybe_executed=False))
            elif self._is_over():
                call.fail(self._unserved())
            else:
                call.client = None
                moving.append(call)
        self.dispatch.remove(client, moving)

    def _judge(self, post: _Post, client: Client | None, failure: IsolateError) -> float | None:
        """Return the seconds after which to start again, or None not to."""
        if client is not None and client.is_ours:
            self.replaced += self._replaces_killed
            return 0.0 if self._replaces_killed else None
        if self._window is None:
            if client is None or not client.isolate.is_ready:
                self._unnoticed.append(failure)
            self._lost += 1
            if len(self._posts) == 1:  # the last
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
        self.dispatch.refuse()
        if not self._was_manned:
            self._opened.set()  # with nobody: the opening fails
        elif isinstance(failure, RestartLimitExceeded):
            self.body_scope.cancel()

    # Coming and going.

    def _recycle(self, client: Client) -> None:
        """It has served its time: it takes no more calls, and another one takes its post."""
        if client.is_open and not self._is_over():
            client.retire()
            self.dispatch.remove(client)

    async def _see_off(self, client: Client) -> None:
        """End an isolate that has been relieved, when it has answered what it has."""
        await client.spent.wait()
        await client.isolate.close(self.options.shutdown_grace)
        self._forget(client)

    def _on_wait(self) -> None:
        """A call has to wait: one more isolate, if there may be more, and none is on its way for it."""
        coming = sum(not (post.client and post.client.is_open) for post in self._posts.values())
        if (
            len(self._posts) < self.size - self._lost
            and coming < self.dispatch.queued
            and not self._is_over()
        ):
            self._add_post()

    async def _watch_idle(self) -> None:
        """Give up posts above the least whose isolates have had nothing to do for a while."""
        while True:
            await trio.sleep(1.0)
            for post in list(self._posts.values()):
                client = post.client
                if client is None or not client.is_open:
                    continue
                is_idle = not client.load and client.given == post.given
                post.idle_ticks = post.idle_ticks + 1 if is_idle else 0
                post.given = client.given
                if post.idle_ticks >= _IDLE_TICKS and len(self._posts) > self._least:
                    self._drop(post)

    def _drop(self, post: _Post) -> None:
        """Give up a post: its isolate ends when it has answered what it has."""
        post.is_dropped = True
        self._posts.pop(post.number, None)
        client = post.client
        if client is not None and client.is_open:
            client.retire()
            self.dispatch.remove(client)
        elif client is not None and client.isolate.death is None:
            client.isolate.kill()  # it has not begun to serve
        post.scope.cancel()

    async def resize(self, size: int) -> None:
        """Have so many posts; return when all have started, and those given up are gone."""
        self.check_usable()
        self.size = self._least = size
        self._lost = 0
        for _ in range(size - len(self._posts)):
            self._add_post()
        old = sorted(self._posts.values(), key=_load)[: max(0, len(self._posts) - size)]
        for post in old:
            self._drop(post)
        for post in list(self._posts.values()):
            await post.settled.wait()
        for post in old:
            await post.gone.wait()
        await trio.lowlevel.checkpoint()

    async def wait_open(self) -> None:
        """Wait for the first isolate. Raises `IsolateSpawnError` if the whole first round fails."""
        await self._opened.wait()
        if not self._was_manned:
            self._unnoticed.clear()
            raise next(iter(self._first_failures.values()))

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


def _load(post: _Post) -> int:
    """How much there is to do at a post; less than nothing if nobody can serve there yet."""
    return post.client.load if post.client is not None and post.client.is_open else -1


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
