"""The floors: the least that the same work costs with no library at all.

The parent keeps Trio's rules (each call makes one checkpoint: it waits in `wait_readable`), the worker is a
plain blocking process, values are pickled both ways. No ids, no cancellation, no errors, no other callers.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TypeAlias

import trio
from trio.lowlevel import checkpoint, wait_readable
from trio.testing import wait_all_tasks_blocked

from census import resident_mib
from floor_worker import RECV, make_frames, take_frames
from jobs import answer, echo

Round: TypeAlias = Callable[[], Awaitable[float]]

WORKER = str(Path(__file__).with_name("floor_worker.py"))
BATCH = 100


@contextmanager
def open_link(kind: str) -> Iterator[socket.socket]:
    """A socket to a fresh worker process of this kind."""
    near, far = socket.socketpair()
    with near:
        with far:
            command = [sys.executable, WORKER, kind, str(far.fileno())]
            process = subprocess.Popen(command, pass_fds=[far.fileno()])
        with process:
            yield near
            near.shutdown(socket.SHUT_RDWR)


@asynccontextmanager
async def call(calls: int) -> AsyncIterator[Round]:
    """Microseconds a call, one after the other."""
    with open_link("calls") as sock:
        sock.setblocking(False)
        fd, send, recv = sock.fileno(), sock.send, sock.recv
        dumps, loads = pickle.dumps, pickle.loads

        async def one_round() -> float:
            start = perf_counter()
            for number in range(calls):
                send(dumps(number, -1))
                await wait_readable(fd)
                if loads(recv(RECV)) != number:
                    raise ValueError(number)
            return (perf_counter() - start) / calls * 1e6

        yield one_round


@asynccontextmanager
async def call_hoping(calls: int) -> AsyncIterator[Round]:
    """The same, hoping that the answer is there after a bare checkpoint: less if it is, more if it is not."""
    with open_link("calls") as sock:
        sock.setblocking(False)
        fd, send, recv = sock.fileno(), sock.send, sock.recv
        dumps, loads = pickle.dumps, pickle.loads

        async def one_round() -> float:
            start = perf_counter()
            for number in range(calls):
                send(dumps(number, -1))
                await checkpoint()
                try:
                    data = recv(RECV)
                except BlockingIOError:
                    await wait_readable(fd)
                    data = recv(RECV)
                if loads(data) != number:
                    raise ValueError(number)
            return (perf_counter() - start) / calls * 1e6

        yield one_round


@asynccontextmanager
async def throughput(calls: int) -> AsyncIterator[Round]:
    """Calls a second with 200 outstanding, in two batches: one under way while the other is worked on."""
    with open_link("frames") as sock:
        sock.setblocking(False)
        batch = make_frames(list(range(BATCH)))

        async def one_round() -> float:
            start = perf_counter()
            sock.send(batch + batch)
            sent, done, rest = 2 * BATCH, 0, b""
            while done < calls:
                await wait_readable(sock)
                values, rest = take_frames(rest + sock.recv(RECV))
                done += len(values)
                while sent < calls and sent - done <= BATCH:
                    sock.send(make_frames(list(range(BATCH))))
                    sent += BATCH
            return done / (perf_counter() - start)

        yield one_round


@asynccontextmanager
async def echo_bytes(mib: int, calls: int) -> AsyncIterator[Round]:
    """Milliseconds for one block there and back; the answer is a fresh bytearray."""
    with open_link("bytes") as sock:
        sock.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        block = os.urandom(mib << 20)
        head = len(block).to_bytes(8, "little")

        async def one_round() -> float:
            start = perf_counter()
            for _ in range(calls):
                await stream.send_all(head)
                await stream.send_all(block)
                if await stream.receive_some(8) != head:
                    raise ValueError("a torn header")
                answer = bytearray(len(block))
                view, got = memoryview(answer), 0
                while got < len(answer):
                    got += await stream.socket.recv_into(view[got:])
            elapsed = perf_counter() - start
            if answer != block:
                raise ValueError("the answer differs")
            return elapsed / calls * 1e3

        yield one_round


@asynccontextmanager
async def map_here(items: int) -> AsyncIterator[Round]:
    """Items a second of the builtin map over the same function in this process: no worker at all."""

    async def one_round() -> float:
        start = perf_counter()
        if len(list(map(echo, range(items)))) != items:
            raise ValueError("items are missing")
        return items / (perf_counter() - start)

    yield one_round


@asynccontextmanager
async def process_start(starts: int, whole: bool) -> AsyncIterator[Round]:
    """Milliseconds of a bare `multiprocessing.Process`: up to the first answer, or until it is joined."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["multiprocessing.connection", "jobs"])

    def one_start() -> float:
        start = perf_counter()
        near, far = context.Pipe()
        process = context.Process(target=answer, args=(far, 1))
        process.start()
        far.close()
        if near.recv() != 1:
            raise ValueError("the answer differs")
        answered = perf_counter()
        process.join()
        near.close()
        return ((perf_counter() if whole else answered) - start) * 1e3

    async def one_round() -> float:
        return median([one_start() for _ in range(starts)])

    yield one_round


@asynccontextmanager
async def waiting_tasks(count: int) -> AsyncIterator[Round]:
    """MiB that bare Trio tasks take, all of them waiting for one Event."""

    async def one_round() -> float:
        gate, done = trio.Event(), 0

        async def waiter() -> None:
            nonlocal done
            await gate.wait()
            done += 1

        before = resident_mib()
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(waiter)
            await wait_all_tasks_blocked()
            grown = resident_mib() - before
            gate.set()
        if done != count:
            raise ValueError("not all of them came back")
        return grown

    yield one_round
