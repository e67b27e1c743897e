"""Ports, bare isolates and streams of trio_isolates, through its public API only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import trio

from flat import Table, three_times
from floor import Round
from port_jobs import echo_port, flood, flood_async, nothing, numbers, numbers_async, ping_pong, spread
from trio_isolates import ReceivePort, open_isolate, open_worker

FLOODS: dict[str, Any] = {"sync": flood, "async": flood_async}
NUMBERS: dict[str, Any] = {"sync": numbers, "async": numbers_async}


async def _with_echo(measure: Callable[[Any], Awaitable[float]]) -> float:
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(echo_port, home.send_port):
        return await measure(await home.receive())


@asynccontextmanager
async def echo(calls: int) -> AsyncIterator[Round]:
    """Microseconds for a message from the parent to a port of an isolate, and back."""
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(echo_port, home.send_port):
        there, back = await home.receive(), ReceivePort[Any]()
        await there.send(back.send_port)

        async def one_round() -> float:
            start = perf_counter()
            for number in range(calls):
                await there.send(number)
                if await back.receive() != number:
                    raise ValueError(number)
            return (perf_counter() - start) / calls * 1e6

        yield one_round
        await there.send(None)


@asynccontextmanager
async def between_children(calls: int) -> AsyncIterator[Round]:
    """The same between two isolates of one parent."""
    async with open_worker() as other:

        async def measure(there: Any) -> float:
            return await other.run(ping_pong, there, calls)

        async def one_round() -> float:
            return await _with_echo(measure)

        yield one_round


@asynccontextmanager
async def to_child(calls: int) -> AsyncIterator[Round]:
    """The same from the parent, measured as between children: a new echo for each round."""

    async def measure(there: Any) -> float:
        return await ping_pong(there, calls)

    async def one_round() -> float:
        return await _with_echo(measure)

    yield one_round


@asynccontextmanager
async def one_way(kind: str, size: int, count: int) -> AsyncIterator[Round]:
    """Messages a second from one sender to the parent."""

    async def one_round() -> float:
        port: ReceivePort[int] = ReceivePort(size)
        async with open_isolate(FLOODS[kind], port.send_port, count):
            await port.receive()
            start = perf_counter()
            for number in range(1, count):
                if await port.receive() != number:
                    raise ValueError(number)
            return count / (perf_counter() - start)

    yield one_round


@asynccontextmanager
async def stream(kind: str, count: int) -> AsyncIterator[Round]:
    """Items a second of a generator's."""
    async with open_worker(NUMBERS[kind]) as worker:

        async def one_round() -> float:
            start, received = perf_counter(), 0
            async with worker.open_stream(count) as items:
                async for _ in items:
                    received += 1
            if received != count:
                raise ValueError(received)
            return count / (perf_counter() - start)

        yield one_round


@asynccontextmanager
async def many_ports(full: int, ports: int, rounds: int) -> AsyncIterator[Round]:
    """Messages a second over many ports of one link, some of them full."""

    async def one_round() -> float:
        received = 0

        async def consume(port: ReceivePort[int]) -> None:
            nonlocal received
            async for _ in port:
                received += 1

        opened = [ReceivePort[int]() for _ in range(ports)]
        stuffed, free = opened[:full], opened[full:]
        async with trio.open_nursery() as nursery:
            for port in free:
                nursery.start_soon(consume, port)
            start = perf_counter()
            send_ports = [port.send_port for port in free], [port.send_port for port in stuffed]
            async with open_isolate(spread, *send_ports, rounds) as isolate:
                await isolate.wait()
            while received < rounds * len(free):
                await trio.lowlevel.checkpoint()
            elapsed = perf_counter() - start
            for port in opened:
                port.close()
        return rounds * len(free) / elapsed

    yield one_round


@asynccontextmanager
async def isolates(times: int, at_once: int) -> AsyncIterator[Callable[[], Awaitable[Table]]]:
    """So many isolates opened and closed, a number of them at a time."""

    async def work(count: int) -> None:
        left = count

        async def one_after_the_other() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                async with open_isolate(nothing):
                    pass

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(one_after_the_other)

    async def one_round() -> Table:
        return await three_times(work, times // 2, times)  # until the first full collections it grows

    yield one_round
