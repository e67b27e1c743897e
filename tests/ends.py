"""The two ends of a link in one process, each with a `__main__` of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from textwrap import dedent
from types import ModuleType
from typing import Any, Literal

from trio_isolates._exceptions import dump_error, load_error
from trio_isolates._pickling import Codec, Pickled

TITLE = "isolate 'w' (pid 1)"


class End:
    """One end: while it is at work, `__main__` is its own program, as in a process of its own."""

    def __init__(self, side: Literal[0, 1]) -> None:
        self.main = ModuleType("__main__")
        self.codec = Codec(side=side, namespaces=self._namespaces() if side else None)

    def _namespaces(self) -> Callable[[str], dict[str, Any]]:
        """As the worker's: what comes from the parent's `__main__` lives in ours."""
        found: dict[str, dict[str, Any]] = {"__main__": vars(self.main)}
        return lambda module: found.setdefault(module, {})

    @contextmanager
    def at_work(self) -> Iterator[None]:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = self.main
        try:
            yield
        finally:
            sys.modules["__main__"] = main

    def run(self, script: str) -> None:
        """Run a script as a part of this end's main program."""
        with self.at_work():
            exec(compile(dedent(script), "<script>", "exec", dont_inherit=True), vars(self.main))

    def __getitem__(self, name: str) -> Any:
        return vars(self.main)[name]

    def dumps(self, value: object) -> Pickled:
        with self.at_work():
            return self.codec.dumps(value)

    def define(self, pickled: Pickled) -> None:
        for number, blob in pickled[2]:
            self.codec.define(number, blob)

    def loads(self, pickled: Pickled) -> Any:
        """Open a message whose definitions have arrived."""
        chunks, buffers, _ = pickled
        with self.at_work():
            return self.codec.loads(b"".join(chunks), [memoryview(bytearray(view)) for view in buffers])

    def receive(self, pickled: Pickled) -> Any:
        self.define(pickled)
        return self.loads(pickled)


class Pair:
    """A parent and a worker."""

    def __init__(self) -> None:
        self.parent = End(0)
        self.worker = End(1)

    def there(self, value: object) -> Any:
        """Send a value from the parent to the worker."""
        return self.worker.receive(self.parent.dumps(value))

    def back(self, value: object) -> Any:
        """Send a value from the worker to the parent."""
        return self.parent.receive(self.worker.dumps(value))


def home(pair: Pair, exc: BaseException) -> Any:
    """Return the exception that the parent gets for one that was raised in the worker."""
    with pair.worker.at_work():
        pickled = dump_error(pair.worker.codec, exc, TITLE)
    pair.parent.define(pickled)
    with pair.parent.at_work():
        return load_error(pair.parent.codec, b"".join(pickled[0]), pickled[1])


def caught(function: Callable[..., object], *args: Any) -> BaseException:
    """Return what the function raises."""
    try:
        function(*args)
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def links(exc: BaseException | None) -> list[str]:
    """Return the chain of an exception as a reader of its traceback sees it."""
    seen: list[str] = []
    while exc is not None:
        seen.append(str(exc))
        if exc.__cause__ is not None:
            exc = exc.__cause__
            seen.append("from")
        else:
            exc = None if exc.__suppress_context__ else exc.__context__
    return seen
