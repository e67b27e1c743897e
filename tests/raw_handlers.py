"""What the suite of raw ports has isolates do."""

from __future__ import annotations

from typing import Any

import trio

from trio_isolates import RawReceivePort, ReceivePort, SendPort

Home = SendPort[Any]
_kept: list[RawReceivePort] = []


async def send_three_async(home: Home) -> None:
    for number in range(3):
        await home.send(number)


def send_one(home: Home, message: Any) -> None:
    home.send_nowait(message)


def refuse_odd(number: int) -> None:
    if number % 2:
        raise ValueError(f"{number} is odd")


def _listener(home: Home) -> Home:
    """Open a port that reports what it hears, until "stop"."""

    def hear(message: Any) -> None:
        if message == "stop":
            raw.close()
        else:
            home.send_nowait(("heard", message))

    raw = RawReceivePort(hear)
    return raw.send_port


def listen(home: Home) -> str:
    home.send_sync(_listener(home))
    home.send_sync("the entry returns")
    return "returned"


async def listen_async(home: Home) -> str:
    await home.send(_listener(home))
    await home.send("the entry returns")
    return "returned"


def _forgetful() -> Home:
    """Open a port that has no handler any more after its first message."""

    def forget(_: Any) -> None:
        raw.handler = None

    raw = RawReceivePort(forget)
    _kept.append(raw)
    return raw.send_port


def listen_twice(home: Home) -> None:
    home.send_sync((_listener(home), _forgetful()))


async def listen_twice_async(home: Home) -> None:
    await home.send((_listener(home), _forgetful()))


def _hearing() -> tuple[RawReceivePort, ReceivePort[Any], list[Any]]:
    heard: list[Any] = []
    return RawReceivePort(heard.append), ReceivePort(), heard


def hear_while_it_waits(home: Home) -> None:
    """Wait to receive, then three times for a place; nothing is taken in between, but while it waits."""
    raw, plain, heard = _hearing()
    home.send_sync((raw.send_port, plain.send_port))
    plain.receive_sync()
    home.send_sync("full")
    home.send_sync(heard)
    home.send_sync(1)
    home.send_sync(2)
    raw.close()


async def hear_while_it_waits_async(home: Home) -> None:
    raw, plain, heard = _hearing()
    await home.send((raw.send_port, plain.send_port))
    await plain.receive()
    await home.send("full")
    await home.send(heard)
    await home.send(1)
    await home.send(2)
    raw.close()


def close_unheard() -> str:
    _kept.append(RawReceivePort())
    raw = RawReceivePort(print)
    raw.handler = None
    ReceivePort[Any]()
    return "returned"


async def close_unheard_async() -> str:
    return close_unheard()


async def fail_at_zero(home: SendPort[Any]) -> None:
    """Have a handler tell each message and fail at 0, over several that are there at once."""

    def take(message: int) -> None:
        home.send_nowait(message)
        print(1 / message)

    raw = RawReceivePort(take)
    for number in (1, 0, 2, 0, 3):
        raw.send_port.send_nowait(number)
    await trio.sleep_forever()
