"""The posts of a crew: each is kept manned, until the crew ends or the post is given up.

An isolate that dies, or has served its time, gives its post to another; posts are added and given
up as the crew is resized. This module does not know which call goes to whom, nor how a crew ends.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Final, final

import trio
from attrs import define, evolve, field

from ._call import Call
from ._client import Client
from ._dispatch import Dispatcher
from ._errors import IsolateError, IsolateSpawnError, RestartLimitExceeded, UnsendableError
from ._options import Options
from ._restart import Restart, RestartWindow

_IDLE_TICKS: Final = 10  # seconds without a call after which a post above the least is given up


@define(eq=False)
class _Post:
    """A place for an isolate. settled: its first isolate is ready, or has failed. gone: it is given up."""

    number: int
    client: Client | None = None
    last: int = 0  # the number of the isolate that was here last
    is_dropped: bool = False
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    settled: trio.Event = field(factory=trio.Event)
    gone: trio.Event = field(factory=trio.Event)
    idle_ticks: int = 0
    given: int = 0  # calls to its isolate, when last looked at


@final
class Posts:
    """The isolates of a crew: how many, and what becomes of those that end.

    least: how many are kept when there is nothing to do; None: always `size`. most_calls, max_memory:
    after so many calls, or with so many bytes resident, an isolate gives its post to another.
    is_over: whether nobody is to be replaced any more. fail: is told when nothing will be served again.
    on_death: with the calls that it had not begun, or that may be repeated. on_error: when a handler of
    a port has raised.
    """

    def __init__(
        self,
        options: Options,
        dispatch: Dispatcher,
        *,
        size: int,
        least: int | None,
        restart: Restart | None,
        is_pool: bool,
        replaces_killed: bool,
        most_calls: int | None,
        max_memory: int | None,
        is_over: Callable[[], bool],
        fail: Callable[[IsolateError], None],
        on_death: Callable[[Client, list[Call]], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self.size = size
        self.replaced = 0
        self.restarted = 0
        self.recycled = 0
        self.all: list[Client] = []  # every one that is not known to be gone
        self.opened = trio.Event()
        self.was_manned = False
        self.first_failures: dict[int, IsolateError] = {}  # by the post
        self.unnoticed: list[IsolateError] = []  # deaths of those that no call has shown
        self.teardown_error: BaseException | None = None
        self._options = options
        self._dispatch = dispatch
        dispatch.on_wait, dispatch.on_worn = self.on_wait, self.relieve
        self.least = size if least is None else least
        self._least = least  # None: all are kept, however many
        self._restart = restart
        self._window = None if restart is None else RestartWindow(restart)
        self._is_pool = is_pool
        self._replaces_killed = replaces_killed
        self.most_calls = most_calls
        self._max_memory = max_memory
        self._is_over = is_over
        self._fail = fail
        self._on_death = on_death
        self._on_error = on_error
        self._posts: dict[int, _Post] = {}
        self._numbers = count(1)
        self._lost = 0  # posts that nobody will man again
        self._nursery: trio.Nursery | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Keep the posts manned, for ever."""
        async with trio.open_nursery() as self._nursery:
            for _ in range(self.least):
                self._add_post()
            if not self.least:  # they start when there is something to do
                self.opened.set()
            if self._least is not None:
                self._nursery.start_soon(self._watch_idle)
            await trio.sleep_forever()

    @property
    def replaces_dead(self) -> bool:
        """Whether an isolate that dies is followed by another."""
        return self._window is not None

    def make_client(self, number: int) -> Client:
        options = self._options
        if self._is_pool:
            options = evolve(options, spec=evolve(options.spec, name=f"{options.spec.name}.{number}"))
        client = Client(
            options,
            self._dispatch.counts,
            on_room=self._dispatch.on_room,
            on_death=self._on_death,
            on_return=self._dispatch.take_returned,
            on_error=self._on_error,
            on_heavy=self.relieve,
        )
        client.most = self.most_calls
        client.max_memory = self._max_memory
        return client

    def _add_post(self) -> _Post:
        assert self._nursery is not None
        post = _Post(next(self._numbers))
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
                failure: IsolateError | None = IsolateSpawnError(f"{self._options.spec.name!r}: {exc}")
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

    async def _serve(self, post: _Post, client: Client) -> IsolateError | None:
        """See one isolate through its life at this post; return how that ended, None if it was relieved."""
        assert self._nursery is not None
        self.all.append(client)
        post.client = client
        post.last = client.isolate.take_place_of(post.last)
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
        if client in self.all:
            self.all.remove(client)
        if self.teardown_error is None:
            self.teardown_error = client.isolate.teardown_error

    def _note_failed_start(self, post: _Post, failure: IsolateError) -> None:
        post.settled.set()
        self.first_failures.setdefault(post.number, failure)
        if len(self.first_failures) >= self.least:
            self.opened.set()

    def _admit(self, post: _Post, client: Client) -> None:
        self.opened.set()
        post.settled.set()
        self.was_manned = True
        client.open()
        if self._is_pool:
            # In a pool that grows on demand, a call that waits has another isolate started.
            client.hold(at_hand=self.least == self.size)
        self._dispatch.add(client)

    def _judge(self, post: _Post, client: Client | None, failure: IsolateError) -> float | None:
        """Return the seconds after which to start again, or None not to."""
        if client is not None and client.is_ours:
            self.replaced += self._replaces_killed
            return 0.0 if self._replaces_killed else None
        if self._window is None:
            if client is None or not client.isolate.is_ready:
                self.unnoticed.append(failure)
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
                f"{self._options.spec.name!r}: {len(causes)} failures within {policy.within} seconds, "
                f"more than max_restarts={policy.max_restarts}; the last: {causes[-1]}",
                causes=causes,
            )
            limit.__cause__ = causes[-1]
            self._fail(limit)
        return delay

    # Coming and going.

    def relieve(self, client: Client) -> None:
        """It has served its time: it takes no more calls, and another one takes its post."""
        if client.is_open and not self._is_over():
            client.retire()
            self._dispatch.remove(client)

    @trio.lowlevel.enable_ki_protection
    async def _see_off(self, client: Client) -> None:
        """End an isolate that has been relieved, when it has answered what it has."""
        await client.spent.wait()
        await client.isolate.close(self._options.shutdown_grace)
        self._forget(client)

    def on_wait(self) -> None:
        """A call has to wait: one more isolate, if there may be more, and none is on its way for it."""
        coming = sum(not (post.client and post.client.is_open) for post in self._posts.values())
        if (
            len(self._posts) < self.size - self._lost
            and coming < self._dispatch.queued
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
                if post.idle_ticks >= _IDLE_TICKS and len(self._posts) > self.least:
                    self._drop(post)

    def _drop(self, post: _Post) -> None:
        """Give up a post: its isolate ends when it has answered what it has."""
        post.is_dropped = True
        self._posts.pop(post.number, None)
        client = post.client
        if client is not None and client.is_open:
            client.retire()
            self._dispatch.remove(client)
        elif client is not None and not client.left.is_set():
            client.isolate.kill()  # it has not begun to serve
        post.scope.cancel()

    @trio.lowlevel.enable_ki_protection
    async def resize(self, size: int) -> None:
        """Have so many posts; return when all have started, and those given up are gone."""
        self.size = size
        self.least = size if self._least is None else min(self._least, size)
        self._lost = 0
        for _ in range(self.least - len(self._posts)):
            self._add_post()
        for _ in range(self._dispatch.queued):  # in a pool that grows on demand
            self.on_wait()
        old = sorted(self._posts.values(), key=_load)[: max(0, len(self._posts) - size)]
        for post in old:
            self._drop(post)
        for post in list(self._posts.values()):
            await post.settled.wait()
        for post in old:
            await post.gone.wait()
        await trio.lowlevel.checkpoint()


def _load(post: _Post) -> int:
    """How much there is to do at a post; less than nothing if nobody can serve there yet."""
    return post.client.load if post.client is not None and post.client.is_open else -1
