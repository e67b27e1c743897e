"""What the isolates of the benchmarks of ports run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from time import perf_counter
from typing import Any

import trio

from trio_isolates import ReceivePort, SendPort


async def echo_port(home: SendPort[Any]) -> None:
    """Send back whatever comes, to the port that came first; until None comes."""
    port: ReceivePort[Any] = ReceivePort()
    await home.send(port.send_port)
    back = await port.receive()
    async for message in port:
        if message is None:
            return
        await back.send(message)


async def ping_pong(there: SendPort[Any], calls: int) -> float:
    """Microseconds for one message there and back, one after the other."""
    port: ReceivePort[int] = ReceivePort()
    await there.send(port.send_port)
    start = perf_counter()
    for number in range(calls):
        await there.send(number)
        if await port.receive() != number:
            raise ValueError(number)
    elapsed = perf_counter() - start
    await there.send(None)
    return elapsed / calls * 1e6


def flood(home: SendPort[int], count: int) -> None:
    for number in range(count):
        home.send_sync(number)


async def flood_async(home: SendPort[int], count: int) -> None:
    for number in range(count):
        await home.send(number)


async def spread(ports: list[SendPort[int]], full: list[SendPort[int]], rounds: int) -> None:
    """Send to all ports in turn; meanwhile somebody waits for room at each that is full."""
    async with trio.open_nursery() as nursery:
        for port in full:
            with suppress(trio.WouldBlock):
                while True:
                    port.send_nowait(0)
            nursery.start_soon(port.send, 1)
        for number in range(rounds):
            for port in ports:
                await port.send(number)
        nursery.cancel_scope.cancel()


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


async def numbers_async(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


def nothing() -> None:
    """The shortest life of an isolate."""
