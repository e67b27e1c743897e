"""What the contract suite has isolates do. It stands in a module so that isolates can import it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

import trio

from handlers import apply_async, tell
from trio_isolates import open_pool, open_worker, run

SENT: ContextVar[str] = ContextVar("SENT", default="unset")
UNSENT: ContextVar[str] = ContextVar("UNSENT", default="unset")


def add(a: int, b: int = 10) -> int:
    return a + b


async def add_async(a: int, b: int = 10) -> int:
    await trio.lowlevel.checkpoint()
    return a + b


_marks: list[str] = []


def mark(text: str) -> None:
    _marks.append(text)


def get_marks() -> list[str]:
    return _marks[:]


def make_closure(base: int) -> Callable[[int], int]:
    return lambda a: base + a


class Adder:
    """Callable objects and methods of many kinds."""

    def __init__(self, base: int) -> None:
        self.base = base

    def __call__(self, a: int) -> int:
        return self.base + a

    def method(self, a: int) -> int:
        return self.base + a


class AsyncAdder(Adder):
    async def __call__(self, a: int) -> int:  # type: ignore[override]
        return await add_async(self.base, a)


def with_state(state: list[Any], *args: Any) -> list[Any]:
    """As a handler with a state that is a list: keep the arguments, return all that were kept."""
    state.extend(args)
    return state


async def with_state_async(state: list[Any], *args: Any) -> list[Any]:
    state.extend(args)
    return state


async def apply_with_state(state: Any, fn: Callable[..., Any], *args: Any) -> Any:
    """As a handler whose calls share a state: whatever the test wants, with the state as first argument."""
    result = fn(state, *args)
    return await result if isinstance(result, Coroutine) else result


def spoil(value: list[Any]) -> list[Any]:
    """Change the argument, and return it."""
    value.append("spoiled")
    value[0]["deep"] = "spoiled"
    return value


def raise_deep(depth: int) -> NoReturn:
    if depth:
        raise_deep(depth - 1)
    raise ZeroDivisionError("deep")


def raise_this(error: BaseException) -> NoReturn:
    raise error


class CustomError(Exception):
    """An exception with more than its text."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Unheard(BaseException):
    """An exception that `except Exception` does not stop."""


class Boomerang:
    """A value that fails where it is told to: "dumps" anywhere, or "loads" anywhere."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __reduce__(self) -> tuple[Any, ...]:
        if self.when == "dumps":
            raise ValueError("it does not want to leave")
        return burst, ("it does not want to arrive",)


def burst(text: str) -> NoReturn:
    raise ValueError(text)


# Taking turns with the test.


async def wait_for_word(gate: Path) -> str:
    """Wait until the test writes a byte to this named pipe, and take it: it lets one caller pass."""
    fd = os.open(gate, os.O_RDWR | os.O_NONBLOCK)
    try:
        while True:
            await trio.lowlevel.wait_readable(fd)
            with suppress(BlockingIOError):  # another one was faster
                return os.read(fd, 1).decode()
    finally:
        os.close(fd)


async def tell_and_wait_for(fifo: Path, text: str, gate: Path) -> str:
    tell(fifo, text)
    return await wait_for_word(gate)


async def tell_and_wait(fifo: Path, marker: Path | None = None) -> NoReturn:
    """Never end by itself. The clean-up takes a while, and leaves a file behind."""
    tell(fifo, "begun")
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            for _ in range(10):
                await trio.lowlevel.checkpoint()
        if marker is not None:
            marker.touch()


async def refuse_to_be_cancelled(fifo: Path) -> None:
    tell(fifo, "begun")
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def finish_first(fifo: Path, gate: Path) -> str:
    tell(fifo, "begun")
    with trio.CancelScope(shield=True):
        await wait_for_word(gate)
    return "finished"


async def answer_when_cancelled(fifo: Path) -> str:
    tell(fifo, "begun")
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        return "ended before that"


async def fail_when_cancelled(fifo: Path) -> None:
    tell(fifo, "begun")
    try:
        await trio.sleep_forever()
    finally:
        raise CustomError(7)


async def take_part(state: dict[str, int], fifo: Path, gate: Path) -> int:
    """Take part in what runs at the same time; return how many did, at most."""
    state["now"] = state.get("now", 0) + 1
    state["most"] = max(state.get("most", 0), state["now"])
    await tell_and_wait_for(fifo, "begun", gate)
    state["now"] -= 1
    return state["most"]


# What stands around a handler.


def set_in_init() -> None:
    UNSENT.set("by init")


async def swap_context(fifo: Path, gate: Path) -> tuple[str, str]:
    """Return the context variables, and leave others behind."""
    seen = SENT.get(), UNSENT.get()
    await tell_and_wait_for(fifo, "begun", gate)
    SENT.set("left behind")
    UNSENT.set("left behind")
    return seen


def get_context() -> tuple[str, str]:
    return SENT.get(), UNSENT.get()


def make_state() -> list[Any]:
    return ["made"]


async def make_state_async() -> list[Any]:
    await trio.lowlevel.checkpoint()
    return ["made"]


def init_1() -> None:
    raise CustomError(1)


class FailLater:
    """Succeeds the first time, and never again."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __call__(self) -> None:
        if self.marker.exists():
            raise CustomError(2)
        self.marker.touch()


def exit_3() -> NoReturn:
    raise SystemExit(3)


async def hang() -> NoReturn:
    await trio.sleep_forever()


class Teller:
    """Writes a line each time that it is called, with what it is called with."""

    def __init__(self, fifo: Path, text: str) -> None:
        self.fifo, self.text = fifo, text

    def __call__(self, *args: object) -> list[Any]:
        tell(self.fifo, " ".join(map(str, (self.text, *args))))
        return [self.text]


class Hanger(Teller):
    """Says that it begins, and never ends."""

    async def __call__(self, *args: object) -> NoReturn:  # type: ignore[override]
        super().__call__(*args)
        await trio.sleep_forever()


async def nested_sum(numbers: list[int]) -> tuple[int, list[int]]:
    """A run and a pool inside of an isolate, and a run inside of a run."""
    async with open_pool(add, workers=2) as pool:
        return await run(run_sum, numbers), await pool.map(numbers)


async def pid_of_worker() -> int | None:
    """The pid of an isolate that this one opens."""
    async with open_worker(add) as worker:
        return worker.pid


async def run_sum(numbers: list[int]) -> int:
    return await run(sum, numbers)


# Taking time, for a clock that jumps.


async def nap(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


async def clean_up(seconds: float) -> None:
    """Never end by itself, and take that long to clean up."""
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)


async def never_end() -> None:
    """Hold out against every cancellation of which a task is told."""
    with trio.CancelScope(shield=True):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()


async def swallow(times: int) -> None:
    """Do not end before so many cancellations, or turns of a task that is cancelled."""
    for _ in range(times):
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            pass


async def nest() -> None:
    """Hold a worker of one's own that never ends."""
    async with open_worker(apply_async, cancel_grace=math.inf) as worker:
        await worker.call(never_end)
