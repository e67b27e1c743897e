"""What people are told who have made a common mistake: what, where, and what to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import trio

from fifo import within
from handlers import echo
from trio_isolates import ReceivePort, UnsendableError, open_isolate, open_pool, open_worker, run
from trio_isolates.testing import InlineEngine

# As somebody would call it who has no type checker.
untyped_run: Any = run
untyped_engine: Any = InlineEngine


async def square(x: int) -> int:
    return x * x


def _divide(x: int) -> float:
    return 1 / x


def _trio_objects() -> list[Any]:
    sender, receiver = trio.open_memory_channel[int](1)
    return [sender, receiver, trio.Event(), trio.Lock(), trio.Semaphore(1), trio.CapacityLimiter(1)]


@pytest.mark.parametrize("index", range(6))
@within(20)
async def test_objects_of_trio_stay(index: int) -> None:
    """A channel, an event or a lock would travel as a dead copy: it is refused, and ports are named."""
    with pytest.raises(UnsendableError, match="send a port's send_port") as caught:
        await run(echo, {"in": [_trio_objects()[index]]})
    assert caught.value.path == "args[0]['in'][0]"


@within(20)
async def test_a_channel_with_somebody_waiting_stays() -> None:
    """The path leads to the channel, not into the task that waits at it."""
    _, receiver = trio.open_memory_channel[int](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.receive)
        await trio.testing.wait_all_tasks_blocked()
        error = None
        try:
            await run(echo, receiver)
        except UnsendableError as exc:
            error = exc
        nursery.cancel_scope.cancel()
    assert error is not None and error.path == "args[0]"


@pytest.mark.parametrize("handler", [int, echo])
@within(20)
async def test_which_item(handler: Callable[[Any], Any]) -> None:
    """`map` says which item failed, in the words of who gave it the items."""
    async with open_pool(handler, workers=1) as pool:
        with pytest.raises(UnsendableError) as caught:
            await pool.map(["1", "2", threading.Lock()], chunksize=2)
        assert caught.value.path == "items[2]"
        with pytest.raises(ValueError, match="invalid literal") as raised:
            await pool.map(["1", "2", "3", "x"], int, chunksize=3)
        assert "for items[3]: 'x'" in raised.value.__notes__


@within(20)
async def test_which_item_async() -> None:
    """The same with an async function."""
    async with open_pool(square, workers=1) as pool:
        with pytest.raises(TypeError) as raised:
            await pool.map([1, 2, "x"], chunksize=3)
        assert "for items[2]: 'x'" in raised.value.__notes__


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: untyped_run(square(5)),
            "not a coroutine: pass square without calling it",
        ),
        (lambda: untyped_run(None), "fn must be a function, not None"),
        (lambda: untyped_run(square, 2, limiter=3), "limiter= must be a trio.CapacityLimiter, not 3"),
        (lambda: untyped_run(square, 2, engine=InlineEngine), "did you mean InlineEngine()?"),
        (lambda: untyped_run(square, 2, engine=3), "engine= must be 'process' or an engine object, not 3"),
    ],
)
@within(20)
async def test_wrong_arguments(call: Callable[[], Awaitable[Any]], words: str) -> None:
    """What is wrong is called by its name, and what was probably meant is said."""
    with pytest.raises(TypeError) as caught:
        await call()
    assert words in str(caught.value)


@within(20)
async def test_what_a_function_holds() -> None:
    """The path to what cannot be sent begins with what the caller calls the function."""
    lock = threading.Lock()
    with pytest.raises(UnsendableError) as caught:
        await untyped_run(lambda: lock)
    assert caught.value.path == "fn.<closure>.lock"
    with pytest.raises(UnsendableError) as caught:
        async with open_isolate(lambda: lock):
            raise AssertionError
    assert caught.value.path == "entry.<closure>.lock"


@within(20)
async def test_not_a_function() -> None:
    """What cannot be called is refused before anything is sent."""
    async with open_worker() as worker:
        with pytest.raises(TypeError, match="fn must be callable"):
            await cast(Any, worker).run(3)


def test_without_trio() -> None:
    """Under another event loop, as in a notebook whose first cell was forgotten, Trio is asked for."""

    async def main() -> None:
        for attempt in (run(abs, -1), open_worker(abs).__aenter__(), open_pool(abs).__aenter__()):
            with pytest.raises(RuntimeError, match=r"needs Trio.*%autoawait trio"):
                await attempt

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="ports work in a Trio program"):
        ReceivePort()


@within(20)
async def test_no_frames_of_ours_first() -> None:
    """The remote traceback begins with the user's own function."""
    async with open_pool(echo, workers=1) as pool:
        with pytest.raises(ZeroDivisionError) as raised:
            await pool.map([0], _divide)
    frames = [line for line in raised.value.__notes__[-1].splitlines() if line.lstrip().startswith("File ")]
    assert len(frames) == 1
    assert frames[0].endswith("in _divide")
