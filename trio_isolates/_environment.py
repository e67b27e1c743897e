"""What of the parent's process an isolate takes over: captured there, applied here.

A forkserver hands on what the program had when the forkserver started, and a spawned process keeps
the parent's niceness, affinity and signal mask of another thread. This module knows which of these
go stale and sets them right, and what the isolate was asked to have otherwise; it does not know how
the record travels.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

from attrs import frozen

from . import _warnings
from ._messages import Changes

_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


@frozen
class Environment:
    """What was true in the parent when it started the isolate, but for the changes.

    asked: the changes that the system may refuse, by the name of the option: the isolate has to have
        these. Of all else, it has what it can.
    """

    environ: dict[bytes, bytes]
    cwd: str
    path: list[str]
    umask: int
    blocked_signals: set[int]
    limits: dict[int, tuple[int, int]]
    affinity: AbstractSet[int] | None
    nice: int
    recursion_limit: int
    warnings: list[_warnings.Words]
    asked: dict[str, Any]


def _umask() -> int:
    try:
        with open("/proc/self/status", "rb") as status:  # reading it by os.umask() would change it
            for line in status:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def capture(changes: Changes) -> Environment:
    """Return what an isolate started now is to take over."""
    environ = dict(os.environb)
    for name, value in (changes.env or {}).items():
        if value is None:
            environ.pop(os.fsencode(name), None)
        else:
            environ[os.fsencode(name)] = os.fsencode(value)
    affinity: AbstractSet[int] | None = changes.cpu_affinity
    if affinity is None and hasattr(os, "sched_getaffinity"):
        affinity = os.sched_getaffinity(0)
    asked = {"cwd": changes.cwd, "cpu_affinity": changes.cpu_affinity, "nice": changes.nice}
    return Environment(
        environ=environ,
        cwd=os.getcwd() if changes.cwd is None else changes.cwd,
        path=list(sys.path) if changes.cwd is None else [os.path.abspath(entry) for entry in sys.path],
        umask=_umask(),
        blocked_signals=set(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        limits={limit: resource.getrlimit(limit) for limit in _LIMITS},
        affinity=affinity,
        nice=os.getpriority(os.PRIO_PROCESS, 0) if changes.nice is None else changes.nice,
        recursion_limit=sys.getrecursionlimit(),
        warnings=_warnings.capture(),
        asked={name: value for name, value in asked.items() if value is not None},
    )


def apply(environment: Environment) -> OSError | None:
    """Make this process as the parent was. What the system refuses stays as it is.

    Returns why, if that was asked for.
    """
    os.environb.clear()
    os.environb.update(environment.environ)
    time.tzset()
    os.umask(environment.umask)
    refused = {"cwd": _try(os.chdir, environment.cwd)}
    sys.path[:] = environment.path
    for limit, value in environment.limits.items():
        if resource.getrlimit(limit) != value:
            _try(resource.setrlimit, limit, value)
    if environment.affinity is not None:
        refused["cpu_affinity"] = _try(_set_affinity, environment.affinity)
    refused["nice"] = _try(os.setpriority, os.PRIO_PROCESS, 0, environment.nice)
    sys.setrecursionlimit(environment.recursion_limit)
    _warnings.apply(environment.warnings)
    signal.pthread_sigmask(signal.SIG_SETMASK, environment.blocked_signals)
    for option, value in environment.asked.items():
        if (error := refused[option]) is not None:
            return OSError(error.errno, f"{option}={value!r}: {error.strerror}")
    return None


def _set_affinity(cpus: AbstractSet[int]) -> None:
    os.sched_setaffinity(0, cpus)
    if missing := set(cpus) - os.sched_getaffinity(0):
        raise OSError(errno.EINVAL, f"this program may not use {sorted(missing)}")


def _try(function: Callable[..., Any], *args: Any) -> OSError | None:
    try:
        function(*args)
    except OSError as exc:
        return exc
    except ValueError:
        pass
    return None


def log_levels() -> dict[str, int]:
    """Return the levels set in this process's logging tree, by logger name; "" is the root."""
    levels = {"": logging.getLogger().level}
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and logger.level:
            levels[name] = logger.level
    return levels
