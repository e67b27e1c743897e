"""The first and the last lines that run in a worker process.

They take over what the parent handed on, make the process a good child (a process group of its own,
no life without its parent, its prints and log records going home), and then give it to a server.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import io
import logging
import multiprocessing
import multiprocessing.process
import os
import pickle
import re
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any, Final, final

import trio

from . import _environment
from ._async_server import AsyncServer
from ._bulk import Bulk
from ._data import dump_record, pack_error
from ._exchange import Exchange
from ._group import end_all, end_others, make_group
from ._here import adopt_exchange, set_process_exchange
from ._identities import Identities
from ._interrupt import Interrupter
from ._link import BlockingLink, Link, SocketPipe, send_fds
from ._memory import Page
from ._messages import ADDRESS, DEFINE, FAILED, LOG, RECORD, SPEC, Chunk, Spec
from ._notes import Notes, set_isolate_notes, take_over
from ._pickling import Codec
from ._service import Service
from ._side import SocketSide
from ._sync_server import SyncServer
from ._wire import encode

HANDOVER: Final = "_trio_isolates_handover"
"""Where, in `multiprocessing.process`, the parent's preparation data leaves the inherited descriptors."""

_COMM: Final = 15  # bytes that the kernel keeps of a process's name
_HAS_TITLES: Final = importlib.util.find_spec("setproctitle") is not None
_FINISH_WAIT: Final = 0.001  # seconds between looks at links that take no more for now
_FINISH_LIMIT: Final = 5.0  # seconds after which a sibling that does not read is given up


def retire() -> bool:
    """Tell trio-parallel that a process is never used twice."""
    return True


def main() -> None:
    """Serve as an isolate: the one job of this process."""
    handover = multiprocessing.process.__dict__.pop(HANDOVER)
    link_fd, side_fd, page_fd, *standard = [fd.detach() for fd in handover]
    page, beside = Page.attach(page_fd)
    name, environment, is_data_only = pickle.loads(beside)
    make_group()
    _adopt_standard(standard, page)
    faulthandler.enable(page.fd)
    _set_title(name)
    refused = _environment.apply(environment)
    # Daemonic processes may not have children; these may: they end with their parent all the same.
    multiprocessing.current_process().name = name
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    sock = socket.socket(fileno=link_fd)
    threading.Thread(target=_watch_parent, args=(link_fd,), name="trio_isolates deadman", daemon=True).start()
    side = socket.socket(fileno=side_fd)
    pidfd = os.pidfd_open(os.getpid()) if hasattr(os, "pidfd_open") else -1
    send_fds(side, b"%d" % os.getpid(), [pidfd] if pidfd >= 0 else [])
    if pidfd >= 0:
        os.close(pidfd)
    _keep_from_children(sock)
    try:
        _serve(sock, side, page, name, refused, is_data_only=is_data_only)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone, or has given us up
    except BaseException:
        traceback.print_exc()
        _flush()
        end_others()
        os._exit(1)
    poll = select.poll()
    poll.register(link_fd, 0)
    if any(event & select.POLLHUP for _, event in poll.poll(0)):
        end_all()  # trio-parallel would write to pipes that are just being closed, and complain
    end_others()


def _watch_parent(link_fd: int) -> None:
    """End when the parent is gone, blocked or spinning as this process may be."""
    poll = select.poll()
    poll.register(link_fd, 0)  # no events: only the full hang-up, not a half-closed stream
    parent = multiprocessing.parent_process()
    if parent is not None:
        poll.register(parent.sentinel, select.POLLIN)
    poll.poll()
    end_all()


def _adopt_standard(fds: list[int], page: Page) -> None:
    for number, fd in zip((1, 2), fds, strict=False):
        if fd != number:
            os.dup2(fd, number)
            os.close(fd)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Tee(page)), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


def _shortened(name: str) -> bytes:
    found = re.search(r"\.\d+$", name)
    number = found[0] if found else ""
    base = os.fsencode(name.removesuffix(number))[: max(0, _COMM - len(number))]
    return (base.decode(errors="ignore") + number).encode()[:_COMM]  # no half characters


def _set_title(name: str) -> None:
    """Have `ps` and `top` show the isolate's name, of which the kernel keeps 15 bytes.

    Of a pool's isolates the number is kept, and the pool's name is cut. With the package setproctitle,
    the whole command line says it.
    """
    if _HAS_TITLES:
        importlib.import_module("setproctitle").setproctitle(f"trio_isolates: {name}")
    try:
        with open("/proc/self/comm", "wb", buffering=0) as comm:
            comm.write(_shortened(name))
    except OSError:  # no /proc
        pass


@final
class _Tee(io.RawIOBase):
    """Standard error that leaves a copy in the page, where a SIGKILL does not reach it."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def fileno(self) -> int:
        return 2

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(2)

    def write(self, data: Any) -> int:
        self._page.write_stderr(data)
        return os.write(2, data)


def _keep_from_children(sock: socket.socket) -> None:
    """Close what we inherited in forked and in executed children.

    A grandchild that holds an end of the link or of trio-parallel's pipes makes our death invisible.
    """
    directory = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    inherited: list[int] = []
    tracker = getattr(resource_tracker, "_resource_tracker", None)
    keep = {0, 1, 2, sock.fileno(), getattr(tracker, "_fd", None)}
    sock.set_inheritable(False)
    for entry in os.listdir(directory):
        fd = int(entry)
        if fd not in keep:
            try:
                os.set_inheritable(fd, False)
            except OSError:  # the descriptor of the listing itself
                continue
            inherited.append(fd)

    def close_in_child() -> None:
        if faulthandler.is_enabled():
            faulthandler.enable(2)  # what we crash into is ours alone
        sock.close()  # as an object: whoever still holds it there must not write into what comes after it
        for fd in inherited:
            try:
                os.close(fd)
            except OSError:
                pass

    os.register_at_fork(after_in_child=close_in_child)


def _serve(
    sock: socket.socket,
    side: socket.socket,
    page: Page,
    name: str,
    refused: OSError | None,
    *,
    is_data_only: bool,
) -> None:
    beside = SocketSide(side)
    bulk = Bulk(beside)
    link = BlockingLink(sock, find=bulk.find)
    namespaces = _namespaces()
    identities = Identities()
    codec = Codec(side=1, namespaces=namespaces, identities=identities)
    title = f"isolate {name!r} (pid {os.getpid()})"
    interrupter = Interrupter(page)
    interrupter.install()
    path, notes, body, buffers = _read_spec(link, codec, beside)
    exchange = Exchange(path, name=name, namespaces=namespaces, identities=identities)
    exchange.notes = notes
    set_isolate_notes(notes)
    exchange.expect_parent(codec, bulk)
    set_process_exchange(exchange)
    try:
        if refused is not None:
            raise refused
        spec: Spec = codec.loads(body, buffers)
        service = Service(spec, codec, interrupter, title, _flush, exchange=exchange)
    except BaseException as exc:
        chunks, views, _ = pack_error(codec, exc, title, is_data_only=is_data_only)
        link.write(bulk.encode(FAILED, 0, chunks, views))
        return
    if service.mode == "sync":
        _send_logs(spec, link.write)
        SyncServer(service, link).run()
    else:
        trio.run(_serve_async, service, sock, bulk)


def _read_spec(
    link: BlockingLink, codec: Codec, beside: SocketSide
) -> tuple[bytes, Notes | None, Chunk, Any]:
    path = b""
    notes: Notes | None = None
    while frames := link.read():
        for kind, ident, body, buffers in frames:
            if kind == DEFINE:
                codec.define(ident, bytes(body))
            elif kind == ADDRESS:
                path = bytes(body)
            elif kind == RECORD:
                taken = take_over(beside, ident, bytes(body), path)
                notes = None if taken is None else taken[0]
            elif kind == SPEC:
                return path, notes, body, buffers
    raise ConnectionResetError("the parent is gone")


async def _serve_async(service: Service, sock: socket.socket, bulk: Bulk) -> None:
    link = Link(SocketPipe(sock), find=bulk.find)
    token = trio.lowlevel.current_trio_token()
    thread = threading.get_ident()

    def write(chunks: list[Chunk]) -> None:
        if threading.get_ident() == thread:
            link.write(chunks, now=True)  # a sync function may block the loop for long
        else:
            token.run_sync_soon(lambda: link.write(chunks, now=False))

    def exit_now() -> None:
        _flush()
        deadline = time.monotonic() + _FINISH_LIMIT
        while not service.exchange.finish() and time.monotonic() < deadline:
            time.sleep(_FINISH_WAIT)
        for chunks in service.last_words():
            link.write(chunks, now=True)
        while not link.flush():
            select.select([], [sock], [])
        service.write_notes()
        end_others()
        os._exit(0)

    adopt_exchange(service.exchange)
    service.exchange.exit = exit_now
    _send_logs(service.spec, write)
    await AsyncServer(service, link).run()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # a handler has closed it, or put something else there
            pass


def _namespaces() -> Callable[[str], dict[str, Any]]:
    """Functions that came by value from the parent's `__main__` share the globals of ours."""
    others: dict[str, dict[str, Any]] = {}
    main = vars(sys.modules["__main__"])
    for name in [name for name in main if not name.startswith("__")]:
        del main[name]  # multiprocessing's command line imports a `main`: the parent's would never be set

    def find(module: str) -> dict[str, Any]:
        if module == "__main__":
            return main
        return others.setdefault(module, {})

    return find


@final
class _HomewardHandler(logging.Handler):
    """Sends log records to the parent's logging tree."""

    def __init__(self, write: Callable[[list[Chunk]], None], *, is_data_only: bool) -> None:
        super().__init__()
        self._write = write
        self._is_data_only = is_data_only
        self._pid = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        if os.getpid() != self._pid:  # a forked child, which has no link
            print(self.format(record), file=sys.stderr)  # noqa: T201
            return
        try:
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            fields = {**record.__dict__, "msg": record.getMessage(), "args": None, "exc_info": None}
            self._write(encode(LOG, 0, [self._pack(fields)]))
        except Exception:
            self.handleError(record)

    def _pack(self, fields: dict[str, Any]) -> bytes:
        if self._is_data_only:
            return dump_record(fields)
        try:
            return pickle.dumps(fields)
        except Exception:  # extra fields that cannot travel go as text
            plain = (str, int, float, bool, type(None))
            return pickle.dumps({k: v if isinstance(v, plain) else repr(v) for k, v in fields.items()})


def _send_logs(spec: Spec, write: Callable[[list[Chunk]], None]) -> None:
    if spec.log_levels is None:
        return
    root = logging.getLogger()
    root.handlers[:] = [_HomewardHandler(write, is_data_only=spec.changes.is_data_only)]
    for name, level in spec.log_levels.items():
        (logging.getLogger(name) if name else root).setLevel(level)
