"""Dart's page on isolates, executed: the older edition's BackgroundWorker, which fetches photos."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
import trio
import trio.testing

import contract
import dart_page as page
from dart_page import Photo
from fifo import Fifo, within
from photo_server import MANY, PHOTOS, PhotoServer, serving_photos
from trio_isolates import (
    Isolate,
    IsolateDied,
    RawReceivePort,
    RemoteError,
    SendPort,
    open_isolate,
    open_worker,
)

fifo = contract.fifo

EXPECTED = [Photo.from_json(data) for data in PHOTOS]

both_workers = pytest.mark.parametrize("handler", [page.fetch, page.fetch_async], ids=["urllib", "trio"])
both_entries = pytest.mark.parametrize(
    "entry", [page.start_fetching, page.start_fetching_async], ids=["urllib", "trio"]
)


@pytest.fixture
def server() -> Iterator[PhotoServer]:
    with serving_photos() as serving:
        yield serving


class BackgroundWorker:
    """The page's class: lists of photos by ports. Its constructor and `dispose` are the ends of a block."""

    def __init__(self) -> None:
        self._send_port_to_worker_isolate: SendPort[Any]
        self._isolate_ready = trio.Event()
        self._outbound, self.photos = trio.open_memory_channel[list[Photo]](100)

    async def fetch_from_network(self, resource: object) -> None:
        await self._isolate_ready.wait()
        await self._send_port_to_worker_isolate.send(resource)

    @classmethod
    @asynccontextmanager
    async def open(cls, entry: Callable[..., Any], url: str) -> AsyncIterator[BackgroundWorker]:
        worker = cls()
        main_isolate_receive_port = RawReceivePort()
        main_isolate_receive_port.handler = worker._handle_message_to_main_isolate
        try:
            async with open_isolate(entry, main_isolate_receive_port.send_port, url) as isolate:
                yield worker
                worker.dispose(isolate)
        finally:
            main_isolate_receive_port.close()

    def _handle_message_to_main_isolate(self, message: object) -> None:
        if isinstance(message, SendPort):
            self._send_port_to_worker_isolate = message
            self._isolate_ready.set()
        elif isinstance(message, list):
            self._outbound.send_nowait(message)
        else:
            raise TypeError(f"the isolate has sent something unexpected: {message!r}")

    def dispose(self, isolate: Isolate[Any]) -> None:
        self._outbound.close()
        isolate.kill()


# The program, as it is on the page.


@both_entries
@within(20)
async def test_background_worker(entry: Callable[..., Any], server: PhotoServer) -> None:
    """The program: a resource is fetched in the isolate, and comes as a list of photos, each time again."""
    async with BackgroundWorker.open(entry, server.url) as worker:
        for _ in range(2):
            await worker.fetch_from_network("photos")
            assert await worker.photos.receive() == EXPECTED
    with pytest.raises(trio.EndOfChannel):
        await worker.photos.receive()


@both_entries
@pytest.mark.parametrize(
    ("resource", "error"),
    [("comments", page.UnknownResourceError), (17, TypeError)],
    ids=["unknown resource", "unexpected message"],
)
@within(20)
async def test_background_worker_fails(
    entry: Callable[..., Any], resource: object, error: type[Exception], server: PhotoServer
) -> None:
    """An unknown resource or an unexpected message ends the program with that error; in Dart all wait on."""
    with pytest.raises(error):
        async with BackgroundWorker.open(entry, server.url) as worker:
            await worker.fetch_from_network(resource)
            await worker.photos.receive()
            pytest.fail("there were photos")


@within(20)
async def test_background_worker_goes_on(server: PhotoServer) -> None:
    """With errors that are not fatal the same are reports, and the next resource is fetched."""
    answers: list[Any] = []
    arrived = trio.Event()

    def handle(message: Any) -> None:
        answers.append(message)
        arrived.set()

    async def next_answer() -> Any:
        nonlocal arrived
        await arrived.wait()
        arrived = trio.Event()
        return answers.pop()

    port = RawReceivePort(handle)
    async with open_isolate(
        page.start_fetching_handlers, port.send_port, server.url, errors_are_fatal=False
    ) as isolate:
        commands = await next_answer()
        await commands.send("comments")
        assert type(await isolate.errors.receive()) is page.UnknownResourceError
        await commands.send(17)
        assert type(await isolate.errors.receive()) is TypeError
        await commands.send("nothing")
        error = await isolate.errors.receive()  # it holds a socket, and cannot come as itself
        assert type(error) is RemoteError and error.type_name == "urllib.error.HTTPError"
        await commands.send("photos")
        assert await next_answer() == EXPECTED
        await commands.send(None)
    port.close()
    assert isolate.statistics().errors == 3


def start_with_a_number(port: SendPort[Any], url: str) -> None:
    port.send_sync(17)


@within(20)
async def test_unexpected_answer(server: PhotoServer) -> None:
    """A message that the program's own handler does not expect: what it raises comes out of the block."""
    with pytest.raises(TypeError, match="has sent something unexpected: 17"):
        async with BackgroundWorker.open(start_with_a_number, server.url) as worker:
            await worker.photos.receive()
            pytest.fail("there were photos")


# With `open_stream`, as it is done here.


@both_workers
@within(20)
async def test_stream(handler: Callable[..., Any], server: PhotoServer) -> None:
    """`worker.photos` is a stream: photos are objects here too, in order, and the stream ends by itself."""
    async with open_worker(handler) as worker:
        for _ in range(2):
            async with worker.open_stream(server.url, "photos") as photos:
                assert [photo async for photo in photos] == EXPECTED
        assert MANY > 2 * 256  # more than are on their way at one time


@both_workers
@within(20)
async def test_stream_fails(handler: Callable[..., Any], server: PhotoServer) -> None:
    """The page's errors: each is that of its own request, and the worker is the same afterwards."""
    async with open_worker(handler) as worker:
        pid = worker.pid
        expected: dict[Any, Any] = {
            "comments": page.UnknownResourceError,
            17: TypeError,
            "nothing": (OSError, RemoteError),
        }
        for resource, error in expected.items():
            with pytest.raises(error) as caught:
                async with worker.open_stream(server.url, resource) as photos:
                    await photos.receive()
            frames = traceback.extract_tb(caught.value.__traceback__)
            assert handler.__name__ in [frame.name for frame in frames]
        async with worker.open_stream(server.url, "photos") as photos:
            assert await photos.receive() == EXPECTED[0]
        assert worker.pid == pid


@both_workers
@within(20)
async def test_dispose(handler: Callable[..., Any], server: PhotoServer) -> None:
    """`dispose` in the middle of a request: leaving the block ends it, and the server sees it hang up."""
    async with open_worker(handler) as worker:
        pid = worker.pid
        async with worker.open_stream(server.url, "slow"):
            await trio.to_thread.run_sync(server.asked.wait)
        assert worker.pid == pid  # it was stopped, not killed
        await trio.to_thread.run_sync(server.hung_up.wait)
        async with worker.open_stream(server.url, "photos") as photos:
            assert await photos.receive() == EXPECTED[0]
    assert pid is not None and not psutil.pid_exists(pid)


@pytest.mark.parametrize("handler", [page.stream_forever, page.stream_forever_async], ids=["sync", "async"])
@within(20)
async def test_stream_is_left_early(handler: Callable[..., Any], fifo: Fifo) -> None:
    """Who has seen enough leaves: the generator has cleaned up by then, and can be asked again."""
    async with open_worker(handler) as worker:
        pid = worker.pid
        for _ in range(2):
            async with worker.open_stream(fifo.path) as numbers:
                assert [await numbers.receive() for _ in range(600)] == list(range(600))
            assert await fifo.line() == "cleaned up"
        assert worker.pid == pid


@both_workers
@within(20)
async def test_death_in_a_stream(handler: Callable[..., Any], server: PhotoServer) -> None:
    """The worker dies while photos are awaited, on all streams at once: each is told, none waits for ever."""
    told: list[str | None] = []

    async def watch() -> None:
        async with worker.open_stream(server.url, "slow") as photos:
            with pytest.raises(IsolateDied) as caught:
                await photos.receive()
            told.append(caught.value.signal)

    async with open_worker(handler) as worker, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(watch)
        await trio.to_thread.run_sync(server.asked.wait)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
    assert told == ["SIGKILL"] * 3


@within(20)
async def test_one_stream_is_cancelled(server: PhotoServer) -> None:
    """One request hangs and is cancelled; another one, beside it in the same isolate, has all its photos."""
    async with open_worker(page.fetch_async) as worker:
        with trio.CancelScope() as scope:
            async with worker.open_stream(server.url, "slow") as slow:
                await trio.to_thread.run_sync(server.asked.wait)
                async with worker.open_stream(server.url, "photos") as photos:
                    assert [photo async for photo in photos] == EXPECTED
                scope.cancel()
                await slow.receive()
        assert scope.cancelled_caught
        await trio.to_thread.run_sync(server.hung_up.wait)
        async with worker.open_stream(server.url, "photos") as photos:
            assert await photos.receive() == EXPECTED[0]
