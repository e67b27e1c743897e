"""Dart's page on isolates, executed: the basic ports, and the older edition's programs with them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

import contract
import dart_page as page
from dart_page import KEYS
from fifo import Fifo, within
from handlers import tell
from trio_isolates import (
    IsolateDied,
    RawReceivePort,
    ReceivePort,
    SendPort,
    UnsendableError,
    open_isolate,
)

fifo = contract.fifo


both_loops = pytest.mark.parametrize(
    "entry", [page.start_basic, page.start_basic_async], ids=["sync", "async"]
)


class Worker:
    """The page's first class of this name. `_isolate_ready` is its completer, `spawn` a block."""

    def __init__(self) -> None:
        self._send_port: SendPort[str]
        self._isolate_ready = trio.Event()
        self.printed: list[Any] = []
        self.has_printed = trio.Event()

    @asynccontextmanager
    async def spawn(self, entry: Callable[..., Any]) -> AsyncIterator[None]:
        receive_port = RawReceivePort()
        receive_port.handler = self._handle_responses_from_isolate  # Dart's `listen`
        try:
            async with open_isolate(entry, receive_port.send_port) as isolate:
                yield
                await isolate.aclose()  # nothing in the program ends it
        finally:
            receive_port.close()

    def _handle_responses_from_isolate(self, message: object) -> None:
        if isinstance(message, SendPort):
            self._send_port = message
            self._isolate_ready.set()
        elif isinstance(message, dict):
            self.printed.append(message)
            self.has_printed.set()

    async def parse_json(self, message: str) -> None:
        await self._isolate_ready.wait()
        await self._send_port.send(message)


@both_loops
@within(20)
async def test_basic_ports(entry: Callable[..., Any]) -> None:
    """The basic ports example: the isolate sends its SendPort, then a map for each text that it is sent."""
    worker = Worker()
    async with worker.spawn(entry):
        await worker.parse_json('{"key":"value"}')
        await worker.has_printed.wait()
    assert worker.printed == [{"key": "value"}]


@both_loops
@within(20)
async def test_messages_both_ways(entry: Callable[..., Any]) -> None:
    """Sending multiple messages: as many as one likes, both ways, in the order of sending."""
    port: ReceivePort[Any] = ReceivePort()
    count = 200  # more than have room on their way

    async def send_all() -> None:
        for number in range(count):
            await commands.send(f'{{"number": {number}}}')

    async with open_isolate(entry, port.send_port) as isolate, trio.open_nursery() as nursery:
        commands = await port.receive()
        nursery.start_soon(send_all)
        assert [await port.receive() for _ in range(count)] == [{"number": number} for number in range(count)]
        await isolate.aclose()


@both_loops
@within(20)
async def test_send_port_is_a_value(entry: Callable[..., Any]) -> None:
    """One ReceivePort can have many SendPorts: all that lead to it are equal, wherever they have been."""
    port: ReceivePort[Any] = ReceivePort()
    assert len({port.send_port, port.send_port}) == 1
    async with open_isolate(entry, port.send_port) as isolate:
        commands = await port.receive()
        await port.send_port.send((port.send_port, commands))
        assert await port.receive() == (port.send_port, commands)
        await isolate.aclose()


# What the page leaves open.


@pytest.mark.parametrize(
    "entry", [page.fail_before_the_handshake, page.fail_before_the_handshake_async], ids=["sync", "async"]
)
@within(20)
async def test_fails_before_the_handshake(entry: Callable[..., Any]) -> None:
    """An entry that raises before it has sent its SendPort: the error ends the block, where Dart waits on."""
    worker = Worker()
    with pytest.raises(FileNotFoundError, match="no such model"):
        async with worker.spawn(entry):
            await worker.parse_json('{"key":"value"}')
            pytest.fail("there was no handshake")


@within(20)
async def test_dies_before_the_handshake() -> None:
    """An isolate that dies before its handshake: who waits for its end is told, where Dart waits on."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(page.die_before_the_handshake, port.send_port, on_exit=port.send_port) as isolate:
        assert await port.receive() is None
        with pytest.raises(IsolateDied) as caught:
            await isolate.wait()
        assert caught.value.signal == "SIGKILL"


@both_loops
@within(20)
async def test_malformed_text(entry: Callable[..., Any]) -> None:
    """A text that is no JSON: the error comes out of the block as itself, with its frames.

    In Dart it is printed, the isolate is dead, and the program waits for a map that never comes.
    """
    worker = Worker()
    with pytest.raises(json.JSONDecodeError) as caught:
        async with worker.spawn(entry):
            await worker.parse_json("{")
            await worker.has_printed.wait()
            pytest.fail("it was parsed")
    assert caught.value.doc == "{"
    assert any(entry.__name__ in note for note in caught.value.__notes__)


@both_loops
@within(20)
async def test_sent_to_nobody(entry: Callable[..., Any]) -> None:
    """What is sent to an isolate that is gone is an error; Dart drops it and says nothing."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port) as isolate:
        commands = await port.receive()
        await isolate.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await commands.send(KEYS)


@both_loops
@within(20)
async def test_what_cannot_be_sent(entry: Callable[..., Any]) -> None:
    """What the page says cannot be sent is refused, with its place in the message; the next one arrives."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port) as isolate:
        commands = await port.receive()
        with pytest.raises(UnsendableError, match=r"message\['answer'\]\[1\]") as caught:
            await commands.send({"answer": ["here", port]})
        assert "send its send_port" in str(caught.value)
        with open(__file__) as file, pytest.raises(UnsendableError, match="message: "):
            await commands.send(file)
        await commands.send(KEYS)
        assert await port.receive() == json.loads(KEYS)
        await isolate.aclose()


@pytest.mark.parametrize("entry", [page.start_and_tell, page.start_and_tell_async], ids=["sync", "async"])
@within(20)
async def test_closed(fifo: Fifo, entry: Callable[..., Any]) -> None:
    """An isolate that listens for ever can be closed: it cleans up, as no killed one does, and is gone."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, fifo.path) as isolate:
        commands = await port.receive()
        await commands.send(KEYS)
        await port.receive()
        await isolate.ping()
        await isolate.aclose()
        assert isolate.pid is not None and not psutil.pid_exists(isolate.pid)
        assert await fifo.line() == "cleaned up"


# The older edition.


spawn_and_exit = pytest.mark.parametrize(
    "entry", [page.receive_and_parse_json, page.receive_and_parse_json_async], ids=["sync", "async"]
)


@spawn_and_exit
@within(20)
async def test_spawn_and_exit(entry: Callable[..., Any]) -> None:
    """Spawn, send and exit: the isolate sends its port, gets a text, ends with the map as last message."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port) as isolate:
        pid = isolate.pid
        async for message in port:
            if isinstance(message, SendPort):
                await message.send(KEYS)
            else:
                data = message
                break
    assert f"Received JSON with {len(data)} keys" == "Received JSON with 3 keys"
    assert pid is not None and not psutil.pid_exists(pid)


@within(20)
async def test_exit_at_once(tmp_path: Path, fifo: Fifo) -> None:
    """`Isolate.exit(p, data)` ends the isolate there: the last message comes, and no `finally` is run."""
    port: ReceivePort[Any] = ReceivePort()
    path = tmp_path / "with_keys.json"
    path.write_text(KEYS)
    async with open_isolate(page.read_and_exit, port.send_port, path, fifo.path) as isolate:
        await isolate.wait()
        assert port.receive_nowait() == json.loads(KEYS)
    tell(fifo.path, "end")
    assert await fifo.line() == "end"


@spawn_and_exit
@within(20)
async def test_last_message_fails(entry: Callable[..., Any]) -> None:
    """If the last message cannot be made the error comes out of the block; Dart waits for it for ever."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(json.JSONDecodeError):
        async with open_isolate(entry, port.send_port):
            commands = await port.receive()
            await commands.send("no JSON")
            await port.receive()


both_services = pytest.mark.parametrize(
    "entry",
    [page.receive_and_parse_json_service, page.receive_and_parse_json_service_async],
    ids=["sync", "async"],
)


async def parse_json_strings(texts: list[str], entry: Callable[..., Any]) -> AsyncIterator[Any]:
    """The older edition's stream of parsed texts. Each is sent when the one before it has been answered."""
    port: ReceivePort[Any] = ReceivePort()
    waiting = iter(texts)
    async with open_isolate(entry, port.send_port):
        commands = await port.receive()
        for text in waiting:
            await commands.send(text)
            yield await port.receive()
        await commands.send(None)


@both_services
@within(20)
async def test_many_files(
    tmp_path: Path, entry: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """The long-lived worker: files are read at the same time, parsed in turn, and None ends the isolate."""
    texts: dict[int, str] = {}

    async def read(number: int) -> None:
        texts[number] = await trio.Path(tmp_path / f"json_{number}.json").read_text()

    for number in (1, 2, 3):
        (tmp_path / f"json_{number}.json").write_text(json.dumps(dict.fromkeys(range(number))))
    async with trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            nursery.start_soon(read, number)
    lengths = [len(data) async for data in parse_json_strings([texts[n] for n in sorted(texts)], entry)]
    assert lengths == [1, 2, 3]
    assert capfd.readouterr().out == "Spawned isolate finished.\n"


@within(20)
async def test_unexpected_message() -> None:
    """The edition between: a message neither text nor None ends the isolate, and its block is told."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(page.parse_until_none, port.send_port):
        commands = await port.receive()
        await commands.send(KEYS)
        assert await port.receive() == json.loads(KEYS)
        await commands.send(None)
    with pytest.raises(NotImplementedError, match="unexpected: 17"):
        async with open_isolate(page.parse_until_none, port.send_port):
            commands = await port.receive()
            await commands.send(17)
            await port.receive()
