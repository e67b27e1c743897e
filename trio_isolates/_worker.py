"""What runs inside an isolate: calls in, one answer each out.

There are two loops. `SyncServer` is a plain blocking one, for a sync handler; `AsyncServer` runs on
Trio, for an async handler or none. Both begin calls in the order in which they came, mark each as
begun before they open its arguments, and answer each exactly once. This module does not know
where the isolate lives, nor who calls.
"""

from __future__ import annotations

import importlib
import inspect
import operator
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeAlias, final

import trio

from ._errors import CallInterrupted, UnsendableError
from ._exceptions import dump_error
from ._interrupt import Interrupter, interruptible
from ._link import BlockingLink, Link
from ._messages import (
    BYE,
    CALL,
    CANCEL,
    CANCELLED,
    CHUNK,
    CLOSE,
    DEFINE,
    DROPPED,
    ERROR,
    EXTENDED,
    FAILED,
    READY,
    VALUE,
    Chunk,
    Frame,
    Mode,
    Spec,
)
from ._pickling import Codec
from ._wire import encode, encode_definitions

ContextValues: TypeAlias = tuple[tuple[int, Any], ...]
Work: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], ContextValues]

_NO_KWARGS: Final[dict[str, Any]] = {}


def is_async(function: object) -> bool:
    """True for async functions, objects whose `__call__` is one, and partials of either."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004
    )


def resolve(function: Callable[..., Any] | str) -> Callable[..., Any]:
    """Return the function that "package.module:function" names; functions are returned as they are."""
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    found: Callable[..., Any] = operator.attrgetter(name)(importlib.import_module(module))
    return found


def _not_async(function: Callable[..., Any], coroutine: Coroutine[Any, Any, Any]) -> TypeError:
    coroutine.close()
    return TypeError(
        f"{function!r} returned a coroutine, but is not an async function: "
        "wrap it in one, so that this is known before it is called"
    )


def _run_soon(token: trio.lowlevel.TrioToken, function: Callable[[], Any]) -> None:
    try:
        token.run_sync_soon(function, idempotent=True)
    except trio.RunFinishedError:
        pass


def _checked(function: Callable[..., Any], value: Any) -> Any:
    if inspect.iscoroutine(value):
        raise _not_async(function, value)
    return value


class Service:
    """What both loops share: the spec made real, messages to work, outcomes to messages.

    may_block: whether this isolate's thread is its own, so that a sync handler gets the plain
    blocking loop. Else it runs in the loop on Trio, one call at a time as well.
    """

    def __init__(
        self,
        spec: Spec,
        codec: Codec,
        interrupter: Interrupter,
        title: str,
        flush: Callable[[], None],
        *,
        may_block: bool = True,
    ) -> None:
        self.spec = spec
        self.codec = codec
        self.interrupter = interrupter
        self.title = title
        self.flush = flush
        self.handler = None if spec.handler is None else resolve(spec.handler)
        is_sync = self.handler is not None and not is_async(self.handler)
        if is_sync and spec.concurrency is not None:
            raise TypeError(f"concurrency= is for async handlers; {spec.handler!r} is a sync one")
        self.mode: Mode = "sync" if is_sync and may_block else "async"
        self.concurrency = 1 if is_sync else spec.concurrency
        self._state: tuple[Any, ...] = ()
        self._state_maker: partial[Any] | None = None

    def setup(self) -> list[partial[Any]]:
        """Return the functions to call before READY, in order; the result of each goes to `keep`."""
        spec = self.spec
        functions = [partial(resolve(function)) for function in (spec.init, spec.state) if function is not None]
        self._state_maker = functions[-1] if spec.state is not None else None
        return functions

    def keep(self, function: partial[Any], value: object) -> None:
        """Take note of what a set-up function returned: the state is the handler's first argument."""
        if function is self._state_maker:
            self._state = (value,)
            if self.handler is not None:
                self.handler = partial(self.handler, value)

    def ready(self) -> list[Chunk]:
        return encode(READY, self.concurrency or 0, [self.mode.encode()])

    def teardown(self) -> partial[Any] | None:
        teardown = self.spec.teardown
        return None if teardown is None else partial(resolve(teardown), *self._state)

    def open(self, frame: Frame) -> tuple[int, Work]:
        """Unpickle a call; return its kind and what it asks for. Raises `UnsendableError`."""
        kind, _, body, buffers = frame
        payload = self.codec.loads(body, buffers)
        kwargs, values = _NO_KWARGS, ()
        if kind == EXTENDED:
            kind, payload, kwargs, values = payload
        if kind == CALL:
            if self.handler is None:
                raise TypeError("this worker has no handler: use run(fn, *args)")
            return kind, (self.handler, payload, kwargs, values)
        function, args = payload
        if function is None:
            function = self.handler
        return kind, (function, (args,) if kind == CHUNK else args, kwargs, values)

    def set_context(self, values: ContextValues) -> None:
        for index, value in values:
            self.spec.context[index].set(value)

    def encode(self, kind: int, ident: int, value: object = None) -> list[Chunk]:
        """Return the frames that answer a call, definitions first; a value that cannot travel is an error."""
        if kind == VALUE:
            try:
                return self._pack(kind, ident, self.codec.dumps(value, "result"))
            except BaseException as exc:
                kind, value = ERROR, exc
        if isinstance(value, BaseException):
            return self._pack(kind, ident, dump_error(self.codec, value, self.title))
        return encode(kind, ident)

    def _pack(
        self,
        kind: int,
        ident: int,
        pickled: tuple[list[Chunk], list[memoryview], list[tuple[int, bytes]]],
    ) -> list[Chunk]:
        chunks, buffers, definitions = pickled
        first = encode_definitions(definitions) if definitions else []
        try:
            return first + encode(kind, ident, chunks, buffers)
        except UnsendableError as exc:  # too large; the definitions stay said
            return first + self.encode(ERROR, ident, exc)

    @staticmethod
    @interruptible
    def run_chunk(function: Callable[..., Any], items: list[Any]) -> list[Any]:
        results: list[Any] = []
        for item in items:  # not a comprehension, which has a frame of its own in 3.11
            results.append(function(item))  # noqa: PERF401
        return results


@final
class SyncServer:
    """The blocking loop: one call at a time, on the main thread."""

    def __init__(self, service: Service, link: BlockingLink) -> None:
        self._service = service
        self._link = link
        self._window = service.interrupter
        self._context = copy_context()

    def run(self) -> None:
        """Set up, serve until told to close, tear down."""
        service = self._service
        try:
            for function in service.setup():
                service.keep(function, self._call_alone(function))
        except BaseException as exc:
            self._answer(service.encode(FAILED, 0, exc))
            return
        self._context = copy_context()
        self._answer(service.ready())
        if not self._serve():
            return
        outcome: BaseException | None = None
        try:
            if (teardown := service.teardown()) is not None:
                self._call_alone(teardown)
        except BaseException as exc:
            outcome = exc
        self._answer(service.encode(BYE, 0, outcome))

    def _serve(self) -> bool:
        """Answer calls; return True when told to close, False if the parent is gone."""
        while frames := self._link.read():
            for frame in frames:
                kind = frame[0]
                if kind <= EXTENDED:
                    self._serve_call(frame)
                elif kind == DEFINE:
                    self._service.codec.define(frame[1], bytes(frame[2]))
                elif kind == CLOSE:
                    return True
        return False

    def _answer(self, chunks: list[Chunk]) -> None:
        self._service.flush()
        self._link.write(chunks)

    def _serve_call(self, frame: Frame) -> None:
        """Answer one call. Its values are let go after the answer is out: to free a large tree takes long."""
        service, ident = self._service, frame[1]
        if not self._window.begin(ident):
            self._answer(encode(DROPPED, ident))
            return
        try:
            kind, (function, args, kwargs, values) = service.open(frame)
        except BaseException as exc:
            self._answer(service.encode(ERROR, ident, exc))
            return
        context = self._context.copy()
        if values:
            context.run(service.set_context, values)
        if kind != CALL and is_async(function):
            function = partial(self._call_async, kind, function)
        elif kind == CHUNK:
            function = partial(service.run_chunk, function)
        answer, value = self._window.run(ident, partial(context.run, function, *args, **kwargs))
        if answer == VALUE and inspect.iscoroutine(value):
            answer, value = ERROR, _not_async(function, value)
        self._answer(service.encode(answer, ident, value))

    def _call_alone(self, function: Callable[..., Any]) -> Any:
        """Run a function that nobody can interrupt; an async one under a Trio of its own."""
        return trio.run(function) if is_async(function) else _checked(function, function())

    def _call_async(self, kind: int, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run an async function alone under Trio; a cancellation cancels its scope instead of interrupting."""
        window = self._window

        async def main() -> Any:
            token = trio.lowlevel.current_trio_token()
            with trio.CancelScope() as scope:
                window.stop_async = partial(_run_soon, token, scope.cancel)
                if window.active in window.cancelled:
                    scope.cancel()
                if kind == CHUNK:
                    return [await function(item) for item in args[0]]
                return await function(*args, **kwargs)
            raise CallInterrupted

        try:
            return trio.run(main)
        finally:
            window.stop_async = None


@final
class AsyncServer:
    """The loop on Trio: each call is a task with a cancel scope of its own."""

    def __init__(self, service: Service, link: Link) -> None:
        self._service = service
        self._link = link
        self._scopes: dict[int, trio.CancelScope] = {}
        self._queue: deque[Frame] = deque()
        self._idle = trio.Event()
        self._context = copy_context()

    async def run(self) -> None:
        """Set up, serve until told to close or the link ends, tear down."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._link.run_writer)
            await self._run(nursery)
            nursery.cancel_scope.cancel()

    async def _run(self, nursery: trio.Nursery) -> None:
        service = self._service
        try:
            for function in service.setup():
                service.keep(function, await self._call_alone(function))
        except trio.Cancelled:
            raise
        except BaseException as exc:
            await self._say_last(service.encode(FAILED, 0, exc))
            return
        self._context = copy_context()
        self._answer(service.ready())
        if not await self._serve(nursery):
            return
        outcome: BaseException | None = None
        try:
            if (teardown := service.teardown()) is not None:
                await self._call_alone(teardown)
        except trio.Cancelled:
            raise
        except BaseException as exc:
            outcome = exc
        await self._say_last(service.encode(BYE, 0, outcome))

    async def _say_last(self, chunks: list[Chunk]) -> None:
        self._answer(chunks)
        await self._link.drained()

    async def _serve(self, nursery: trio.Nursery) -> bool:
        """Begin calls; return True when told to close and all are answered, False if the parent is gone."""
        while frames := await self._link.read():
            for frame in frames:
                kind, ident, body, buffers = frame
                if kind <= EXTENDED:
                    if self._has_room():
                        self._begin(nursery, frame)
                    else:
                        self._queue.append((kind, ident, bytes(body), [memoryview(bytes(b)) for b in buffers]))
                elif kind == CANCEL:
                    self._cancel(ident)
                elif kind == DEFINE:
                    self._service.codec.define(ident, bytes(body))
                elif kind == CLOSE:
                    while self._scopes or self._queue:
                        self._idle = trio.Event()
                        await self._idle.wait()
                    return True
        return False

    def _has_room(self) -> bool:
        limit = self._service.concurrency
        return limit is None or len(self._scopes) < limit

    def _answer(self, chunks: list[Chunk]) -> None:
        self._service.flush()
        self._link.write(chunks, now=len(self._scopes) < 2)

    def _begin(self, nursery: trio.Nursery, frame: Frame) -> None:
        ident = frame[1]
        if not self._service.interrupter.begin(ident, self._scopes):
            self._answer(encode(DROPPED, ident))
            return
        try:
            kind, work = self._service.open(frame)
        except BaseException as exc:
            self._answer(self._service.encode(ERROR, ident, exc))
            return
        self._scopes[ident] = scope = trio.CancelScope()
        # What `init` has set holds in each call; what another call has set does not.
        self._context.run(nursery.start_soon, self._serve_call, nursery, ident, kind, work, scope)

    def _cancel(self, ident: int) -> None:
        if (scope := self._scopes.get(ident)) is not None:
            scope.cancel()
            return
        for frame in self._queue:
            if frame[1] == ident:
                self._queue.remove(frame)
                self._answer(encode(DROPPED, ident))
                return

    async def _serve_call(
        self, nursery: trio.Nursery, ident: int, kind: int, work: Work, scope: trio.CancelScope
    ) -> None:
        function, args, kwargs, values = work
        if values:
            self._service.set_context(values)
        answer: tuple[int, Any] = CANCELLED, None
        try:
            with scope:
                answer = await self._call(ident, kind, function, args, kwargs)
        except trio.Cancelled:
            raise
        except CallInterrupted:
            pass
        except BaseException as exc:
            answer = ERROR, exc
        del self._scopes[ident]
        self._answer(self._service.encode(answer[0], ident, answer[1]))
        while self._queue and self._has_room():
            self._begin(nursery, self._queue.popleft())
        if not self._scopes:
            self._idle.set()

    async def _call(
        self, ident: int, kind: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int, Any]:
        if is_async(function):
            if kind == CHUNK:
                return VALUE, [await function(item) for item in args[0]]
            return VALUE, await function(*args, **kwargs)
        if kind == CHUNK:
            function = partial(self._service.run_chunk, function)
        answer, value = self._service.interrupter.run(ident, partial(function, *args, **kwargs))
        # An error is not raised here: a StopIteration would come out of a coroutine as a RuntimeError.
        return answer, _checked(function, value) if answer == VALUE else value

    async def _call_alone(self, function: Callable[..., Any]) -> Any:
        return await function() if is_async(function) else _checked(function, function())

