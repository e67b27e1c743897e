"""Make many network requests inside workers, with httpx under Trio.

    python many_requests.py                    a thousand, to a server of its own
    python many_requests.py --requests 20000 --workers 4 --concurrency 100

An async handler has Trio in its isolate: each worker waits for many answers
at a time, over connections that it keeps. This pays when there is work to do
on each answer; what only waits is at home in the main loop.

What goes wrong in a request comes home as the exception that it was.
"""

from __future__ import annotations

import hashlib
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence

import attrs
import trio

from stage import bar, count, extra, options, quantile, start
from trio_isolates import ReceivePort, SendPort, open_isolate, open_pool

with extra():
    import h11
    import httpx

PATHS = "/quick", "/quick", "/quick", "/large", "/slow", "/slow", "/quick", "/quick", "/missing", "/dropped"


@attrs.frozen
class Answer:
    path: str
    size: int
    digest: str
    seconds: float


class BadStatusError(Exception):
    """The server's answer is not the one asked for.

    httpx has such an error, too, but it holds the whole response and its connection, which stay
    where they are: it would come home as a `RemoteError`, which only tells of it.
    """

    def __init__(self, path: str, status: int) -> None:
        super().__init__(path, status)  # all arguments, so that it can be built again at home
        self.path, self.status = path, status


async def open_client() -> httpx.AsyncClient:
    """The state of a worker: connections that all of its requests share."""
    return httpx.AsyncClient(timeout=10, limits=httpx.Limits(max_connections=100))


async def fetch(client: httpx.AsyncClient, url: str) -> Answer:
    """Runs in a worker, many at a time: get a page, and work on it."""
    started = time.perf_counter()
    response = await client.get(url)
    path = response.url.path
    if response.status_code != 200:
        raise BadStatusError(path, response.status_code)
    digest = hashlib.sha256(response.content).hexdigest()
    return Answer(path, len(response.content), digest, time.perf_counter() - started)


async def serve(home: SendPort[int]) -> None:
    """The entry of an isolate of its own: a small server, which says home where it listens."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await home.send(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(answer, listeners)


async def answer(stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    async with stream:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                path = event.target.decode()
                if path == "/dropped":
                    return
                await trio.sleep(0.05 if path == "/slow" else 0)
                body = path.encode() * (50_000 if path == "/large" else 1)
                length = [("Content-Length", str(len(body)))]
                status = 404 if path == "/missing" else 200
                for part in h11.Response(status_code=status, headers=length), h11.Data(data=body):
                    await stream.send_all(connection.send(part) or b"")
                connection.send(h11.EndOfMessage())
            elif isinstance(event, h11.EndOfMessage):
                connection.start_next_cycle()
            else:
                return


async def run(arguments: Namespace) -> None:
    print(f"{arguments.requests:,} requests", flush=True)
    answers: list[Answer] = []
    errors: Counter[str] = Counter()
    home: ReceivePort[int] = ReceivePort()
    async with (
        open_isolate(serve, home.send_port) as server,
        open_pool(
            fetch,
            workers=arguments.workers,
            state=open_client,
            teardown=httpx.AsyncClient.aclose,
            concurrency=arguments.concurrency,
        ) as pool,
    ):
        base = f"http://127.0.0.1:{await home.receive()}"
        urls = [base + PATHS[number % len(PATHS)] for number in range(arguments.requests)]
        # By itself open_map has four calls for each isolate under way, enough for those that compute.
        # These wait, so it takes more to keep them busy.
        ahead = 1000
        started = time.perf_counter()
        with bar("fetching", len(urls)) as advance:
            async with pool.open_map(urls, ordered=False, return_errors=True, max_pending=ahead) as results:
                async for result in results:
                    advance()
                    try:
                        answers.append(result.unwrap())
                    except BadStatusError as error:
                        errors[f"{error.path}: status {error.status}"] += 1
                    except httpx.TransportError as error:
                        errors[f"{error.request.url.path}: {type(error).__name__}: {error}"] += 1
        seconds = time.perf_counter() - started
        server.kill()  # it would serve for ever
    show(answers, errors, seconds)


def show(answers: Sequence[Answer], errors: Counter[str], seconds: float) -> None:
    many = len(answers) + errors.total()
    print(f"{many:,} answered in {seconds:.2f} s, {many / seconds:,.0f} a second")
    print("path      answers   p50 ms   p99 ms   max ms")
    for path in sorted({answer.path for answer in answers}):
        times = [answer.seconds * 1000 for answer in answers if answer.path == path]
        columns = "".join(f"{quantile(times, part):9.1f}" for part in (0.5, 0.99, 1))
        print(f"{path:8} {len(times):8,}{columns}")
    for text, times_seen in sorted(errors.items()):
        print(f"{times_seen:,} times {text}")


def main(argv: Sequence[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--requests", type=count, default=1000, metavar="N", help="how many (1000)")
    at_a_time = "requests that each worker has under way (20)"
    parser.add_argument("--concurrency", type=count, default=20, metavar="N", help=at_a_time)
    trio.run(run, parser.parse_args(argv))


if __name__ == "__main__":
    start(main)
