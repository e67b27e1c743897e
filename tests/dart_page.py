"""What the programs of Dart's page on isolates run in their isolates, and what they send home.

It stands in a module so that isolates can import it.
"""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import trio
from attrs import frozen

from handlers import tell
from trio_isolates import RawReceivePort, ReceivePort, RemoteError, SendPort, exit_isolate

KEYS = '{"a": "foo", "b": "bar", "c": "baz"}'
"""The page's own document, with three keys."""


# The handshake: each side has the other's send port.


def greet(port: SendPort[Any]) -> ReceivePort[Any]:
    """Send a new port's send port home."""
    receive_port: ReceivePort[Any] = ReceivePort()
    port.send_sync(receive_port.send_port)
    return receive_port


async def greet_async(port: SendPort[Any]) -> ReceivePort[Any]:
    receive_port: ReceivePort[Any] = ReceivePort()
    await port.send(receive_port.send_port)
    return receive_port


# One answer.


def read_and_parse_json(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return data


async def read_and_parse_json_async(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(await trio.Path(path).read_text("utf-8"))
    return data


def slow_fib(n: int) -> int:
    return 1 if n <= 1 else slow_fib(n - 1) + slow_fib(n - 2)


def wait_for_test(fifo: Path, gate: Path) -> int:
    """Say that it has begun, and wait until the test lets it pass."""
    tell(fifo, "begun")
    with gate.open("rb", buffering=0) as file:
        return len(file.read(1)) - 1


# The basic ports.


def listen(receive_port: ReceivePort[Any], handle: Callable[[Any], object]) -> None:
    """Dart's `receivePort.listen`, for an isolate whose code is sync: it returns when the port is closed."""
    for message in receive_port:
        handle(message)


def answer(port: SendPort[Any], message: object) -> None:
    if isinstance(message, str):
        port.send_sync(json.loads(message))


async def answer_async(port: SendPort[Any], message: object) -> None:
    if isinstance(message, str):
        await port.send(json.loads(message))


def start_basic(port: SendPort[Any]) -> None:
    listen(greet(port), partial(answer, port))


async def start_basic_async(port: SendPort[Any]) -> None:
    async for message in await greet_async(port):
        await answer_async(port, message)


def start_and_tell(port: SendPort[Any], fifo: Path) -> None:
    """Tell what no killed isolate could."""
    try:
        start_basic(port)
    finally:
        tell(fifo, "cleaned up")


async def start_and_tell_async(port: SendPort[Any], fifo: Path) -> None:
    try:
        await start_basic_async(port)
    finally:
        tell(fifo, "cleaned up")


def fail_before_the_handshake(port: SendPort[Any]) -> NoReturn:
    raise FileNotFoundError("no such model")


async def fail_before_the_handshake_async(port: SendPort[Any]) -> NoReturn:
    await trio.lowlevel.checkpoint()
    fail_before_the_handshake(port)


def die_before_the_handshake(port: SendPort[Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# The robust ports.


def start_robust(send_port: SendPort[Any]) -> None:
    receive_port = greet(send_port)
    listen(receive_port, partial(handle_command, receive_port, send_port))


def start_robust_listening(send_port: SendPort[Any]) -> None:
    """The same with a handler: the entry returns at once, and what keeps the isolate is the port."""
    receive_port = RawReceivePort()
    send_port.send_sync(receive_port.send_port)
    receive_port.handler = partial(handle_command, receive_port, send_port)


async def start_robust_async(send_port: SendPort[Any]) -> None:
    receive_port = await greet_async(send_port)
    async for message in receive_port:
        if message == "shutdown":
            receive_port.close()
            continue
        number, json_text = message
        try:
            await send_port.send((number, json.loads(json_text)))
        except ValueError as exc:
            await send_port.send((number, RemoteError(type(exc).__name__, str(exc))))


def handle_command(
    receive_port: ReceivePort[Any] | RawReceivePort, send_port: SendPort[Any], message: Any
) -> None:
    if message == "shutdown":
        receive_port.close()
        return
    number, json_text = message
    try:
        send_port.send_sync((number, json.loads(json_text)))
    except ValueError as exc:
        send_port.send_sync((number, RemoteError(type(exc).__name__, str(exc))))


PRINTED = ["{'key': 'value'}", "banana", "[True, False, None, 1, 'string']", "['no', 'yes']"]
"""What the page says that its program prints."""


async def print_answers(parse: Callable[[str], Awaitable[Any]]) -> None:
    """The page's program: three requests, one after the other, and two at once."""
    print(await parse('{"key":"value"}'))
    print(await parse('"banana"'))
    print(await parse('[true, false, null, 1, "string"]'))
    answers: list[Any] = []

    async def ask(json_text: str) -> None:
        answers.append(await parse(json_text))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, '"yes"')
        nursery.start_soon(ask, '"no"')
    print(sorted(answers))


def answer_in_order(port: SendPort[Any], fifo: Path, gate: Path) -> None:
    """Answer each message from a handler, some when the test lets it; the first one not at all."""
    receive_port = RawReceivePort()
    port.send_sync(receive_port.send_port)

    def handle(message: str) -> None:
        if message in ("hold", "wait"):
            wait_for_test(fifo, gate)
        if message != "hold":
            port.send_sync(message)
        if message == "last":
            receive_port.close()

    receive_port.handler = handle


def parse_or_wait(json_text: str, fifo: Path, gate: Path) -> Any:
    """Parse; before that, if it is to, say that it has begun and wait for the test."""
    data = json.loads(json_text)
    if data == "wait":
        wait_for_test(fifo, gate)
    return data


async def parse_or_wait_async(json_text: str, fifo: Path, _: Path) -> Any:
    data = json.loads(json_text)
    if data == "wait":
        tell(fifo, "begun")
        await trio.sleep_forever()
    return data


# The older edition: spawn and exit, and the service that parses many files.


def receive_and_parse_json(port: SendPort[Any]) -> NoReturn:
    receive_port = greet(port)
    exit_isolate(port, json.loads(receive_port.receive_sync()))


async def receive_and_parse_json_async(port: SendPort[Any]) -> NoReturn:
    receive_port = await greet_async(port)
    exit_isolate(port, json.loads(await receive_port.receive()))


def read_and_exit(port: SendPort[Any], path: Path, fifo: Path) -> None:
    try:
        exit_isolate(port, read_and_parse_json(path))
    finally:
        tell(fifo, "went on")


def receive_and_parse_json_service(port: SendPort[Any]) -> None:
    for message in greet(port):
        if message is None:
            break
        answer(port, message)
    print("Spawned isolate finished.")
    exit_isolate()


async def receive_and_parse_json_service_async(port: SendPort[Any]) -> None:
    async for message in await greet_async(port):
        if message is None:
            break
        await answer_async(port, message)
    print("Spawned isolate finished.")
    exit_isolate()


async def parse_until_none(port: SendPort[Any]) -> None:
    """The worker of the edition between: it does not like any other message."""
    receive_port = await greet_async(port)
    async for message in receive_port:
        if isinstance(message, str):
            await port.send(json.loads(message))
        elif message is None:
            receive_port.close()
        else:
            raise NotImplementedError(f"the isolate's port was sent something unexpected: {message!r}")


# Photos.


@frozen
class Photo:
    album_id: int
    id: int
    title: str
    thumbnail_url: str

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Photo:
        return cls(data["albumId"], data["id"], data["title"], data["thumbnailUrl"])


class UnknownResourceError(LookupError):
    """The server has the resource, and nobody here knows what it is made of."""


def parse_photos(body: bytes) -> list[Photo]:
    return [Photo.from_json(element) for element in json.loads(body)]


def decode(resource: str, body: bytes) -> list[Photo]:
    data = json.loads(body)
    match resource:
        case "photos":
            return [Photo.from_json(element) for element in data]
        case _:
            raise UnknownResourceError(f"{resource!r} is not known here; what is: photos")


def check_resource(message: object) -> str:
    if not isinstance(message, str):
        raise TypeError(f"the isolate was sent something unexpected: {message!r}")
    return message


# Whatever proxy the environment names, the server is on this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str) -> bytes:
    with _opener.open(url) as response:
        body: bytes = response.read()
        return body


async def get_async(url: str) -> bytes:
    """Fetch with Trio's own sockets, as far as HTTP is needed for that."""
    host, _, rest = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    async with await trio.open_tcp_stream(name, int(port)) as stream:
        await stream.send_all(f"GET /{rest} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = b"".join([chunk async for chunk in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(maxsplit=2)[1]
    if status != b"200":
        raise OSError(f"the server answered {status.decode()}")
    return body


def fetch(url: str, resource: Any) -> Iterator[Photo]:
    """As a handler for `open_stream`: the photos one by one."""
    yield from decode(check_resource(resource), get(url + resource))


async def fetch_async(url: str, resource: Any) -> AsyncIterator[Photo]:
    name = check_resource(resource)
    for photo in decode(name, await get_async(url + name)):
        yield photo


def start_fetching(port: SendPort[Any], url: str) -> None:
    """As an entry, for the program with ports: whole lists of photos, one for each resource."""
    receive_port = greet(port)

    def handle(message: Any) -> None:
        port.send_sync(decode(check_resource(message), get(url + message)))

    listen(receive_port, handle)


async def start_fetching_async(port: SendPort[Any], url: str) -> None:
    receive_port = await greet_async(port)
    async for message in receive_port:
        name = check_resource(message)
        await port.send(decode(name, await get_async(url + name)))


def start_fetching_handlers(port: SendPort[Any], url: str) -> None:
    """The same with a handler, which an error of one message need not end."""
    receive_port = RawReceivePort()
    port.send_sync(receive_port.send_port)

    def handle(message: Any) -> None:
        if message is None:
            receive_port.close()
        else:
            port.send_sync(decode(check_resource(message), get(url + message)))

    receive_port.handler = handle


def stream_forever(fifo: Path) -> Iterator[int]:
    """As a handler for `open_stream` that never ends by itself, and tells its clean-up."""
    number = 0
    try:
        while True:
            yield number
            number += 1
    finally:
        tell(fifo, "cleaned up")


async def stream_forever_async(fifo: Path) -> AsyncIterator[int]:
    number = 0
    try:
        while True:
            yield number
            number += 1
    finally:
        with suppress(trio.Cancelled), trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        tell(fifo, "cleaned up")
