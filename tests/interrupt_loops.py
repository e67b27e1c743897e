"""Loops that hold something most of the time, and how to see that it was not given back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from handlers import tell


class Own:
    """A context manager that counts."""

    def __init__(self) -> None:
        self.held = 0

    def __enter__(self) -> None:
        self.held += 1
        abs(self.held)

    def __exit__(self, *_: object) -> None:
        abs(self.held)
        self.held -= 1


class Outer:
    """One that enters another."""

    def __init__(self) -> None:
        self.held = 0
        self.own = Own()

    def __enter__(self) -> None:
        with self.own:
            self.held += 1
            abs(self.held)

    def __exit__(self, *_: object) -> None:
        with self.own:
            self.held -= 1


class Counting(logging.Handler):
    held = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.held += 1
        abs(self.held)
        self.held -= 1


OWN, OUTER, COUNTING = Own(), Outer(), Counting()
LOCK, RLOCK, CONDITION = threading.Lock(), threading.RLock(), threading.Condition()
SEMAPHORE, EVENT = threading.Semaphore(1), threading.Event()
LOGGER = logging.getLogger("interrupted")
LOGGER.propagate = False
LOGGER.handlers = [COUNTING]


@contextmanager
def hold_own() -> Iterator[None]:
    OWN.held += 1
    abs(OWN.held)
    try:
        yield
    finally:
        abs(OWN.held)
        OWN.held -= 1


def with_lock() -> None:
    with LOCK:
        pass


def with_rlock() -> None:
    with RLOCK:
        pass


def with_condition() -> None:
    with CONDITION:
        pass


def wait_a_moment() -> None:
    with CONDITION:
        CONDITION.wait(1e-6)


def notify() -> None:
    with CONDITION:
        CONDITION.notify()


def with_semaphore() -> None:
    with SEMAPHORE:
        pass


def try_semaphore() -> None:
    SEMAPHORE.acquire()
    try:
        abs(0)
    finally:
        SEMAPHORE.release()


def try_lock() -> None:
    LOCK.acquire()
    try:
        abs(0)
    finally:
        LOCK.release()


def set_event() -> None:
    EVENT.clear()
    EVENT.set()


def with_own() -> None:
    with OWN:
        pass


def with_outer() -> None:
    with OUTER:
        pass


def with_two() -> None:
    with OUTER, OWN, CONDITION:
        pass


def with_manager() -> None:
    with hold_own():
        pass


def with_stack() -> None:
    with ExitStack() as stack:
        stack.enter_context(OWN)
        stack.enter_context(hold_own())


def log() -> None:
    LOGGER.warning("text")


LOOPS: dict[str, Callable[[], None]] = {
    loop.__name__: loop
    for loop in (
        with_lock,
        with_rlock,
        with_condition,
        wait_a_moment,
        notify,
        with_semaphore,
        try_semaphore,
        try_lock,
        set_event,
        with_own,
        with_outer,
        with_two,
        with_manager,
        with_stack,
        log,
    )
}


def loop_for_ever(name: str, fifo: Path) -> NoReturn:
    loop = LOOPS[name]
    tell(fifo, "begun")
    while True:
        loop()


def leaked() -> list[str]:
    """Name what is held, or half done, though nobody is at work."""
    found: list[str] = []
    locks: list[tuple[str, Any]] = [("lock", LOCK), ("rlock", RLOCK), ("condition", CONDITION)]
    locks += [("semaphore", SEMAPHORE._cond), ("event", EVENT._cond), ("handler", COUNTING.lock)]  # type: ignore[attr-defined]

    def take_all() -> None:
        for name, lock in locks:
            if lock.acquire(blocking=False):
                lock.release()
            else:
                found.append(name)

    thread = threading.Thread(target=take_all)  # what this thread holds is only seen from another
    thread.start()
    thread.join()
    counts = [OWN.held, OUTER.held, OUTER.own.held, COUNTING.held, SEMAPHORE._value - 1]
    found += [f"count {number}" for number, count in enumerate(counts) if count]
    found += ["waiter"] * len(CONDITION._waiters)  # type: ignore[attr-defined]
    return found
