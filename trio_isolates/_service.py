"""What an isolate serves: the spec made real, messages to work, outcomes to messages.

This module knows what a call asks for and how its outcome is said. It does not know in which loop
the work is done.
"""

from __future__ import annotations

import importlib
import inspect
import operator
import os
import reprlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from contextvars import Context
from functools import partial
from time import perf_counter
from typing import Any, Final, TypeAlias, cast, final

from attrs import frozen

from ._data import Parcel, pack_error
from ._entry import AsyncEntry, BlockingEntry
from ._errors import UnsendableError
from ._exchange import Exchange
from ._functions import is_async, is_async_generator, is_generator
from ._interrupt import Interrupter, interruptible
from ._messages import (
    BYE,
    CALL,
    CHUNK,
    ERROR,
    EXTENDED,
    FAILED,
    FAULT,
    INIT,
    MAKE,
    READY,
    RUN,
    STATE,
    STREAM,
    VALUE,
    Chunk,
    Frame,
    Mode,
    Spec,
)
from ._notes import BEGIN, END, KIND_SHIFT, short
from ._peers import Neighbour
from ._pickling import Codec, Pickled
from ._ports import SendPort
from ._progress import Reporter, reporter
from ._wire import encode, encode_definitions

ContextValues: TypeAlias = tuple[tuple[int, Any], ...]
Work: TypeAlias = tuple[
    Callable[..., Any], tuple[Any, ...], dict[str, Any], ContextValues, SendPort[Any] | None
]

_OUR_FOLDER: Final = os.path.dirname(__file__) + os.sep
_NO_KWARGS: Final[dict[str, Any]] = {}


def needs_trio(function: object) -> bool:
    """True for async functions and async generator functions, and for methods of which any is one."""
    if isinstance(function, Methods):
        return function.needs_trio
    return is_async(function) or is_async_generator(function)


@final
@frozen
class Methods:
    """The handler of an actor, which is the state: what is called is its method, which a call names first."""

    needs_trio: bool

    def __call__(self, actor: object, name: str) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(actor, name)
        return method


def resolve(function: Callable[..., Any] | str) -> Callable[..., Any]:
    """Return the function that "package.module:function" names; functions are returned as they are."""
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    found: Callable[..., Any] = operator.attrgetter(name)(importlib.import_module(module))
    return found


def describe_call(handler: object, kind: int, payload: Any) -> str:
    """Return the qualified name of the function that a call asks for; of an actor's, the method's."""
    if kind == EXTENDED:
        kind, payload = payload[:2]
    function = handler
    if isinstance(handler, Methods) or (kind in (RUN, CHUNK) and payload[0] is not None):
        function = payload[0]
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, str):
        return function
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def describe_args(kind: int, payload: Any) -> str:
    """Return a short text for the arguments of a call."""
    if kind == EXTENDED:
        kind, payload = payload[:2]
    if kind == CHUNK:
        count = len(payload[1][0])
        return f"({count} item{'' if count == 1 else 's'})"
    args = payload if kind in (CALL, STREAM) else payload[1]
    return f"({', '.join(map(short, args))})"


def not_async(function: Callable[..., Any], coroutine: Coroutine[Any, Any, Any]) -> TypeError:
    coroutine.close()
    return TypeError(
        f"{function!r} returned a coroutine, but is not an async function: "
        "wrap it in one, so that this is known before it is called"
    )


def checked(function: Callable[..., Any], value: Any) -> Any:
    if inspect.iscoroutine(value):
        raise not_async(function, value)
    return value


def name_item(error: Exception, item: object, place: int) -> None:
    try:
        error.add_note(f"for items[{place}]: {reprlib.repr(item)}")
    except Exception:  # an exception that fights back, or a __repr__ that raises
        pass


class Service:
    """What both loops share.

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
        exchange: Exchange,
        may_block: bool = True,
    ) -> None:
        self.spec = spec
        self.codec = codec
        self.exchange = exchange
        self.interrupter = interrupter
        self.title = title
        self.flush = flush
        self.handler = None if spec.handler is None else resolve(spec.handler)
        if self.handler is not None and not callable(self.handler):
            raise TypeError(f"handler={spec.handler!r} is a {type(self.handler).__name__}, and not callable")
        self._is_stream = is_generator(self.handler)
        self._is_actor = isinstance(self.handler, Methods)
        is_sync = self.handler is not None and not needs_trio(self.handler)
        if is_sync and spec.concurrency is not None:
            raise TypeError(f"concurrency= is for async handlers; {spec.handler!r} is a sync one")
        self.mode: Mode = "sync" if is_sync and may_block else "async"
        self.concurrency = 1 if is_sync else spec.concurrency
        self.notes = exchange.notes
        self.began = 0.0  # when the sync function that runs was begun, if there are notes
        self._state: tuple[Any, ...] = ()
        self._step = 0
        if spec.is_entry and self.handler is not None:
            make = BlockingEntry if self.mode == "sync" else AsyncEntry
            self.handler = make(self.handler, exchange, None if spec.errors_are_fatal else self.report)

    def connect(self, write: Callable[[list[Chunk], bool], None], *, is_near: bool = False) -> Neighbour:
        """Connect the exchange of this isolate with its parent's, which it expects."""
        parent = self.exchange.parent
        assert parent is not None
        parent.write, parent.is_near = write, is_near
        return parent

    def note(self, what: int, ident: int = 0) -> None:
        """Note it, if this isolate is recorded."""
        if self.notes is not None:
            self.notes.take((perf_counter(), what, ident, 0))

    def refuse(self, ident: int, exc: BaseException) -> list[Chunk]:
        """Return the frames that answer a call that could not be opened."""
        self.note(BEGIN, ident)
        self.note(END | ERROR << KIND_SHIFT, ident)
        return self.encode(ERROR, ident, exc)

    def rest(self) -> None:
        """Nothing is to be done for now."""
        if self.notes is not None:
            self.notes.rest()

    def write_notes(self) -> None:
        """Write down what was noted, before it may be too late."""
        if self.notes is not None:
            self.notes.flush()

    def setup(self) -> Iterator[Callable[..., Any]]:
        """Give the functions to call before READY, in order; the result of each goes to `keep`."""
        for step, function in ((INIT, self.spec.init), (STATE, self.spec.state)):
            if function is not None:
                self._step = step
                yield resolve(function)

    def keep(self, value: object) -> None:
        """Take note of what a set-up function returned: the state is the handler's first argument."""
        if self._step == STATE:
            self._state = (value,)
            if self.handler is not None:
                self.handler = partial(self.handler, value)

    def failed(self, exc: BaseException) -> list[Chunk]:
        """Return the frames that say which of the functions raised, and what."""
        return self.encode(FAILED, MAKE if self._is_actor and self._step == STATE else self._step, exc)

    def ready(self) -> list[Chunk]:
        return encode(READY, self.concurrency or 0, [self.mode.encode()])

    def teardown(self) -> partial[Any] | None:
        teardown = self.spec.teardown
        return None if teardown is None else partial(resolve(teardown), *self._state)

    def open(self, frame: Frame) -> tuple[int, Work]:
        """Unpickle a call; return its kind and what it asks for. Raises `UnsendableError`."""
        kind, _, body, buffers = frame
        payload: Any = self.codec.loads(body, buffers)
        kwargs: dict[str, Any] = _NO_KWARGS
        values: ContextValues = ()
        port: SendPort[Any] | None = None
        if kind == EXTENDED:
            kind, payload, kwargs, values, port = payload
        function, args = (None, payload) if kind in (CALL, STREAM) else payload
        if function is None:
            function = self.handler
        if function is None:
            raise TypeError("there is no handler: use `run`, or a pool's `map` with a function")
        is_stream = self._is_stream and function is self.handler
        if self._is_actor and kind in (CALL, STREAM):
            if not args or not isinstance(args[0], str):
                raise TypeError("the first argument to an actor's worker is the name of a method")
            function, args = cast(Any, function)(args[0]), args[1:]
            is_stream = is_generator(function)
        if kind == STREAM and not is_stream:
            raise TypeError(f"the handler {function!r} is no generator function: use `call`")
        if is_stream and kind != STREAM:
            raise TypeError(f"the handler {function!r} is a generator function: use `open_stream`")
        return kind, (function, args, kwargs, values, port)

    def prepare(self, kind: int, values: ContextValues, port: SendPort[Any] | None) -> None:
        """Set up the context of a call, in that context."""
        for index, value in values:
            self.spec.context[index].set(value)
        if port is not None and kind != STREAM:
            reporter.set(Reporter(port))

    def serve(
        self, ident: int, kind: int, work: Work, context: Context, send: Callable[[list[Chunk]], None]
    ) -> None:
        """Call a sync function, which can be interrupted, and send the answer.

        Its values are let go after that: to free a large tree takes long.
        """
        function, args, kwargs, values, port = work
        if values or port is not None:
            context.run(self.prepare, kind, values, port)
        if kind == CHUNK:
            function = partial(self.run_chunk, function)
        answer, value = self.interrupter.run(ident, partial(context.run, function, *args, **kwargs))
        if answer == ERROR:
            self.explain(value, work[0])
        if answer == VALUE and inspect.iscoroutine(value):
            answer, value = ERROR, not_async(function, value)
        if port is not None and kind != STREAM:
            answer, value = context.run(self.finish, answer, value)
        chunks = self.encode(answer, ident, value)
        if self.notes is not None:
            self.notes.take((perf_counter(), END | answer << KIND_SHIFT, ident, self.began))
        send(chunks)
        del value  # an error holds this frame, which must not hold the error

    def explain(self, error: object, function: object) -> None:
        """Note what a call has been given besides its arguments, if its handler would not take them all."""
        if not (self._state and isinstance(error, TypeError)):
            return
        if all(part is not self.handler for part in (function, *getattr(function, "args", ()))):
            return
        tb = error.__traceback__
        while tb is not None and tb.tb_next is not None:
            tb = tb.tb_next
        if tb is not None and tb.tb_frame.f_code.co_filename.startswith(_OUR_FOLDER):  # it has not begun
            with suppress(Exception):  # an exception that fights back
                error.add_note("state= is passed as the first argument")

    def finish(self, answer: int, value: Any) -> tuple[int, Any]:
        """Send what the call has still to say before its answer, in its context; return the answer."""
        try:
            if (current := reporter.get()) is not None:
                current.finish()
        except UnsendableError as exc:
            return ERROR, exc
        return answer, value

    def encode(self, kind: int, ident: int, value: object = None) -> list[Chunk]:
        """Return the frames that answer a call, definitions first; a value that cannot travel is an error."""
        if kind == VALUE:
            try:
                return self._pack(kind, ident, self._dump_value(value))
            except BaseException as exc:
                kind, value = ERROR, exc
        if isinstance(value, BaseException):
            pickled = self._dump_error(value)
            value = None  # its traceback may hold this frame, and so what could not be sent
            return self._pack(kind, ident, pickled)
        return encode(kind, ident)

    def _dump_value(self, value: object) -> Pickled:
        if not self.spec.changes.is_data_only:
            return self.codec.dumps(value, "result")
        parcel = Parcel(value) if isinstance(value, bytes) else value
        if not isinstance(parcel, Parcel):
            raise TypeError(f"a data-only isolate returns bytes or a Parcel, not a {type(value).__name__}")
        return [parcel.head], [memoryview(piece) for piece in parcel.pieces], []

    def _dump_error(self, exc: BaseException) -> Pickled:
        return pack_error(self.codec, exc, self.title, is_data_only=self.spec.changes.is_data_only)

    def report(self, exc: BaseException) -> None:
        """Tell the parent of an error that nobody waits for."""
        assert self.exchange.parent is not None
        self.exchange.parent.write(self._pack(FAULT, 0, self._dump_error(exc)), True)

    def last_words(self) -> list[list[Chunk]]:
        """Return what is to be said before an exit: a bare isolate says goodbye, a worker does not."""
        return [encode(VALUE, 1, self.codec.dumps(None)[0]), encode(BYE, 0)] if self.spec.is_entry else []

    def _pack(self, kind: int, ident: int, pickled: Pickled) -> list[Chunk]:
        chunks, buffers, definitions = pickled
        first = encode_definitions(definitions) if definitions else []
        try:
            if not buffers and len(chunks) == 1:
                return first + encode(kind, ident, chunks)
            assert self.exchange.parent is not None
            return first + self.exchange.parent.encode(kind, ident, chunks, buffers)
        except UnsendableError as exc:  # too large; the definitions stay said
            return first + self.encode(ERROR, ident, exc)

    @staticmethod
    @interruptible
    def run_chunk(function: Callable[..., Any], items: list[Any], first: int) -> list[Any]:
        """Call the function with each item; first: the place of the first one in the whole."""
        results: list[Any] = []
        try:
            for item in items:  # not a comprehension, which has a frame of its own in 3.11
                results.append(function(item))  # noqa: PERF401
        except Exception as exc:
            name_item(exc, items[len(results)], first + len(results))
            raise
        return results

    @staticmethod
    async def run_chunk_async(function: Callable[..., Any], items: list[Any], first: int) -> list[Any]:
        """The same with an async function."""
        results: list[Any] = []
        try:
            for item in items:
                results.append(await function(item))  # noqa: PERF401
        except Exception as exc:
            name_item(exc, items[len(results)], first + len(results))
            raise
        return results

    @staticmethod
    @interruptible
    def run_stream(
        function: Callable[..., Any], port: SendPort[Any] | None, /, *args: Any, **kwargs: Any
    ) -> None:
        """Send the items of a generator, blocking; left early, it is closed."""
        assert port is not None
        items = function(*args, **kwargs)
        try:
            for item in items:
                port.send_sync(item)
        finally:
            items.close()
