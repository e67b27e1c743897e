"""What workers of JSON pools run in tests, and types that they make."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attrs
import msgspec


@attrs.frozen
class User:
    name: str
    age: int = 0


@dataclass
class Pet:
    name: str


class Row(msgspec.Struct):
    i: int


def ages(tree: Any) -> set[int]:
    return {user["age"] for user in tree}


def die(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(tree: Any) -> None:
    raise LookupError(tree)


def own_pid(_: Any) -> int:
    return os.getpid()


def wait_for(tree: Any) -> Any:
    """Say that it has begun, and wait until it is stopped; the tree names the FIFOs."""
    with Path(tree["begun"]).open("w") as fifo:
        fifo.write("begun\n")
    with Path(tree["gate"]).open("rb") as gate:
        gate.read(1)
    return "let pass"


def total(rows: list[Any]) -> int:
    return sum(row.i for row in rows)
