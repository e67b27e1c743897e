"""What people are told who have made a common mistake: what, where, and what to do."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, cast

import pytest
import trio

from fifo import within
from handlers import echo
from trio_isolates import (
    IsolateDied,
    ReceivePort,
    UnsendableError,
    current_default_isolate_limiter,
    open_isolate,
    open_json_pool,
    open_pool,
    open_worker,
    run,
)
from trio_isolates.testing import InlineEngine

# As somebody would call it who has no type checker.
untyped_run: Any = run
untyped_engine: Any = InlineEngine


async def square(x: int) -> int:
    return x * x


def _divide(x: int) -> float:
    return 1 / x


def _yield(x: int) -> Iterator[int]:
    yield x


def _add_to(state: str, x: Any) -> Any:
    return state + x


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
        assert "".join(raised.value.__notes__).count("for items[3]") == 1  # nor in the remote traceback


def _die_at(item: int, at: int) -> int:
    if item == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@within(20)
async def test_which_item_was_deadly() -> None:
    """A death in `map` names its item too, or those of its chunk, as the isolate could not say more."""
    async with open_pool(partial(_die_at, at=3), workers=1) as pool:
        for chunksize, note in ((1, "for items[3]: 3"), (2, "for one of items[2:4]")):
            with pytest.raises(IsolateDied) as caught:
                await pool.map(range(6), chunksize=chunksize)
            assert caught.value.__notes__ == [note]
        with pytest.raises(IsolateDied) as caught:
            async with pool.open_map(range(6)) as results:
                assert [result async for result in results]
        assert caught.value.__notes__ == ["for items[3]: 3"]


def _note_and_raise() -> None:
    error = ValueError("no")
    error.add_note("said by the function,\nin two lines")
    raise error


@within(20)
async def test_a_note_is_said_once() -> None:
    """A note of the function's own is a note of the exception, and no part of the remote traceback's text."""
    with pytest.raises(ValueError, match="no") as caught:
        await run(_note_and_raise)
    note, remote = caught.value.__notes__
    assert note == "said by the function,\nin two lines"
    assert "in _note_and_raise" in remote
    assert remote.endswith("ValueError: no")


@within(20)
async def test_how_often_it_was_tried() -> None:
    """When retries are exhausted, the death says how often the call was tried."""
    async with open_pool(workers=1) as pool:
        with pytest.raises(IsolateDied) as caught:
            await pool.run(_die_at, 3, 3, retries=2)
        assert caught.value.__notes__ == ["tried 3 times"]
        with pytest.raises(IsolateDied) as caught:
            await pool.run(_die_at, 3, 3)
        assert not hasattr(caught.value, "__notes__")


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
        (
            lambda: untyped_run(_yield, 2),
            "its items come as a stream, from open_worker(...).open_stream(...)",
        ),
        (lambda: untyped_run(square, 2, name=3), "name= must be a str, not 3"),
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


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m"])
def test_names_that_cannot_be_shown(name: str) -> None:
    """A name stands in errors, logs and `ps`: an empty one, or one with control characters, is refused."""
    for open_one in (open_worker, open_pool, open_isolate):
        untyped: Any = open_one
        with pytest.raises(ValueError, match=r"^name= must "):
            untyped(abs, name=name)


@within(20)
async def test_generators_are_no_calls() -> None:
    """A generator function where one answer is asked for is refused, with the way to have a stream."""
    async with open_pool(echo, workers=1) as pool, open_worker(echo) as worker:
        untyped: Any = pool
        calls: list[Callable[[], Any]] = [
            lambda: untyped.run(_yield, 1),
            lambda: cast(Any, worker).run(_yield, 1),
            lambda: untyped.map([1], _yield),
            lambda: untyped.broadcast(_yield, 1),
        ]
        for call in calls:
            with pytest.raises(TypeError, match=r"open_worker\(\.\.\.\)\.open_stream"):
                await call()
        with pytest.raises(TypeError, match="open_stream"):
            untyped.open_map([1], _yield)


@pytest.mark.parametrize("handler", [_divide, square, _yield])
@within(20)
async def test_a_handler_that_knows_no_state(handler: Any) -> None:
    """A handler without a parameter for its state is told where the one argument too many comes from."""
    async with open_worker(handler, state=dict) as worker:
        with pytest.raises(TypeError, match="but 2 were given") as caught:
            if handler is _yield:
                async with worker.open_stream(1) as items:
                    await items.receive()
            else:
                await worker.call(1)
        assert caught.value.__notes__[0] == "state= is passed as the first argument"
        with pytest.raises(TypeError) as caught:  # a function that gets no state
            await cast(Any, worker).run(_divide)
        assert "state=" not in "".join(caught.value.__notes__)


@within(20)
async def test_an_error_inside_a_handler_with_state() -> None:
    """What a handler itself raises has nothing to do with its state."""
    async with open_worker(_add_to, state=str) as worker:
        with pytest.raises(TypeError, match="concatenate") as caught:
            await worker.call(1)
        assert "state=" not in "".join(caught.value.__notes__)


@within(20)
async def test_an_isolate_without_calls() -> None:
    """The death of a bare isolate, which runs an entry, does not speak of calls."""
    with pytest.raises(IsolateDied, match=r"SIGKILL") as caught:
        async with open_isolate(_die_at, 3, 3):
            pass
    assert "call" not in str(caught.value)
    assert not caught.value.serves_calls


@within(20)
async def test_no_isolates_left() -> None:
    """In a pool that replaces nobody, each call after the last death says that nobody is left."""
    async with open_pool(workers=1, restart=None, name="p") as pool:
        with pytest.raises(IsolateDied):
            await pool.run(_die_at, 3, 3)
        for _ in range(2):
            with pytest.raises(IsolateDied, match="no call had begun") as caught:
                await pool.run(abs, -1)
            (note,) = caught.value.__notes__
            assert note.startswith("the pool 'p' has no isolates left: with restart=None")


@within(20)
async def test_more_workers_than_can_be() -> None:
    """A number of workers that can only be a slip is refused, at the opening and at a resizing."""
    for open_one in (open_pool, open_json_pool):
        with pytest.raises(
            ValueError, match=r"^workers= must be at most 1024, not 1000000: each is a process$"
        ):
            cast(Any, open_one)(workers=10**6)
    async with open_pool(workers=1) as pool:
        with pytest.raises(ValueError, match=r"^workers= must be at most 1024"):
            await pool.resize(10**6)


def test_more_workers_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor can there be more processes than this one may have files open for them."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    with pytest.raises(ValueError, match=r"^workers= must be at most 28, not 29: .* 256 \(ulimit -n\)$"):
        open_pool(workers=29)
    open_pool(workers=28)
    open_pool(workers=29, engine=InlineEngine())


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
    with pytest.raises(RuntimeError, match=r"^trio_isolates needs Trio"):
        current_default_isolate_limiter()
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
