"""A server of photos on the loopback, for the length of a block."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

MANY: Final = 600

PHOTOS: Final = [
    {"albumId": 1 + number // 50, "id": number, "title": f"photo {number}", "thumbnailUrl": f"/{number}.png"}
    for number in range(1, 1 + MANY)
]

RESOURCES: Final[dict[str, object]] = {"/photos": PHOTOS, "/comments": [{"id": 1, "name": "well done"}]}


class PhotoServer(ThreadingHTTPServer):
    """Serves two lists, and at /slow the beginning of an answer whose rest never comes.

    asked: somebody waits for that rest. hung_up: nobody does any more.
    """

    daemon_threads = False  # so that closing the server joins them

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.hung_up = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: PhotoServer

    def do_GET(self) -> None:
        if self.path == "/slow":
            self._begin_and_wait()
        elif (found := RESOURCES.get(self.path)) is None:
            self.send_error(404)
        else:
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def _begin_and_wait(self) -> None:
        try:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[")
            self.server.asked.set()
            self.connection.recv(1)
        except ConnectionError:  # it went with something unread, or before it was answered
            pass
        self.server.hung_up.set()

    def log_message(self, *_: Any) -> None:
        """Say nothing: a test looks at the output."""


@contextmanager
def serving_photos() -> Iterator[PhotoServer]:
    """Serve from a thread; in the end there is neither server nor thread."""
    server = PhotoServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
