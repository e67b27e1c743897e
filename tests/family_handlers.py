"""What the suite of families has isolates do: isolates of isolates, and siblings that talk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import trio

import port_handlers
from handlers import tell
from trio_isolates import ReceivePort, SendPort, open_isolate

Home = SendPort[Any]


async def nest(home: Home, depth: int, entry: Any) -> None:
    """Open an isolate in an isolate, so many deep; the innermost runs the entry."""
    if depth:
        async with open_isolate(nest, home, depth - 1, entry) as isolate:
            await isolate.wait()
    else:
        async with open_isolate(entry, home) as isolate:
            await isolate.wait()


async def nest_and_tell(fifo: Path, depth: int) -> None:
    """Tell the pid of each generation, and stay."""
    tell(fifo, os.getpid())
    if depth:
        async with open_isolate(nest_and_tell, fifo, depth - 1):
            await trio.sleep_forever()
    await trio.sleep_forever()


async def kill_the_innermost(home: Home) -> str:
    """Open an isolate that serves, pass its port home, and kill it when told to."""
    port: ReceivePort[Any] = ReceivePort()
    inner: ReceivePort[Any] = ReceivePort()
    async with open_isolate(port_handlers.serve_async, inner.send_port) as isolate:
        await home.send((port.send_port, await inner.receive()))
        await port.receive()
        isolate.kill()
    await home.send("killed")
    await port.receive()
    return "done"


def send_to(port: Home, limit: int, home: Home) -> None:
    """Send to a sibling; say when it is broken."""
    try:
        for number in range(limit):
            port.send_sync(number)
    except trio.BrokenResourceError:
        home.send_sync("broken")
    else:
        home.send_sync("sent")


async def send_to_async(port: Home, limit: int, home: Home) -> None:
    try:
        for number in range(limit):
            await port.send(number)
    except trio.BrokenResourceError:
        await home.send("broken")
    else:
        await home.send("sent")


def add_up(home: Home, limit: int) -> int:
    """Receive so many messages; return a sum that depends on their order."""
    port: ReceivePort[int] = ReceivePort(4)
    home.send_sync(port.send_port)
    return sum(port.receive_sync() * (index + 1) for index in range(limit))


async def add_up_async(home: Home, limit: int) -> int:
    port: ReceivePort[int] = ReceivePort(4)
    await home.send(port.send_port)
    total = 0
    for index in range(limit):
        total += await port.receive() * (index + 1)
    return total


def play(home: Home, rounds: int) -> int:
    """Throw a ball back, until it was thrown so often."""
    port: ReceivePort[tuple[Home, int]] = ReceivePort(1)
    home.send_sync(port.send_port)
    caught = 0
    for other, number in port:
        caught += 1
        if number < rounds:
            other.send_sync((port.send_port, number + 1))
        if number >= rounds - 1:
            break
    return caught


async def play_async(home: Home, rounds: int) -> int:
    port: ReceivePort[tuple[Home, int]] = ReceivePort(1)
    await home.send(port.send_port)
    caught = 0
    async for other, number in port:
        caught += 1
        if number < rounds:
            await other.send((port.send_port, number + 1))
        if number >= rounds - 1:
            break
    return caught


def stay(home: Home) -> None:
    """Open a small port, never receive from it."""
    port: ReceivePort[Any] = ReceivePort(2)
    home.send_sync(port.send_port)
    ReceivePort[Any]().receive_sync()


async def stay_async(home: Home) -> None:
    port: ReceivePort[Any] = ReceivePort(2)
    await home.send(port.send_port)
    await trio.sleep_forever()
