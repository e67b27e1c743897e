"""What of the parent's process an isolate takes over: captured there, applied here.

A forkserver hands on what the program had when the forkserver started, and a spawned process keeps
the parent's niceness, affinity and signal mask of another thread. This module knows which of these
go stale and sets them right; it does not know how the record travels.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import time
import warnings
from typing import Any

from attrs import frozen

_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


@frozen
class Environment:
    """What was true in the parent when it started the isolate."""

    environ: dict[bytes, bytes]
    cwd: str
    path: list[str]
    umask: int
    blocked_signals: set[int]
    limits: dict[int, tuple[int, int]]
    affinity: set[int] | None
    nice: int
    recursion_limit: int
    warnings: list[Any]


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


def _plain_filters() -> list[Any]:
    """The warning filters whose category can be found again by name in any process."""
    return [
        entry
        for entry in warnings.filters
        if "__main__" not in (module := getattr(entry[2], "__module__", "")) and module in sys.modules
    ]


def capture() -> Environment:
    """Return what an isolate started now is to take over."""
    return Environment(
        environ=dict(os.environb),
        cwd=os.getcwd(),
        path=list(sys.path),
        umask=_umask(),
        blocked_signals=set(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        limits={limit: resource.getrlimit(limit) for limit in _LIMITS},
        affinity=os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        recursion_limit=sys.getrecursionlimit(),
        warnings=_plain_filters(),
    )


def apply(environment: Environment) -> None:
    """Make this process as the parent was. What the system refuses stays as it is."""
    os.environb.clear()
    os.environb.update(environment.environ)
    time.tzset()
    os.umask(environment.umask)
    _try(os.chdir, environment.cwd)
    sys.path[:] = environment.path
    for limit, value in environment.limits.items():
        if resource.getrlimit(limit) != value:
            _try(resource.setrlimit, limit, value)
    if environment.affinity is not None:
        _try(os.sched_setaffinity, 0, environment.affinity)
    _try(os.setpriority, os.PRIO_PROCESS, 0, environment.nice)
    sys.setrecursionlimit(environment.recursion_limit)
    warnings.filters[:] = environment.warnings  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]  # else the cache of warnings already seen stands
    signal.pthread_sigmask(signal.SIG_SETMASK, environment.blocked_signals)


def _try(function: Any, *args: Any) -> None:
    try:
        function(*args)
    except (OSError, ValueError):
        pass


def log_levels() -> dict[str, int]:
    """Return the levels set in this process's logging tree, by logger name; "" is the root."""
    levels = {"": logging.getLogger().level}
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and logger.level:
            levels[name] = logger.level
    return levels
