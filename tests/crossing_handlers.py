"""What the suite of crossings has isolates do."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import trio

from trio_isolates import RawReceivePort, ReceivePort, SendPort, exit_isolate, report_progress
from trio_isolates._here import current_exchange

Home = SendPort[Any]

LARGE = 4 << 20


def open_small_port() -> ReceivePort[Any]:
    return ReceivePort(8)


def receive_one(port: ReceivePort[Any], what: str) -> Any:
    """A handler with a port as its state: give where to send to, or what has come there."""
    return port.send_port if what == "port" else port.receive_sync()


async def receive_lengths(home: Home, limit: int) -> list[int]:
    """Receive so many messages; return the lengths of those that have one, in order."""
    port: ReceivePort[Any] = ReceivePort()
    await home.send(port.send_port)
    messages = [await port.receive() for _ in range(limit)]
    return [len(message) for message in messages if not isinstance(message, int)]


async def send_large_and_exit(there: Home, others: int) -> None:
    """Say enough to a sibling to get a link of our own to it, then say much, and exit."""
    for number in range(others):
        await there.send(number)
    for length in range(LARGE, LARGE + 5):
        await there.send(bytes(length))
    exit_isolate(there, "end")


async def send_to_itself_when_resumed(home: Home) -> list[int]:
    """Send to its own port while it is paused, and, by a handler, when it goes on; return what comes."""
    messages = iter(range(6))
    raw = RawReceivePort(lambda _: own.send_port.send_nowait(next(messages)))  # is served first
    own: ReceivePort[int] = ReceivePort()
    got: list[int] = []

    async def receive() -> None:
        got.extend([await own.receive() for _ in range(6)])
        raw.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await home.send(raw.send_port)
        while not own.statistics().buffered:  # paused
            await trio.lowlevel.checkpoint()
            if raw_is_held(raw):
                for _ in range(3):
                    await own.send_port.send(next(messages))
        await home.send("sent")
    return got


def raw_is_held(raw: RawReceivePort) -> bool:
    return bool(raw._inbox.buffered)


def look_while_others_come(home: Home) -> str:
    """Look at a port, while there is a message for the handler of another one again and again."""
    raw = RawReceivePort(lambda _: time.sleep(0.001))
    port: ReceivePort[Any] = ReceivePort()
    home.send_sync((raw.send_port, port.send_port))
    port.receive_sync()
    for _ in range(3):
        with suppress(trio.WouldBlock):
            port.receive_nowait()
    raw.close()
    return "looked"


async def report_and_wait(_: object = None) -> None:
    report_progress("waiting")
    await trio.sleep_forever()


async def ask_for_state(home: Home) -> Any:
    """A `state=` that waits for a message."""
    port: ReceivePort[Any] = ReceivePort()
    await home.send(port.send_port)
    return await port.receive()


async def ask_and_answer(home: Home, _state: Any = None) -> None:
    """A `teardown=` that waits for a message, and sends it back."""
    await home.send(await ask_for_state(home))


async def return_state(state: Any) -> Any:
    return state


async def give_port(home: Home) -> None:
    await home.send(ReceivePort[Any]().send_port)


async def hold_ports(home: Home) -> tuple[int, int, int]:
    """Hold each port that comes until the next one; then say how many came, and how many peers are known."""
    port: ReceivePort[Any] = ReceivePort()
    await home.send(port.send_port)
    count = 0
    async for message in port:
        if message is None:
            break
        count += 1
    del message
    exchange = current_exchange()
    return count, len(exchange._peers), len(exchange._strangers)


def report_from_a_thread() -> str:
    found: list[str] = []

    def report() -> None:
        try:
            report_progress(1)
        except RuntimeError as exc:
            found.append(str(exc))

    thread = threading.Thread(target=copy_context().run, args=(report,))
    thread.start()
    thread.join()
    return found[0]
