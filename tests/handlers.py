"""What tests have isolates do. It stands in a module so that isolates can import it.

Handlers tell the test what they have come to through a named pipe (see `fifo.py`), never by time.
"""

from __future__ import annotations

import array
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import trio

from trio_isolates import CallInterrupted, _boot, open_pool, open_worker, run

MIB = 1 << 20


def apply(fn: Callable[..., Any], *args: Any) -> Any:
    """As a handler: a worker with the plain blocking loop that does whatever the test wants."""
    return fn(*args)


async def apply_async(fn: Callable[..., Any], *args: Any) -> Any:
    """As a handler: the same in a worker that runs Trio."""
    result = fn(*args)
    return await result if isinstance(result, Coroutine) else result


APPLIES: tuple[Callable[..., Any], ...] = (apply, apply_async)


def tell(fifo: Path, text: object = "") -> None:
    """Write one line to the test."""
    with fifo.open("w") as file:
        file.write(f"{text}\n")


def echo(value: Any) -> Any:
    return value


def tell_and_sleep(fifo: Path) -> NoReturn:
    tell(fifo, os.getpid())
    while True:
        time.sleep(1000)


def tell_and_spin(fifo: Path) -> NoReturn:
    tell(fifo, os.getpid())
    while True:
        pass


async def tell_and_wait(fifo: Path) -> NoReturn:
    tell(fifo, os.getpid())
    await trio.sleep_forever()


# Deaths.


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    ctypes.string_at(0)


def exit_at_once(code: int = 0) -> NoReturn:
    os._exit(code)


def exit_after_a_word(word: str) -> NoReturn:
    print(word, file=sys.stderr)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class Unheard(BaseException):
    """An exception that `except Exception` does not stop."""


def raise_it(error: type[BaseException], *args: Any) -> NoReturn:
    raise error(*args)


def die_before_connecting() -> NoReturn:
    """In the place of `trio_isolates._boot.main`."""
    os._exit(1)


def hang_before_connecting() -> NoReturn:
    """In the place of `trio_isolates._boot.main`."""
    time.sleep(1000)
    os._exit(1)


class Hello:
    """In the place of `trio_isolates._boot.retire`: tells the pid as soon as the process has opened it."""

    def __init__(self, fifo: Path) -> None:
        self._fifo = fifo

    def __reduce__(self) -> tuple[Any, ...]:
        return say_hello, (self._fifo,)

    def __call__(self) -> bool:
        return True


def say_hello(fifo: Path) -> Hello:
    tell(fifo, os.getpid())
    return Hello(fifo)


def run_without_deadman() -> None:
    """In the place of `trio_isolates._boot.main`."""
    _boot._watch_parent = lambda link_fd: None
    _boot.main()
    print("returned", flush=True)


def wait_and_retire(fifo: Path, gate: Path) -> bool:
    """In the place of `trio_isolates._boot.retire`."""
    tell(fifo, "our last line")
    with gate.open() as file:
        file.readline()
    tell(fifo, "really")
    return True


# What a worker leaves running.


def fork_and_sleep(fifo: Path) -> NoReturn:
    """Fork a child that ignores what can be ignored, tell its pid, and never end."""
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
        os._exit(0)
    tell(fifo, pid)
    while True:
        time.sleep(1000)


def start_and_sleep(fifo: Path) -> NoReturn:
    """Start a program, tell its pid, and never end."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    tell(fifo, child.pid)
    while True:
        time.sleep(1000)


# Values that fight back.


class Trap:
    """Does `deed` when it is pickled or unpickled, in the process where that is to happen.

    `counter` is a file to which each springing adds one byte.
    """

    def __init__(
        self, deed: Callable[..., Any], *args: Any, when: str = "loads", counter: Path | None = None
    ) -> None:
        self.deed, self.args, self.when, self.counter = deed, args, when, counter

    def __reduce__(self) -> tuple[Any, ...]:
        if self.when == "dumps":
            self.deed(*self.args)
        return spring, (self.deed, self.args, self.counter)


def spring(deed: Callable[..., Any], args: tuple[Any, ...], counter: Path | None) -> object:
    if counter is not None:
        with counter.open("ab") as file:
            file.write(b"x")
    return deed(*args)


def make_trap(deed: Callable[..., Any], args: tuple[Any, ...], when: str) -> Trap:
    return Trap(deed, *args, when=when)


class Owned:
    """Unpickles only in the process that made it, or only outside of it."""

    def __init__(self, deed: Callable[..., Any], *args: Any, where: int) -> None:
        self.deed, self.args, self.where = deed, args, where

    def __reduce__(self) -> tuple[Any, ...]:
        return spring_in, (self.where, self.deed, self.args)


def spring_in(pid: int, deed: Callable[..., Any], args: tuple[Any, ...]) -> object:
    return deed(*args) if os.getpid() == pid else None


def make_owned(where: int, deed: Callable[..., Any], args: tuple[Any, ...]) -> Owned:
    return Owned(deed, *args, where=where)


# Exceptions that fight back.


class NeedsTwo(Exception):
    """Pickles, and does not unpickle: its constructor wants more than `args` says."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class Locked(Exception):
    """Holds what cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Refuses(Exception):
    """Exits while it is pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise SystemExit(3)


class NoText(Exception):
    """Cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def raise_chain() -> NoReturn:
    try:
        try:
            raise KeyError("first")
        except KeyError as exc:
            raise Locked("second") from exc
    except Locked as exc:
        raise ValueError("third") from exc


def raise_group() -> NoReturn:
    leaves = [KeyError("a"), NeedsTwo("b", "c"), ExceptionGroup("inner", [Locked("d"), OSError(5, "e")])]
    raise ExceptionGroup("outer", leaves)


def raise_base_group() -> NoReturn:
    raise BaseExceptionGroup("outer", [KeyboardInterrupt(), ValueError("v")])


# Starts.


def hang() -> NoReturn:
    while True:
        time.sleep(1000)


def hang_on(fifo: Path) -> NoReturn:
    """Say that it has started, and at each interrupt that it does not stop yet."""
    word = "started"
    while True:
        try:
            if word:
                tell(fifo, word)
            word = ""
            hang()
        except CallInterrupted:
            word = "not yet"


def exit_once(marker: Path) -> None:
    """Die the first time that this is called with the marker."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os._exit(7)


# Descriptors, the link, the surroundings.


def print_out(text: str) -> None:
    print(text)


def print_error(text: str) -> None:
    print(text, file=sys.stderr)


def flood(lines: int) -> int:
    for number in range(lines):
        print(f"{number} " + "x" * 80)
    return lines


def close_standard() -> None:
    for fd in (0, 1, 2):
        os.close(fd)


def write_standard() -> None:
    os.write(1, b"raw out\n")
    os.write(2, b"raw err\n")


def close_everything() -> None:
    os.closerange(0, 4096)


def write_garbage(garbage: bytes) -> None:
    """Find the link among the descriptors and write to it what no isolate would."""
    for fd in link_fds():
        with socket.socket(fileno=os.dup(fd)) as link:
            link.setblocking(True)
            link.sendall(garbage)


def link_fds() -> list[int]:
    """The descriptors that are connected stream sockets to another process, the link itself first."""
    found = []
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.type == socket.SOCK_STREAM and peer_pid(sock) != os.getpid():
                    sock.getpeername()
                    found.append(int(name))
        except OSError:
            continue
    return found


def peer_pid(sock: socket.socket) -> int:
    pid, _, _ = array.array("i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid


def log_it(name: str, level: int, text: str, extra: dict[str, Any] | None = None) -> None:
    logging.getLogger(name).log(level, text, extra=extra)


def log_error(name: str) -> None:
    try:
        raise KeyError("logged")
    except KeyError:
        logging.getLogger(name).exception("it %s", "failed")


def warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=1)


def surroundings(name: str) -> tuple[str | None, str, list[str], int]:
    mask = os.umask(0)
    os.umask(mask)
    return os.environ.get(name), os.getcwd(), sys.path[:], mask


# Isolates inside of isolates.


async def nest(fifo: Path, depth: int) -> None:
    """Open a worker that opens a worker, and so on; tell each pid; the innermost never ends."""
    tell(fifo, os.getpid())
    if depth == 0:
        await trio.sleep_forever()
    async with open_worker(apply_async) as worker:
        await worker.call(nest, fifo, depth - 1)


async def nested_sum(numbers: list[int]) -> tuple[int, list[int]]:
    """A run and a pool inside of an isolate."""
    async with open_pool(apply, workers=2) as pool:
        squares = [await pool.call(pow, number, 2) for number in numbers]
    return await run(sum, numbers), squares
