"""`open_actor`: an object that lives in an isolate, and whose methods are called from here.

An actor is a worker whose handler is the object's methods and whose state is the object. This module
knows what a class offers to those who are elsewhere; how a call is made is the worker's business.
"""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from functools import partial, update_wrapper
from typing import Any, Final, NoReturn, ParamSpec, TypeVar, TypeVarTuple, cast, final, get_origin, overload

import trio

from ._engine import Engine
from ._errors import UnsendableError, rename_path
from ._functions import is_generator
from ._open_worker import Worker, open_worker
from ._options import GcPolicy, OnCancel
from ._restart import Restart
from ._service import Methods, needs_trio

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Where a path begins that leads to what cannot be sent, in our words and in those of `open_actor`.
_OURS_AND_THEIRS: Final = (("state.args[0]", "cls"), ("state.args[1]", "args"))

_counter: Final = itertools.count(1)


@final
class Actor:
    """What `open_actor` gives: the public methods of the class, and nothing else."""

    def __init__(self, cls: type, worker: Worker[..., Any]) -> None:
        self.__dict__["_Actor__class"] = cls
        self.__dict__["_Actor__worker"] = worker
        for name, function in public_methods(cls).items():
            self.__dict__[name] = _make_method(cls, name, function, worker)

    def __dir__(self) -> list[str]:
        return list(public_methods(self.__class))

    def __repr__(self) -> str:
        return f"<actor {self.__class.__qualname__} {self.__worker.name!r} pid={self.__worker.pid}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an actor cannot be sent: it stays with the block that opened it")

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(_why_not(self.__class, name))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"cannot set {name!r}: the {self.__class.__qualname__!r} is in its isolate, and only its "
            "methods can be called from here"
        )

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)

    @staticmethod
    def worker_of(actor: Actor) -> Worker[..., Any]:
        return actor.__worker


def public_methods(cls: type) -> dict[str, Callable[..., Any]]:
    """Return what can be called on an instance of the class, by name: no private names, no nested classes."""
    found: dict[str, Callable[..., Any]] = {}
    for name in dir(cls):
        attribute = None if name.startswith("_") else getattr(cls, name, None)
        if callable(attribute) and not isinstance(attribute, type):
            found[name] = attribute
    return found


def _why_not(cls: type, name: str) -> str:
    if name.startswith("_"):
        return f"{name!r} is private: it stays with the {cls.__qualname__!r} in its isolate"
    if hasattr(cls, name) or any(name in getattr(base, "__annotations__", ()) for base in cls.__mro__):
        return (
            f"{cls.__qualname__ + '.' + name!r} is no method, and only methods can be called from here: "
            "write one that returns it"
        )
    return f"{cls.__qualname__!r} has no method {name!r}"


def _make_method(
    cls: type, name: str, function: Callable[..., Any], worker: Worker[..., Any]
) -> Callable[..., Any]:
    """Return what stands for the method here, with its name, its signature and its documentation."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await worker.call(name, *args, **kwargs)

    def open_stream(*args: Any, **kwargs: Any) -> Any:
        return worker.open_stream(name, *args, **kwargs)

    method: Any = open_stream if is_generator(function) else call
    update_wrapper(method, function, updated=())
    method.__name__, method.__qualname__ = name, f"{cls.__qualname__}.{name}"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some builtin ones nothing is known
        return cast(Callable[..., Any], method)
    if not (inspect.ismethod(function) or isinstance(inspect.getattr_static(cls, name), staticmethod)):
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    method.__signature__ = signature
    return cast(Callable[..., Any], method)


# In the isolate.


def _make(cls: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return cls(*args)


def _enter(cls: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    made = cls(*args)
    _type(made).__enter__(made)
    return made


async def _enter_async(cls: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    made = cls(*args)
    await _type(made).__aenter__(made)
    return made


def _exit(made: object) -> None:
    _type(made).__exit__(made, None, None, None)


async def _exit_async(made: object) -> None:
    await _type(made).__aexit__(made, None, None, None)


def _type(made: object) -> Any:
    return type(made)  # where `with` finds them


# The doors.


def open_actor(
    cls: Callable[[*Ts], T],
    *args: *Ts,
    name: str | None = None,
    init: Callable[[], object] | str | None = None,
    context: Sequence[ContextVar[Any]] = (),
    concurrency: int | None = None,
    max_in_flight: int = 1024,
    on_cancel: OnCancel = "interrupt",
    cancel_grace: float = 1.0,
    shutdown_grace: float = 5.0,
    restart: Restart | None = None,
    gc: GcPolicy = "pause",
    engine: Engine | str | None = None,
    nice: int | None = None,
    cpu_affinity: Iterable[int] | None = None,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> AbstractAsyncContextManager[T]:
    """Open an isolate with an object in it for the length of a block; give what stands for it here.

        async with open_actor(Model, "weights.bin") as model:
            label = await model.classify(image)

    The object is made in the isolate, from `cls(*args)`; it never leaves it. What the block gets has the
    public methods of the class, and nothing else: a private name, an attribute or a property is an
    `AttributeError` at once. Each method, sync or async, is awaited here; one that is a generator, sync
    or async, is a stream, as `Worker.open_stream` describes it:

        async with model.read_all(path) as items:
            async for item in items: ...

    Arguments and results are copied. What a method raises, and how it is cancelled, is as for `Worker.call`,
    `on_progress=` included. An interrupted sync method leaves the object as it is at that moment.

    **Its loop.** If all methods are sync, they are called one at a time, in the order in which they were
    called here, and need no locks. If any is async (`__aenter__` counts), the isolate runs Trio: async
    methods run side by side, as many as `concurrency` says, and a sync one blocks them all until it
    returns. With `concurrency=1` the order is that of the calls here, too.

    **Its end.** An object that is a context manager, async or else sync, is entered when it has been made
    and exited, without an exception, when the block is left, unless it is killed before. What
    `__enter__` returns is not used.

    **Its state** lives as long as its process. A process that died, if `restart` says so, or that had to
    be killed because a cancelled call did not end within `cancel_grace`, is replaced: the object is made
    again from `cls(*args)`, and knows nothing of what was before.

    **Its type**, for a type checker, is that of `cls`: async methods are right as they stand, and
    `actor_method` tells of the others what they are here.

    Args:
        cls: a class, in the main program or a notebook too. Keyword arguments go into a
            `functools.partial` of it.
        *args: what it is called with.
        name: shown in errors and logs.
        init: called once in the isolate before the object is made; it may be async.
        context, concurrency, max_in_flight, on_cancel, cancel_grace, shutdown_grace, restart, gc, engine,
        nice, cpu_affinity, env, cwd, threads: as for `open_worker`; `concurrency` for classes with
            async methods, `on_cancel="kill"` for the others.

    Raises what `open_worker` does: `IsolateSpawnError`, from what the class raised, if it could not
    be made.
    """
    made = _class_of(cls)
    methods = public_methods(made)
    is_async_manager = _has(made, "__aenter__", "__aexit__")
    handler = Methods(is_async_manager or any(map(needs_trio, methods.values())))
    if concurrency is not None and not handler.needs_trio:
        raise TypeError(f"concurrency= is for classes with async methods; {made.__qualname__!r} has none")
    if on_cancel == "kill" and handler.needs_trio:
        raise TypeError(f"on_cancel='kill' is for sync methods only; {made.__qualname__!r} has async ones")
    make: Callable[..., Any] = _make
    leave: Callable[[Any], object] | None = None
    if is_async_manager:
        make, leave = _enter_async, _exit_async
    elif _has(made, "__enter__", "__exit__"):
        make, leave = _enter, _exit
    opening = cast(Any, open_worker)(
        handler,
        name=name or f"{made.__name__}-{next(_counter)}",
        init=init,
        state=partial(make, cls, args),
        teardown=leave,
        context=context,
        concurrency=concurrency,
        max_in_flight=max_in_flight,
        on_cancel=on_cancel,
        cancel_grace=cancel_grace,
        shutdown_grace=shutdown_grace,
        restart=restart,
        gc=gc,
        engine=engine,
        nice=nice,
        cpu_affinity=cpu_affinity,
        env=env,
        cwd=cwd,
        threads=threads,
    )
    return cast(AbstractAsyncContextManager[T], _open(made, opening))


def _class_of(cls: object) -> type:
    """Return the class that is made, by whatever partials and type arguments."""
    made = cls
    while isinstance(made, partial) or get_origin(made) is not None:
        made = made.func if isinstance(made, partial) else get_origin(made)
    if not isinstance(made, type):
        raise TypeError(f"cls must be a class, or a functools.partial of one, not {cls!r}")
    return made


def _has(cls: type, *names: str) -> bool:
    return all(hasattr(cls, name) for name in names)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _open(
    cls: type, opening: AbstractAsyncContextManager[Worker[..., Any]]
) -> AsyncGenerator[Actor, None]:
    is_open = False
    try:
        async with opening as worker:
            is_open = True
            yield Actor(cls, worker)
    except UnsendableError as exc:
        if not is_open:
            for ours, theirs in _OURS_AND_THEIRS:
                rename_path(exc, ours, theirs)
        raise


def actor_worker(actor: object) -> Worker[..., Any]:
    """Return the worker underneath an actor: its pid, its statistics, `run`, `close`, `kill`.

    `call` and `open_stream` of this worker take the name of a method first.
    """
    if not isinstance(actor, Actor):
        raise TypeError(f"an actor is wanted, from open_actor, not {actor!r}")
    return Actor.worker_of(actor)


@overload
def actor_method(method: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]: ...
@overload
def actor_method(  # type: ignore[overload-overlap]
    method: Callable[P, Iterator[S] | AsyncIterable[S]],  # pyright: ignore[reportOverlappingOverload]
) -> Callable[P, AbstractAsyncContextManager[trio.abc.ReceiveChannel[S]]]: ...
@overload
def actor_method(method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]: ...
def actor_method(method: Any) -> Any:
    """Return the method of an actor as it is, with the type that it really has, for a type checker.

        count: int = await actor_method(counter.add)(5)
        async with actor_method(counter.all)() as items: ...

    A type checker takes the actor for an instance of its class. That is right for async methods. Of a sync
    one it does not know that it is awaited here, of a generator not that it is a stream.
    """
    return method
