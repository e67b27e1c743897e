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
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TypeAlias

import trio

from stage import bar, count, extra, options, quantile, start
from trio_isolates import IsolateDied, open_pool, open_worker

with extra():
    import h11

Parse: TypeAlias = Callable[[Path], Awaitable[str]]


def parse(path: Path) -> str:
    """What a pool does here: all the work, and a small answer."""
    body = path.read_bytes()
    document = json.loads(body)
    size = len(document) if isinstance(document, list | dict) else 1
    return f"{type(document).__name__} of {size:,}, {len(body):,} bytes"


# The service.


async def serve(stream: trio.SocketStream, parse: Parse) -> None:
    """Answer the requests of one connection."""
    connection = h11.Connection(h11.SERVER)
    try:
        while isinstance(request := await next_event(stream, connection), h11.Request):
            status, text = await respond(request, stream, connection, parse)
            length = [("Content-Length", str(len(text.encode())))]
            for part in h11.Response(status_code=status, headers=length), h11.Data(data=text.encode()):
                await stream.send_all(connection.send(part) or b"")
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except (h11.RemoteProtocolError, trio.BrokenResourceError):
        pass  # a visitor who left in the middle, or speaks no HTTP
    finally:
        await stream.aclose()


async def respond(
    request: h11.Request, stream: trio.SocketStream, connection: h11.Connection, parse: Parse
) -> tuple[int, str]:
    if request.target == b"/parse":
        with NamedTemporaryFile() as file:
            await read_body(stream, connection, file)
            try:
                return 200, await parse(Path(file.name))
            except (
                ValueError,
                RecursionError,
            ) as error:  # raised in a worker, and here as it was raised there
                return 400, f"no JSON: {error}"
            except IsolateDied as error:  # for lack of memory, perhaps: the next upload has a new worker
                return 500, str(error)
    await read_body(stream, connection, None)
    return (200, "fine") if request.target == b"/health" else (404, "there are /health and /parse")


async def read_body(stream: trio.SocketStream, connection: h11.Connection, file: IO[bytes] | None) -> None:
    """Put the body into a file, a little at a time: to send 50 MB at once would hold up the main loop."""
    if connection.they_are_waiting_for_100_continue:  # as curl does before a large upload
        go_on = h11.InformationalResponse(status_code=100, headers=[])
        await stream.send_all(connection.send(go_on) or b"")
    while isinstance(event := await next_event(stream, connection), h11.Data):
        if file is not None:
            file.write(event.data)
    if file is not None:
        file.flush()


async def listen(nursery: trio.Nursery, parse: Parse, port: int = 0) -> int:
    """Serve in the background; return the port, which is any free one for 0."""
    listening = partial(trio.serve_tcp, host="127.0.0.1")
    listeners = await nursery.start(listening, partial(serve, parse=parse), port)
    number: int = listeners[0].socket.getsockname()[1]
    return number


async def next_event(stream: trio.SocketStream, connection: h11.Connection) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await stream.receive_some(65536))
    return event


async def parse_inline(path: Path) -> str:
    return parse(path)


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

    async def watch(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with prober.open_stream(port) as answers:
            async for seconds in answers:
                if not latencies:
                    task_status.started()
                latencies.append(seconds * 1000)

    async with (
        open_worker(upload) as uploader,
        open_worker(probe) as prober,
        trio.open_nursery() as nursery,
    ):
        port = await listen(nursery, parse)
        await nursery.start(watch)
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
        if arguments.port is not None:
            async with trio.open_nursery() as nursery:
                port = await listen(nursery, pool.call, arguments.port)
                print(f"http://127.0.0.1:{port}", flush=True)
        else:
            await visit("in the loop", parse_inline, arguments)
            await visit("in a pool", pool.call, arguments)


def main(argv: Sequence[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--megabytes", type=count, default=50, metavar="N", help="size of an upload (50)")
    parser.add_argument("--uploads", type=count, default=2, metavar="N", help="how many (2)")
    parser.add_argument("--port", type=int, metavar="N", help="serve others, instead of the visitors")
    trio.run(run, parser.parse_args(argv))


if __name__ == "__main__":
    start(main)
