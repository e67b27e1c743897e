"""What the suites of ports and bare isolates have isolates do; each sync entry has an async twin."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn

import trio

from trio_isolates import Isolate, ReceivePort, SendPort, current_isolate, open_isolate

Home = SendPort[Any]


# An isolate that does what it is told.


def serve(home: Home, *_: Any) -> str:
    """Send a port home; echo what comes there, or what a told function makes of it, until "stop"."""
    port: ReceivePort[Any] = ReceivePort()
    home.send_sync(port.send_port)
    for message in port:
        if isinstance(message, str) and message == "stop":
            break
        home.send_sync(answer(message))
    return "stopped"


async def serve_async(home: Home, *_: Any) -> str:
    port: ReceivePort[Any] = ReceivePort()
    await home.send(port.send_port)
    async for message in port:
        if isinstance(message, str) and message == "stop":
            break
        await home.send(answer(message))
    return "stopped"


def answer(message: Any) -> Any:
    if not isinstance(message, Ask):
        return message
    try:
        return message.fn(*message.args)
    except Exception as exc:
        return Raised(exc)


class Ask:
    """A message that asks for the result of a function."""

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self.fn = fn
        self.args = args


class Raised:
    """A message that says what the function raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Server:
    """An isolate that serves, as its parent sees it."""

    def __init__(self, isolate: Isolate[Any], home: ReceivePort[Any], there: SendPort[Any]) -> None:
        self.isolate = isolate
        self.home = home
        self.there = there

    async def echo(self, message: Any) -> Any:
        await self.there.send(message)
        return await self.home.receive()

    async def ask(self, fn: Callable[..., Any], *args: Any) -> Any:
        back = await self.echo(Ask(fn, *args))
        if isinstance(back, Raised):
            raise back.error
        return back


@asynccontextmanager
async def serving(
    entry: Callable[..., Any], home: ReceivePort[Any] | None = None, **options: Any
) -> AsyncIterator[Server]:
    """Open an isolate that serves; tell it to stop when the block is left well."""
    home = home or ReceivePort()
    async with open_isolate(entry, home.send_port, **options) as isolate:
        there = await home.receive()
        yield Server(isolate, home, there)
        with suppress(trio.BrokenResourceError):
            await there.send("stop")


@asynccontextmanager
async def begun(
    entry: Callable[..., Any], *args: Any, **options: Any
) -> AsyncIterator[tuple[Isolate[Any], ReceivePort[Any]]]:
    """Open an isolate, with a port to its parent before the other arguments, that has said its first word."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, *args, **options) as isolate:
        await port.receive()
        yield isolate, port


# What they are asked.


def send_on(port: Home, *messages: Any) -> None:
    for message in messages:
        port.send_nowait(message)


_kept: dict[int, list[Any]] = {}


def mine() -> list[Any]:
    """Return what this isolate keeps: inline, modules are shared."""
    return _kept.setdefault(current_isolate().pid, [])


def forget_all() -> None:
    """Let go of what inline isolates have kept; a process takes it along."""
    _kept.clear()


def keep(value: Any) -> None:
    mine().append(value)


def open_port(size: int = 64) -> Home:
    """Open a port that stays as long as it is kept here."""
    port: ReceivePort[Any] = ReceivePort(size)
    keep(port)
    return port.send_port


def receive_kept(count: int) -> list[Any]:
    return [mine()[-1].receive_nowait() for _ in range(count)]


def close_kept() -> None:
    mine().pop().close()


def drop_kept() -> None:
    """Let a port become garbage."""
    mine().clear()


def statistics_of_kept() -> Any:
    return mine()[-1].statistics()


def knows(port: Home) -> bool:
    """Return whether the port is one of those that are kept, by equality and by hash alike."""
    is_equal = any(other == port for other in mine())
    assert is_equal == (port in set(mine()))
    return is_equal


def same(value: Any) -> tuple[bool, bool]:
    """Return whether the two items are one object, and equal."""
    return value[0] is value[1], value[0] == value[1]


class Node:
    """A node of a ring, which knows both its neighbours."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.left = self.right = self


def ring(*names: str) -> Node:
    first = last = Node(names[0])
    for name in names[1:]:
        node = Node(name)
        node.left, last.right = last, node
        last = node
    first.left, last.right = last, first
    return first


def walk(node: Node) -> str:
    """Go once around to the right, and once to the left."""
    names, here = node.name, node.right
    while here is not node:
        names += here.name
        here = here.right
    here = node.left
    while here is not node:
        names += here.name
        here = here.left
    return names


class Failing:
    """Pickles well, and does not unpickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return fail, ("it does not want to arrive",)


def fail(text: str = "failed") -> NoReturn:
    raise ValueError(text)


class PortError(Exception):
    """An exception that has a port among its arguments."""


def raise_port(port: Home) -> NoReturn:
    raise PortError("sent", port)


def raise_port_in(port: Home) -> NoReturn:
    raise PortError({"deep": [port]})


# Entries that send.


def count_up(home: Home, limit: int) -> None:
    for number in range(limit):
        home.send_sync(number)


async def count_up_async(home: Home, limit: int) -> None:
    for number in range(limit):
        await home.send(number)


def tag_up(home: Home, tag: Any, limit: int) -> None:
    for number in range(limit):
        home.send_sync((tag, number))


async def tag_up_async(home: Home, tag: Any, limit: int) -> None:
    for number in range(limit):
        await home.send((tag, number))


def fill(home: Home, report: Home) -> int:
    """Send until there is no place any more; say how many found one; then send one that has to wait."""
    count = send_until_full(home)
    report.send_sync(count)
    report.send_sync("waiting")
    try:
        home.send_sync("the last")
    except trio.BrokenResourceError:
        report.send_sync("broken")
    return count


async def fill_async(home: Home, report: Home) -> int:
    count = send_until_full(home)
    await report.send(count)
    await report.send("waiting")
    try:
        await home.send("the last")
    except trio.BrokenResourceError:
        await report.send("broken")
    return count


def send_until_full(port: Home) -> int:
    count = 0
    with suppress(trio.WouldBlock):
        while True:
            port.send_nowait(count)
            count += 1
    return count


def send_broken(port: Home) -> str:
    """Send until it is known that nobody receives."""
    try:
        while True:
            port.send_sync("into the blue")
    except trio.BrokenResourceError:
        return "broken"


async def send_broken_async(port: Home) -> str:
    try:
        while True:
            await port.send("into the blue")
    except trio.BrokenResourceError:
        return "broken"


# Entries that end, or do not.


def wait_for_ever(home: Home, *_: Any) -> None:
    home.send_sync(os.getpid())
    ReceivePort().receive_sync()
    raise AssertionError("a message from nowhere")


async def wait_for_ever_async(home: Home, *_: Any) -> None:
    await home.send(os.getpid())
    await trio.sleep_forever()


def spin(home: Home) -> None:
    home.send_sync("begun")
    while True:
        pass
