"""What an isolate could not send home is not kept there, not even until a garbage collection."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import contract
from contract import both_loops
from fifo import within
from trio_isolates import RemoteError, UnsendableError, open_worker

kind = contract.kind

_made: list[weakref.ref[Any]] = []


class Unsendable:
    """What nobody can send."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        _made.append(weakref.ref(self))


class UnsendableFailure(Exception):
    """An error with such a thing."""

    def __init__(self) -> None:
        super().__init__("it failed")
        self.detail = Unsendable()


def return_it() -> Any:
    gc.disable()
    return {"deep": [1, Unsendable()]}


def raise_it() -> None:
    gc.disable()
    raise UnsendableFailure


def is_gone() -> bool:
    gc.enable()
    return _made.pop()() is None


@pytest.mark.usefixtures("kind")
@both_loops
@pytest.mark.parametrize(("deed", "error"), [(return_it, UnsendableError), (raise_it, RemoteError)])
@within(20)
async def test_what_could_not_be_sent_is_let_go(
    handler: Callable[..., Any], deed: Callable[[], object], error: type[Exception]
) -> None:
    """A result or an error that cannot be sent is gone when the call is over."""
    async with open_worker(handler) as worker:
        with pytest.raises(error):
            await worker.call(deed)
        assert await worker.call(is_gone)
