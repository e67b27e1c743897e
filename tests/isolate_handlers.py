"""What the suite of bare isolates has them do; each sync entry has an async twin."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import trio

from contract_handlers import wait_for_word
from handlers import tell
from trio_isolates import (
    CallInterrupted,
    RawReceivePort,
    ReceivePort,
    SendPort,
    current_isolate,
    exit_isolate,
)

Home = SendPort[Any]


# Entries of all kinds.


def send_args(home: Home, *args: Any) -> tuple[Any, ...]:
    home.send_nowait(args)
    return args


async def send_args_async(home: Home, *args: Any) -> tuple[Any, ...]:
    await home.send(args)
    return args


class Entry:
    """Entries that are no functions."""

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def method(self, home: Home, *args: Any) -> tuple[Any, ...]:
        return send_args(home, *args)

    async def method_async(self, home: Home, *args: Any) -> tuple[Any, ...]:
        return await send_args_async(home, *args)

    def __call__(self, home: Home, *args: Any) -> tuple[Any, ...]:
        return send_args(home, *args)


class AsyncEntry:
    async def __call__(self, home: Home, *args: Any) -> tuple[Any, ...]:
        return await send_args_async(home, *args)


class Deep:
    send = staticmethod(send_args)


def closure(offset: int) -> Callable[..., Any]:
    return lambda home, *args: (home.send_nowait(args), offset)[0] or args


def closure_async(offset: int) -> Callable[..., Any]:
    async def entry(home: Home, *args: Any) -> tuple[Any, ...]:
        assert offset
        return await send_args_async(home, *args)

    return entry


def who() -> tuple[str, int, int]:
    me = current_isolate()
    return me.name, me.pid, os.getpid()


async def who_async() -> tuple[str, int, int]:
    return who()


class Failing:
    """Pickles well, and does not unpickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return fail, ("it does not want to arrive",)


def fail(text: str = "failed") -> NoReturn:
    raise ZeroDivisionError(text)


async def fail_async(text: str = "failed") -> NoReturn:
    raise ZeroDivisionError(text)


def fail_deep(text: str = "failed") -> None:
    fail(text)


async def fail_deep_async(text: str = "failed") -> None:
    await fail_async(text)


class NoText(Exception):
    """An exception that fails to say what it is."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def fail_without_text() -> NoReturn:
    raise NoText


async def fail_without_text_async() -> NoReturn:
    raise NoText


def fail_base(error: type[BaseException]) -> NoReturn:
    raise error("odd")


async def fail_base_async(error: type[BaseException]) -> NoReturn:
    raise error("odd")


def return_unsendable() -> Any:
    return {"port": ReceivePort()}


async def return_unsendable_async() -> Any:
    return {"port": ReceivePort()}


# Entries that have to be stopped.


def wait_in_receive(home: Home, marker: Path) -> None:
    port: ReceivePort[Any] = ReceivePort()
    try:
        home.send_sync("begun")
        port.receive_sync()
    except CallInterrupted:
        marker.write_text("interrupted")
        raise


def wait_in_loop(home: Home, marker: Path) -> None:
    port: ReceivePort[Any] = ReceivePort()
    try:
        home.send_sync("begun")
        for _ in port:
            pass
    except CallInterrupted:
        marker.write_text("interrupted")
        raise


def wait_in_send(home: Home, marker: Path) -> None:
    port: ReceivePort[Any] = ReceivePort(1)
    port.send_port.send_sync("fills it")
    try:
        home.send_sync("begun")
        port.send_port.send_sync("has no place")
    except CallInterrupted:
        marker.write_text("interrupted")
        raise


def compute(home: Home, marker: Path) -> None:
    try:
        home.send_sync("begun")
        while True:
            pass
    except CallInterrupted:
        marker.write_text("interrupted")
        raise


def listen(home: Home, marker: Path) -> None:
    """Return, and be kept alive by a port."""
    RawReceivePort(home.send_nowait)
    marker.write_text("interrupted")
    home.send_sync("begun")


async def sleep(home: Home, marker: Path) -> None:
    try:
        await home.send("begun")
        await trio.sleep_forever()
    except trio.Cancelled:
        marker.write_text("interrupted")
        raise


async def sleep_in_send(home: Home, marker: Path) -> None:
    port: ReceivePort[Any] = ReceivePort(1)
    await port.send_port.send("fills it")
    try:
        await home.send("begun")
        await port.send_port.send("has no place")
    except trio.Cancelled:
        marker.write_text("interrupted")
        raise


async def listen_async(home: Home, marker: Path) -> None:
    RawReceivePort(home.send_nowait)
    marker.write_text("interrupted")
    await home.send("begun")


def refuse_to_stop(home: Home, *_: Any) -> NoReturn:
    home.send_sync("begun")
    while True:
        with suppress(CallInterrupted):
            while True:
                pass


async def refuse_to_stop_async(home: Home, *_: Any) -> None:
    with trio.CancelScope(shield=True):
        await home.send("begun")
        await trio.sleep_forever()


async def fail_when_stopped(home: Home) -> NoReturn:
    try:
        await home.send("begun")
        await trio.sleep_forever()
    finally:
        fail("in its clean-up")


def wait_for_the_test(home: Home, gate: Path) -> str:
    """Begin, and take no message until the test says so."""
    home.send_sync("begun")
    with gate.open("rb") as file:
        file.read(1)
    return "let pass"


async def wait_for_the_test_async(home: Home, gate: Path) -> str:
    await home.send("begun")
    await wait_for_word(gate)
    return "let pass"


# Errors that are not fatal.


def refuse_odd(home: Home) -> RawReceivePort:
    def take(message: Any) -> None:
        if message == "stop":
            raw.close()
        elif message % 2:
            raise ValueError(f"{message} is odd")
        else:
            home.send_nowait(message)

    raw = RawReceivePort(take)
    return raw


def listen_then_fail(home: Home) -> NoReturn:
    home.send_sync(refuse_odd(home).send_port)
    raise ZeroDivisionError("the entry")


async def listen_then_fail_async(home: Home) -> NoReturn:
    await home.send(refuse_odd(home).send_port)
    raise ZeroDivisionError("the entry")


def listen_and_return(home: Home) -> str:
    home.send_sync(refuse_odd(home).send_port)
    return "returned"


async def listen_and_return_async(home: Home) -> str:
    await home.send(refuse_odd(home).send_port)
    return "returned"


def listen_and_wait(home: Home) -> None:
    home.send_sync(refuse_odd(home).send_port)
    ReceivePort[Any]().receive_sync()


async def listen_and_wait_async(home: Home) -> None:
    await home.send(refuse_odd(home).send_port)
    await trio.sleep_forever()


# Ends.


def exit_with(home: Home, marker: Path | None = None) -> None:
    """Send, then end at once with a last message; a clean-up would leave a mark."""
    try:
        for number in range(5):
            home.send_nowait(number)
        exit_isolate(home, "the last")
    finally:
        if marker is not None:
            marker.touch()


async def exit_with_async(home: Home, marker: Path | None = None) -> None:
    exit_with(home, marker)


def exit_from_handler(home: Home) -> None:
    RawReceivePort(lambda message: exit_isolate(home, message)).send_port.send_nowait("from a handler")


def exit_unsendable(home: Home) -> str:
    try:
        exit_isolate(home, ReceivePort())
    except TypeError as exc:
        return str(exc)


async def exit_unsendable_async(home: Home) -> str:
    return exit_unsendable(home)


def exit_quietly() -> None:
    exit_isolate()


async def exit_quietly_async() -> None:
    exit_isolate()


def tell_and_wait(fifo: Path) -> NoReturn:
    tell(fifo, "begun")
    ReceivePort().receive_sync()
    raise AssertionError("a message from nowhere")


async def tell_and_wait_async(fifo: Path) -> NoReturn:
    tell(fifo, "begun")
    await trio.sleep_forever()
