"""What the suite of pools has isolates do. An isolate is known by a number that it draws once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from contract_handlers import tell_and_wait_for
from handlers import tell


def draw() -> bytes:
    """A `state=`: who this isolate is."""
    return os.urandom(8)


async def who(me: bytes, *_: object) -> bytes:
    return me


async def wait_for(me: bytes, fifo: Path, text: str, gate: Path) -> bytes:
    """Say that it has begun, wait at the gate, say who it was."""
    await tell_and_wait_for(fifo, text, gate)
    return me


async def say(me: bytes, fifo: Path, text: str) -> bytes:
    tell(fifo, text)
    return me


def tell_and_block(fifo: Path, text: str, gate: Path) -> str:
    """Say that it has begun, block the thread at the gate, and say it again."""
    tell(fifo, text)
    fd = os.open(gate, os.O_RDWR)
    try:
        os.read(fd, 1)
        return text
    finally:
        os.close(fd)


async def tear_down(me: bytes) -> None:
    del me


def die_until(counter: Path, times: int) -> int:
    """Die so many times, in one isolate after the other; then return how often it was tried."""
    with counter.open("ab") as file:
        file.write(b"x")
    tried = counter.stat().st_size
    if tried <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return tried


kept: list[Any] = []


def keep(size: int) -> int:
    """Hold so many bytes for ever."""
    kept.append(bytearray(os.urandom(1 << 20) * (size >> 20)))
    return os.getpid()
