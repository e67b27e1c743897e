"""What isolates do while they are interrupted. It stands in a module so that isolates can import it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import multiprocessing
import operator
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import trio

from handlers import tell

Begun = Callable[[], None]

_remembered: list[Any] = []


def remember(*values: Any) -> list[Any]:
    """Keep these for as long as this process lives; return all that were kept."""
    _remembered.extend(values)
    return _remembered[:]


# What can be interrupted. Each calls `begun` when nothing is left but to wait.


def spin(begun: Begun) -> NoReturn:
    begun()
    while True:
        pass


def sleep(begun: Begun) -> None:
    begun()
    time.sleep(1000)


def get_lock(begun: Begun) -> None:
    lock = threading.Lock()
    lock.acquire()
    begun()
    lock.acquire()


def get_lock_by_with(begun: Begun) -> None:
    lock = threading.Lock()
    lock.acquire()
    begun()
    with lock:
        pass


def get_rlock(begun: Begun) -> None:
    lock = threading.RLock()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    begun()
    lock.acquire()


def get_semaphore(begun: Begun) -> None:
    semaphore = threading.Semaphore(0)
    begun()
    with semaphore:
        pass


def wait_for_event(begun: Begun) -> None:
    begun()
    threading.Event().wait()


def wait_for_condition(begun: Begun) -> None:
    condition = threading.Condition()
    with condition:
        begun()
        condition.wait_for(lambda: False)


def wait_at_barrier(begun: Begun) -> None:
    begun()
    threading.Barrier(2).wait()


def get_from_queue(begun: Begun) -> None:
    begun()
    queue.Queue[int]().get()


def put_into_full_queue(begun: Begun) -> None:
    full = queue.Queue[int](1)
    full.put(1)
    begun()
    full.put(2)


def get_from_simple_queue(begun: Begun) -> None:
    begun()
    queue.SimpleQueue[int]().get()


def join_thread(begun: Begun) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        begun()
        thread.join()
    finally:
        end.set()


def wait_for_future(begun: Begun) -> None:
    begun()
    Future[int]().result()


def receive_from_socket(begun: Begun) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        begun()
        ours.recv(1)


def send_to_full_socket(begun: Begun) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        begun()
        ours.sendall(bytes(100 << 20))


def read_from_pipe(begun: Begun) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        begun()
        receiver.recv()


def poll_nothing(begun: Begun) -> None:
    begun()
    select.select([], [], [])


def run_program(begun: Begun) -> None:
    begun()
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)"], check=True)


def wait_for_child(begun: Begun) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as child:
        try:
            begun()
            child.wait()
        finally:
            child.kill()


def iterate_in_c(begun: Begun) -> None:
    begun()
    sum(map(operator.not_, iter(lambda: False, True)))


def catch_exceptions(begun: Begun) -> NoReturn:
    begun()
    while True:
        try:
            time.sleep(1000)
        except Exception:  # as careless code does
            pass


def run_asyncio(begun: Begun) -> None:
    async def main() -> None:
        begun()
        await asyncio.sleep(1000)

    asyncio.run(main())


def spin_in_task_group(begun: Begun) -> None:
    async def forever() -> NoReturn:
        begun()
        while True:
            pass

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever())

    asyncio.run(main())


WAYS: dict[str, Callable[[Begun], object]] = {
    way.__name__: way
    for way in (
        spin,
        sleep,
        get_lock,
        get_lock_by_with,
        get_rlock,
        get_semaphore,
        wait_for_event,
        wait_for_condition,
        wait_at_barrier,
        get_from_queue,
        put_into_full_queue,
        get_from_simple_queue,
        join_thread,
        wait_for_future,
        receive_from_socket,
        send_to_full_socket,
        read_from_pipe,
        poll_nothing,
        run_program,
        wait_for_child,
        iterate_in_c,
        catch_exceptions,
        run_asyncio,
        spin_in_task_group,
    )
}


def wait(way: str, fifo: Path) -> None:
    """Wait for ever in this way, after telling the test of it."""
    WAYS[way](lambda: tell(fifo, "begun"))


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


# What ends in its own way. The interrupt may land as soon as the test has been told.


def spin_as(fifo: Path, number: int) -> NoReturn:
    tell(fifo, number)
    while True:
        pass


def swallow(fifo: Path, times: int) -> int:
    for number in range(times):
        try:
            if number == 0:
                tell(fifo, "begun")
            time.sleep(1000)
        except BaseException:
            pass
    return times


def swallow_and_spin(fifo: Path, times: int) -> NoReturn:
    swallow(fifo, times)
    remember("swallowed")
    while True:
        pass


def tell_of_interrupt(fifo: Path) -> None:
    try:
        tell(fifo, "begun")
        time.sleep(1000)
    finally:
        tell(fifo, "interrupted")


def fail_while_cleaning_up(fifo: Path) -> None:
    try:
        tell(fifo, "begun")
        time.sleep(1000)
    finally:
        raise KeyError("clean-up")


class Pausing:
    """Stays in its `__enter__` until it has been signalled twice."""

    def __enter__(self) -> None:
        signal.pause()
        signal.pause()

    def __exit__(self, *_: object) -> None:
        remember("exited")


def clean_up_slowly(fifo: Path) -> None:
    """Clean up for as long as it takes to be signalled four more times."""
    try:
        tell(fifo, "begun")
        time.sleep(1000)
    finally:
        signal.pause()
        with Pausing():
            remember("entered")
        signal.pause()
        remember("cleaned up")


class CountedInC:
    """Arrives as an iterator that tells the test when it is first asked, without a single bytecode."""

    def __init__(self, fifo: Path, size: int) -> None:
        self.fifo, self.size = fifo, size

    def __reduce__(self) -> tuple[Any, ...]:
        return count_in_c, (self.fifo, self.size)


def count_in_c(fifo: Path, size: int) -> Iterator[int]:
    fd = os.open(fifo, os.O_WRONLY)
    return itertools.chain(map(partial(os.write, fd), [b"begun\n"]), range(size))


# Where nothing may be left in the middle: at each of these places the test lets the code pass on
# only after it has been interrupted.


def meet(fifo: Path, gate: Path) -> None:
    """Tell the test, and wait for it."""
    tell(fifo, "begun")
    with gate.open() as file:
        file.readline()


def import_slowly(folder: Path, name: str) -> None:
    sys.path.insert(0, str(folder))
    __import__(name)
    remember("went on")


def look_at_module(name: str) -> bool:
    return bool(sys.modules[name].__dict__["COMPLETE"])


class Meeting(logging.Handler):
    """Meets the test in one of its methods; as a log handler, as a context manager, or when it is deleted."""

    def __init__(self, place: str, fifo: Path, gate: Path) -> None:
        super().__init__()
        self.place, self.paths = place, (fifo, gate)

    def emit(self, record: logging.LogRecord) -> None:
        meet(*self.paths)
        remember("emitted")

    def __enter__(self) -> None:
        if self.place == "enter":
            meet(*self.paths)
        remember("entered")

    def __exit__(self, *_: object) -> None:
        if self.place == "exit":
            meet(*self.paths)
        remember("exited")

    def __del__(self) -> None:
        if self.place == "del":
            meet(*self.paths)
            remember("deleted")


def log_to_meeting(fifo: Path, gate: Path) -> None:
    logger = logging.getLogger("meeting")
    logger.propagate = False
    logger.handlers = [Meeting("emit", fifo, gate)]
    logger.warning("meet me")
    remember("went on")


def enter_meeting(fifo: Path, gate: Path) -> None:
    with Meeting("enter", fifo, gate):
        remember("in the block")
    remember("went on")


def exit_meeting(fifo: Path, gate: Path) -> None:
    with Meeting("exit", fifo, gate):
        remember("in the block")
    remember("went on")


def stack_meeting(fifo: Path, gate: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(Meeting("enter", fifo, gate))
        remember("in the block")
    remember("went on")


def acquire_meeting(fifo: Path, gate: Path) -> None:
    meeting = Meeting("enter", fifo, gate)
    meeting.__enter__()
    try:
        remember("in the block")
    finally:
        meeting.__exit__()
    remember("went on")


def delete_meeting(fifo: Path, gate: Path) -> None:
    meeting = Meeting("del", fifo, gate)
    del meeting
    remember("went on")


@contextmanager
def managed_meeting(fifo: Path, gate: Path) -> Iterator[None]:
    meet(fifo, gate)
    remember("entered")
    try:
        yield
    finally:
        remember("exited")


def manage_meeting(fifo: Path, gate: Path) -> None:
    with managed_meeting(fifo, gate):
        remember("in the block")
    remember("went on")


def use_numpy() -> float:
    import numpy as np

    return float(np.linalg.norm(np.ones(36)))


def use_numpy_for_ever() -> NoReturn:
    while True:
        use_numpy()


# Loops that hold something most of the time, and how to see that it was not given back.


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


# Calls in a race.

_starts: list[int] = []


def count_start(number: int, microseconds: int) -> int:
    """Be at work so long."""
    _starts.append(number)
    end = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < end:
        pass
    return number


def take_starts() -> list[int]:
    starts = _starts[:]
    _starts.clear()
    return starts


# Async functions.


async def clean_up_async(fifo: Path) -> None:
    tell(fifo, "begun")
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        remember("cleaned up")


async def answer_when_cancelled(fifo: Path) -> str:
    tell(fifo, "begun")
    with trio.CancelScope() as scope:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            scope.shield = True
            return "done all the same"
    raise AssertionError


async def echo_async(value: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return value


async def sleep_async(fifo: Path) -> None:
    tell(fifo, "begun")
    await trio.sleep_forever()


# Values on the way.


class Slow:
    """Meets the test when it is pickled, or when it is unpickled."""

    def __init__(self, when: str, fifo: Path, gate: Path) -> None:
        self.when, self.paths = when, (fifo, gate)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.when == "dumps":
            meet(*self.paths)
            return str, ("pickled",)
        return _arrive, self.paths


def _arrive(fifo: Path, gate: Path) -> str:
    meet(fifo, gate)
    return "unpickled"


def make_slow(fifo: Path, gate: Path) -> Slow:
    return Slow("dumps", fifo, gate)
