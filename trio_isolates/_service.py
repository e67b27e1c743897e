"""What an isolate serves: the spec made real, messages to work, outcomes to messages.

This module knows what a call asks for and how its outcome is said. It does not know in which loop
the work is done.
"""

from __future__ import annotations

import importlib
import inspect
import operator
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, Final, TypeAlias

from ._errors import UnsendableError
from ._exceptions import dump_error
from ._interrupt import Interrupter, interruptible
from ._messages import (
    CALL,
    CHUNK,
    ERROR,
    EXTENDED,
    FAILED,
    INIT,
    READY,
    STATE,
    VALUE,
    Chunk,
    Frame,
    Mode,
    Spec,
)
from ._pickling import Codec, Pickled
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
        may_block: bool = True,
    ) -> None:
        self.spec = spec
        self.codec = codec
        self.interrupter = interrupter
        self.title = title
        self.flush = flush
        self.handler = None if spec.handler is None else resolve(spec.handler)
        if self.handler is not None and not callable(self.handler):
            raise TypeError(f"handler={spec.handler!r} is a {type(self.handler).__name__}, and not callable")
        is_sync = self.handler is not None and not is_async(self.handler)
        if is_sync and spec.concurrency is not None:
            raise TypeError(f"concurrency= is for async handlers; {spec.handler!r} is a sync one")
        self.mode: Mode = "sync" if is_sync and may_block else "async"
        self.concurrency = 1 if is_sync else spec.concurrency
        self._state: tuple[Any, ...] = ()
        self._step = 0

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
        return self.encode(FAILED, self._step, exc)

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
        if kind == EXTENDED:
            kind, payload, kwargs, values = payload
        function, args = (None, payload) if kind == CALL else payload
        if function is None:
            function = self.handler
        if function is None:
            raise TypeError("there is no handler: give a function, to `run` or to `map`")
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
            pickled = dump_error(self.codec, value, self.title)
            value = None  # its traceback may hold this frame, and so what could not be sent
            return self._pack(kind, ident, pickled)
        return encode(kind, ident)

    def _pack(self, kind: int, ident: int, pickled: Pickled) -> list[Chunk]:
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
