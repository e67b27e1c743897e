"""A web service that answers /health at once while /parse chews large uploads.

    python service.py                          shows it, with two uploads of 50 MB
    python service.py --megabytes 200 --uploads 4 --workers 4
    python service.py --port 8000              serves, until Ctrl-C:
        curl localhost:8000/health
        curl --data-binary @large.json localhost:8000/parse

Plain Trio and h11. Twice the same service: once it parses in its main loop,
once in a pool. Two more isolates are its visitors: one uploads, one asks for
/health all the time and measures how long that takes.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pickle import PickleBuffer
from typing import TypeAlias

import trio
from stage import bar, count, extra, options, quantile, start

from trio_isolates import open_pool, open_worker

with extra():
    import h11

Parse: TypeAlias = Callable[[bytearray], Awaitable[str]]


def parse(body: bytes | bytearray | memoryview) -> str:
    """What a pool does here: all the work, and a small answer."""
    document = json.loads(bytes(body))
    size = len(document) if isinstance(document, list | dict) else 1
    return f"{type(document).__name__} of {size:,}, {len(body):,} bytes"


# The service.


async def serve(stream: trio.abc.Stream, parse: Parse) -> None:
    """Answer the requests of one connection."""
    connection = h11.Connection(h11.SERVER)
    async with stream:
        while isinstance(request := await next_event(stream, connection), h11.Request):
            status, text = await respond(request, await read_body(stream, connection, request), parse)
            length = [("Content-Length", str(len(text)))]
            for part in h11.Response(status_code=status, headers=length), h11.Data(data=text.encode()):
                await stream.send_all(connection.send(part) or b"")
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE:
                return
            connection.start_next_cycle()


async def respond(request: h11.Request, body: bytearray, parse: Parse) -> tuple[int, str]:
    if request.target == b"/health":
        return 200, "fine"
    if request.target != b"/parse":
        return 404, "there are /health and /parse"
    try:
        return 200, await parse(body)
    except ValueError as error:  # raised in a worker, and here as it was raised there
        return 400, f"no JSON: {error}"


async def read_body(stream: trio.abc.Stream, connection: h11.Connection, request: h11.Request) -> bytearray:
    """Return the body. Its memory is taken at once: to join 50 MB in the end would hold up the loop."""
    body, end = bytearray(int(dict(request.headers).get(b"content-length", 0))), 0
    while isinstance(event := await next_event(stream, connection), h11.Data):
        body[end : end + len(event.data)] = event.data
        end += len(event.data)
    return body


async def next_event(stream: trio.abc.Stream, connection: h11.Connection) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await stream.receive_some(65536))
    return event


async def parse_inline(body: bytearray) -> str:
    return parse(body)


# Its visitors, each in an isolate of its own.


async def upload(port: int, megabytes: int) -> tuple[str, float]:
    """Send one large document; return the answer, and how many seconds it took."""
    item = b'{"id": 12345, "name": "Zoe", "scores": [1.5, 2.25, 3.125], "active": true},'
    body = b"[" + item * (megabytes * 10**6 // len(item)) + b"null]"
    head = f"POST /parse HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    started = time.perf_counter()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(head.encode())
        await stream.send_all(body)
        answer = b"".join([part async for part in stream])
    return answer.decode().partition("\r\n\r\n")[2], time.perf_counter() - started


async def probe(port: int) -> AsyncIterator[float]:
    """Ask for /health a hundred times a second, for ever; give how many seconds each answer took."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        while True:
            started = time.perf_counter()
            await stream.send_all(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
            await stream.receive_some()
            yield time.perf_counter() - started
            await trio.sleep(0.01)


async def visit(name: str, parse: Parse, arguments: Namespace) -> None:
    """Open the service, have it visited, and say how it was."""
    latencies: list[float] = []

    async def watch() -> None:
        async with prober.open_stream(port) as seconds:
            async for latency in seconds:
                latencies.append(latency * 1000)

    async with (
        open_worker(upload) as uploader,
        open_worker(probe) as prober,
        trio.open_nursery() as nursery,
    ):
        listeners = await nursery.start(trio.serve_tcp, partial(serve, parse=parse), 0)
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(watch)
        with bar(f"uploading, parsed {name}", arguments.uploads) as advance:
            for _ in range(arguments.uploads):
                text, seconds = await uploader.call(port, arguments.megabytes)
                advance()
                print(f"  {text} in {seconds:.2f} s", flush=True)
        nursery.cancel_scope.cancel()
    times = "  ".join(f"{quantile(latencies, part):8.1f}" for part in (0.5, 0.99, 1))
    print(f"/health, parsed {name:14} {times}   ms: p50, p99, max of {len(latencies):,}")


async def run(arguments: Namespace) -> None:
    # The workers are nice: they leave the CPU to the main loop when both want it.
    async with open_pool(parse, workers=arguments.workers, nice=10) as pool:

        async def parse_in_pool(body: bytearray) -> str:
            return await pool.call(PickleBuffer(body))

        if arguments.port is not None:
            print(f"http://localhost:{arguments.port}", flush=True)
            await trio.serve_tcp(partial(serve, parse=parse_in_pool), arguments.port, host="localhost")
        await visit("in the loop", parse_inline, arguments)
        await visit("in a pool", parse_in_pool, arguments)


def main(argv: Sequence[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--megabytes", type=count, default=50, metavar="N", help="size of an upload (50)")
    parser.add_argument("--uploads", type=count, default=2, metavar="N", help="how many (2)")
    parser.add_argument("--port", type=count, metavar="N", help="serve others, instead of the visitors")
    trio.run(run, parser.parse_args(argv))


if __name__ == "__main__":
    start(main)
