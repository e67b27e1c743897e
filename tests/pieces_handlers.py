"""Large results, and what is told when they are opened. In a module, so that isolates can import it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from trio_isolates import SendPort

on_open: list[Callable[[str], object]] = []
"""What the test has called with the name of each mark that is opened on its side."""


def _open_mark(name: str) -> Mark:
    for tell in on_open:
        tell(name)
    return Mark(name)


class Mark:
    """Tells, when it is unpickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_mark, (self.name,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mark) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


def _refuse() -> NoReturn:
    raise ValueError("not here")


class Refused:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


class Large(Exception):
    """An exception with much in it."""


def records(count: int = 10_000) -> list[Any]:
    """A quarter of a MB when it is pickled, all of it small things."""
    return [[number, str(number)] for number in range(count)]


def marked(name: str = "") -> list[Any]:
    return [Mark(name + "first"), records(), Mark(name + "last")]


def many_marks(name: str) -> list[Any]:
    return [(Mark(name), records(500)) for _ in range(20)]


def refused() -> list[Any]:
    return [records(), Refused()]


def fail() -> NoReturn:
    raise Large(marked())


def tangled(_: object = None) -> dict[str, Any]:
    """Things that are there twice, at both ends of much else, and a ring through all of it."""

    class Local:
        pass

    shared, text, local = ["shared"], "te" * 5 + "xt", Local()
    tree: dict[str, Any] = {"first": [shared, text, local], "much": records(), "last": [shared, text, local]}
    tree["ring"] = [tree]
    return tree


def is_tangled(tree: Any) -> bool:
    first, last = tree["first"], tree["last"]
    same = all(one is other for one, other in zip(first, last, strict=True))
    return same and first[0] == ["shared"] and tree["ring"][0] is tree and tree["much"] == records()


def stream_tangled(count: int) -> Iterator[Any]:
    for _ in range(count):
        yield tangled()


def send_large_and_small(home: SendPort[Any], small: int) -> str:
    """Send to a port something large, then small ones, and return."""
    home.send_sync(marked())
    for number in range(small):
        home.send_sync(number)
    return "sent"


async def send_large_and_small_async(home: SendPort[Any], small: int) -> str:
    await home.send(marked())
    for number in range(small):
        await home.send(number)
    return "sent"


async def stream_marks(count: int) -> Any:
    for number in range(count):
        yield [number, marked(str(number))]
