"""What the supervisors' suite has its children do. See `supervising.py` for how it hears of that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import trio

from contract_handlers import wait_for_word
from handlers import tell
from trio_isolates import CallInterrupted, ReceivePort, SendPort


class Service:
    """An entry that says when it arrives in its isolate, before that is ready, and when it is stopped.

    In between it does what it is told: "r" returns, "f" fails, "F" fails whenever it is stopped.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return arrive, (self.folder, self.name)

    async def __call__(self) -> str:
        words = ""
        tell(self.folder / "serving", self.name)
        try:
            while words[-1:] not in {"r", "f"}:
                words += await wait_for_word(self.folder / self.name)
                if words[-1] == "F":
                    tell(self.folder / "fifo", f"{self.name} has heard")
        except trio.Cancelled:
            tell(self.folder / "fifo", f"{self.name} stops")
            if "F" in words:
                raise ZeroDivisionError(f"{self.name}, in its clean-up") from None
            raise
        if words[-1] == "f":
            raise ZeroDivisionError(self.name)
        return self.name


def arrive(folder: Path, name: str) -> Service:
    if (folder / f"{name} is ill").exists():
        raise ZeroDivisionError(f"{name} does not start")
    tell(folder / "fifo", f"{name} starts")
    return Service(folder, name)


def listen_sync(home: SendPort[Any]) -> NoReturn:
    """A sync service: say who is there, and wait."""
    home.send_sync(os.getpid())
    try:
        ReceivePort[Any]().receive_sync()
    except CallInterrupted:
        home.send_sync("interrupted")
        raise
    raise AssertionError("a message from nowhere")


async def hold_out(fifo: Path, name: str) -> None:
    """A service that says when it begins and when it is stopped, and does not stop."""
    tell(fifo, f"{name} starts")
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        tell(fifo, f"{name} stops")
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()


# In the test's own process, under a clock that jumps: what was done, and when.

log: list[tuple[str, float]] = []


async def work(name: str, seconds: float, end: str = "fails", clean_up: float = 0) -> None:
    """Work so long, then end in this way; if stopped, clean up for so long."""
    log.append((name, trio.current_time()))
    try:
        await trio.sleep(seconds)
    except trio.Cancelled:
        with trio.CancelScope(shield=True):
            await trio.sleep(clean_up)
        log.append((f"{name} stopped", trio.current_time()))
        raise
    if end == "fails":
        raise ZeroDivisionError(name)
