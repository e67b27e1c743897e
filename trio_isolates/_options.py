"""What a worker or a pool can be asked for, checked before anything is started.

The options are described where users see them, at `open_worker` and `open_pool`. This module knows
which combinations make sense; it does not know what is done with them.
"""

from __future__ import annotations

import inspect
import itertools
import os
import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, Literal, TypeAlias, TypedDict, Unpack

from attrs import frozen

from ._by_value import find_context_var
from ._checks import check_choice, check_int, check_name, check_seconds
from ._engine import Engine, ProcessEngine, find_engine
from ._environment import log_levels
from ._functions import is_generator
from ._memory import RING
from ._messages import Changes, Spec
from ._restart import Restart
from ._service import needs_trio

OnCancel: TypeAlias = Literal["interrupt", "kill"]
GcPolicy: TypeAlias = Literal["leave", "pause", "freeze"]

MOST_WORKERS: Final = 1024
_FILES: Final = 9  # that are open here for each isolate
_counter: Final = itertools.count(1)
_WORDS: Final = {"run": "fn", "isolate": "entry"}
"""What the users of some functions call the handler."""


_THREADS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Where the libraries that compute in threads look for how many; when they are loaded, and only then."""


class ProcessOptions(TypedDict, total=False):
    """The options that set up an isolate's process; None: as its parent's."""

    nice: int | None
    cpu_affinity: Iterable[int] | None
    env: Mapping[str, str | None] | None
    cwd: str | os.PathLike[str] | None
    threads: int | None


class WorkerOptions(ProcessOptions, total=False):
    """The options of `open_worker` that have the same type whatever the handler is."""

    name: str | None
    init: Callable[[], object] | str | None
    context: Sequence[ContextVar[Any]]
    max_in_flight: int
    on_cancel: OnCancel
    cancel_grace: float
    shutdown_grace: float
    restart: Restart | None
    gc: GcPolicy
    engine: Engine | str | None


class PoolOptions(WorkerOptions, total=False):
    """And those of `open_pool`."""

    workers: int | None
    min_workers: int | None
    max_calls_per_worker: int | None
    max_memory: int | None


@frozen
class Options:
    """What an opened worker was asked for, checked."""

    engine: Engine
    spec: Spec
    max_in_flight: int
    on_cancel: OnCancel
    cancel_grace: float
    shutdown_grace: float
    gc: GcPolicy
    word: str = "handler"  # what its user calls the handler


def check_callable(name: str, value: object) -> None:
    """Raise unless `value` can be called, or names what can be; None passes."""
    if isinstance(value, str):
        module, colon, attribute = value.partition(":")
        if not (module and colon and attribute):
            raise ValueError(f"{name}={value!r} is not of the form 'package.module:function'")
    elif value is not None and not callable(value):
        if inspect.iscoroutine(value):
            value.close()
            raise TypeError(
                f"{name} must be a function, not a coroutine: pass {value.__qualname__} without calling it"
            )
        raise TypeError(f"{name} must be callable or 'package.module:function', not {value!r}")


def _check_handler(handler: object, concurrency: int | None) -> None:
    if concurrency is not None:
        if not isinstance(handler, str) and (handler is None or not needs_trio(handler)):
            raise TypeError(f"concurrency= is for async handlers; {handler!r} is not one")
        check_positive("concurrency", concurrency)


def check_plain(fn: object) -> None:
    """Raise if `fn` is a generator function, whose items one answer cannot bring."""
    if is_generator(fn):
        raise TypeError(
            f"fn must not be a generator function, as {fn!r} is: its items come as a stream, "
            "from open_worker(...).open_stream(...)"
        )


def check_positive(name: str, value: object, most: int | None = None) -> None:
    """Raise unless `value` is an int of at least 1 and at most `most`."""
    check_int(name, value, 1, most)


def check_workers(workers: object, engine: Engine) -> None:
    """Raise unless this process can have so many isolates."""
    wanted = check_int("workers", workers, 1)
    if wanted > MOST_WORKERS:
        raise ValueError(f"workers= must be at most {MOST_WORKERS}, not {wanted}: each is a process")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = files // _FILES
    if isinstance(engine, ProcessEngine) and files != resource.RLIM_INFINITY and wanted > most:
        raise ValueError(
            f"workers= must be at most {most}, not {wanted}: for each, this process has {_FILES} open files, "
            f"and may have {files} (ulimit -n)"
        )


def _check_context(context: Sequence[ContextVar[Any]]) -> tuple[ContextVar[Any], ...]:
    try:
        variables = tuple(context)
    except TypeError:
        raise TypeError(f"context= must be a sequence of ContextVars, not {context!r}") from None
    for var in variables:
        if not isinstance(var, ContextVar):
            raise TypeError(f"context= must hold ContextVars, not {var!r}")
        if find_context_var(var) is None:
            raise TypeError(
                f"context=: {var!r} is not the value of a module-level name, so no worker could find it"
            )
    return variables


def _check_from_to(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, int) and not least <= value <= most:
        raise ValueError(f"{name}= must be from {least} to {most}, not {value}")
    return check_int(name, value, least)


def _check_affinity(cpus: Iterable[int]) -> frozenset[int]:
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("cpu_affinity= is not possible on this system")
    try:
        found = list(cpus)
    except TypeError:
        raise TypeError(f"cpu_affinity= must be the numbers of CPUs, not {cpus!r}") from None
    if not found:
        raise ValueError("cpu_affinity= must name at least one CPU")
    last = os.sysconf("SC_NPROCESSORS_CONF") - 1
    return frozenset(_check_from_to("a CPU in cpu_affinity", cpu, 0, last) for cpu in found)


def _check_env(env: Mapping[str, str | None]) -> None:
    if not isinstance(env, Mapping):
        raise TypeError(f"env= must be a mapping, not {env!r}")
    given: Mapping[Any, Any] = env
    for name, value in given.items():
        if not isinstance(name, str) or not (value is None or isinstance(value, str)):
            raise TypeError(f"env= must map str to str, or None to remove it, not {name!r} to {value!r}")
        if not name or "=" in name or "\0" in name + (value or ""):
            raise ValueError(f"env=: there can be no variable {name!r} with the value {value!r}")


def _check_cwd(cwd: str | os.PathLike[str]) -> str:
    path: Any = os.fspath(cwd) if isinstance(cwd, os.PathLike) else cwd
    if not isinstance(path, str):
        raise TypeError(f"cwd= must be a str or a path, not {cwd!r}")
    if not os.path.isdir(path):
        raise ValueError(f"cwd= must be a directory, and {path!r} is none")
    return os.path.abspath(path)


def make_changes(
    *,
    nice: int | None = None,
    cpu_affinity: Iterable[int] | None = None,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> Changes:
    """Check how the process of an isolate is to be set up. Raises `TypeError` or `ValueError`."""
    environ: dict[str, str | None] = {}
    if threads is not None:
        check_positive("threads", threads)
        environ = dict.fromkeys(_THREADS, str(threads))
    if env is not None:
        _check_env(env)
        environ |= env
    return Changes(
        nice=None if nice is None else _check_from_to("nice", nice, -20, 19),
        cpu_affinity=None if cpu_affinity is None else _check_affinity(cpu_affinity),
        env=environ or None,
        cwd=None if cwd is None else _check_cwd(cwd),
    )


def make_options(
    kind: str,
    handler: Callable[..., Any] | str | None,
    *,
    name: str | None = None,
    init: Callable[[], Any] | str | None = None,
    state: Callable[[], Any] | str | None = None,
    teardown: Callable[..., Any] | str | None = None,
    context: Sequence[ContextVar[Any]] = (),
    concurrency: int | None = None,
    max_in_flight: int = 1024,
    on_cancel: OnCancel = "interrupt",
    cancel_grace: float = 1.0,
    shutdown_grace: float = 5.0,
    gc: GcPolicy = "pause",
    engine: Engine | str | None = None,
    restart: Restart | None = None,
    **process: Unpack[ProcessOptions],
) -> Options:
    """Check what was asked for. Raises `TypeError` or `ValueError`, with the option's name."""
    word = _WORDS.get(kind, "handler")
    check_callable(word, handler)
    if word != "handler" and handler is None:
        raise TypeError(f"{word} must be a function, not None")
    _check_handler(handler, concurrency)
    for option, value in (("init", init), ("state", state), ("teardown", teardown)):
        check_callable(f"{option}=", value)
    if state is not None and handler is None:
        raise TypeError("state= is the handler's first argument, and there is no handler")
    check_name(name)
    check_positive("max_in_flight", max_in_flight, RING)
    check_choice("on_cancel", on_cancel, ("interrupt", "kill"))
    if on_cancel == "kill" and not isinstance(handler, str) and (handler is None or needs_trio(handler)):
        raise TypeError(f"on_cancel='kill' is for sync handlers; {handler!r} is not one")
    check_seconds("cancel_grace", cancel_grace)
    check_seconds("shutdown_grace", shutdown_grace)
    if restart is not None and not isinstance(restart, Restart):
        raise TypeError(f"restart= must be a Restart or None, not {restart!r}")
    check_choice("gc", gc, ("leave", "pause", "freeze"))
    spec = Spec(
        name=name or f"{kind}-{next(_counter)}",
        handler=handler,
        init=init,
        state=state,
        teardown=teardown,
        context=_check_context(context),
        concurrency=concurrency,
        log_levels=log_levels(),
        changes=make_changes(**process),
    )
    return Options(
        find_engine(engine), spec, max_in_flight, on_cancel, cancel_grace, shutdown_grace, gc, word
    )
