"""Bare isolates: what may be an entry, what the block waits for, and how each end of it comes out."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import contract
import isolate_handlers as work
import port_handlers
from contract import Entry, Gate, Kind, each_way, those_with
from fifo import wait_gone, within
from trio_isolates import (
    Isolate,
    IsolateDied,
    IsolateSpawnError,
    ReceivePort,
    RemoteError,
    UnsendableError,
    current_isolate,
    open_isolate,
)

kind, gate = contract.kind, contract.gate


ENTRIES: dict[str, Entry | str] = {
    "function": work.send_args,
    "async function": work.send_args_async,
    "lambda": lambda home, *args: home.send_nowait(args) or args,
    "closure": work.closure(1),
    "async closure": work.closure_async(1),
    "partial": partial(work.send_args),
    "partial of async": partial(work.send_args_async),
    "bound method": work.Entry("x").method,
    "async bound method": work.Entry("x").method_async,
    "static method": work.Deep.send,
    "callable object": work.Entry("x"),
    "async callable object": work.AsyncEntry(),
    "name": "isolate_handlers:send_args",
    "name of async": "isolate_handlers:send_args_async",
    "dotted name": "isolate_handlers:Deep.send",
}


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
@within(20)
async def test_any_callable(entry: Entry | str) -> None:
    """An entry is any callable, or the name of one; it gets its arguments, and what it returns is there."""
    port: ReceivePort[Any] = ReceivePort()
    isolate: Isolate[Any]
    async with open_isolate(entry, port.send_port, 1, [2], {"a": 3}) as isolate:
        assert await port.receive() == (1, [2], {"a": 3})
        assert await isolate.wait() == (1, [2], {"a": 3})


@pytest.mark.usefixtures("kind")
@within(20)
async def test_locals_of_the_test() -> None:
    """A function made on the spot, async or not, is an entry, with what it holds."""
    offset = 40

    async def asynchronous(a: int) -> int:
        await trio.lowlevel.checkpoint()
        return a + offset

    async with (
        open_isolate(lambda a: a + offset, 2) as one,
        open_isolate(asynchronous, 3) as other,
    ):
        assert [await one.wait(), await other.wait()] == [42, 43]


# Not to be started.


@pytest.mark.parametrize(
    "entry", [1, None, (x for x in range(3)), pytest.param(lambda: (yield), id="generator")]
)
async def test_no_entry(entry: Any) -> None:
    """What is no function, or a generator function, is refused at once."""
    with pytest.raises(TypeError, match=r"entry must be|entry must not be a generator"):
        open_isolate(entry)


async def test_wrong_options() -> None:
    """Options that mean nothing are refused at once, and so is what does not fit them."""
    with pytest.raises(TypeError, match="on_exit= must be a SendPort"):
        open_isolate(work.who, on_exit=ReceivePort())  # type: ignore[call-arg, call-overload]
    with pytest.raises(TypeError, match="concurrency"):
        open_isolate(work.who, concurrency=1)  # type: ignore[call-overload]
    with pytest.raises((TypeError, ValueError), match="grace"):
        open_isolate(work.who, shutdown_grace=-1)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("name", ["no_such_module:f", "isolate_handlers:no_such_name", "os:name"])
@within(20)
async def test_names_of_nothing(name: str) -> None:
    """A name that cannot be imported, or names no function, is said when the isolate is opened."""
    with pytest.raises(IsolateSpawnError):
        async with open_isolate(name):
            raise AssertionError("it has been opened")


@pytest.mark.usefixtures("kind")
@within(20)
async def test_an_entry_that_cannot_be_sent() -> None:
    """An entry that holds what cannot be pickled is refused before anything is started."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(UnsendableError):
        async with open_isolate(lambda: port):
            raise AssertionError("it has been opened")


@pytest.mark.usefixtures("kind")
@within(20)
async def test_arguments_that_cannot_be_sent() -> None:
    """An argument that cannot be pickled comes out of the block, with its path."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(UnsendableError) as caught:
        async with open_isolate(work.send_args, port.send_port, {"deep": [port]}):
            await trio.sleep_forever()
    assert caught.value.path == "args[1]['deep'][0]"


@each_way(work.send_args, work.send_args_async)
@within(20)
async def test_arguments_that_do_not_arrive(kind: Kind, entry: Entry) -> None:
    """An argument that does not unpickle ends the isolate, and comes out of the block."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(UnsendableError, match="does not want to arrive"):
        async with open_isolate(entry, port.send_port, work.Failing()):
            await trio.sleep_forever()


@those_with("own process")
@within(20)
async def test_a_process_that_does_not_start(kind: Kind) -> None:
    """An isolate that dies while it starts is an `IsolateSpawnError`."""
    entry: Entry = partial(print, ExitOnArrival())
    with pytest.raises(IsolateSpawnError):
        async with open_isolate(entry):
            raise AssertionError("it has been opened")


class ExitOnArrival:
    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (7,)


# Who it is.


@each_way(work.who, work.who_async)
@within(20)
async def test_who_it_is(kind: Kind, entry: Entry) -> None:
    """An isolate knows its name and pid, as its parent does; the program itself is "main"."""
    async with open_isolate(entry, name="worker bee") as isolate:
        name, pid, real = await isolate.wait()
        assert (name, pid) == ("worker bee", isolate.pid) == (isolate.name, isolate.pid)
        assert (real == os.getpid()) == (kind.name == "inline")
    assert (current_isolate().name, current_isolate().pid) == ("main", os.getpid())
    async with open_isolate(entry) as isolate:
        assert (await isolate.wait())[0] == isolate.name


# The block.


@each_way(work.wait_for_the_test, work.wait_for_the_test_async)
@within(20)
async def test_the_block_waits(kind: Kind, entry: Entry, gate: Gate) -> None:
    """Leaving the block normally waits for the entry, as a nursery waits for its children."""
    async with port_handlers.begun(entry, gate.path) as (isolate, _):
        gate.let_pass()
    assert await isolate.wait() == "let pass"
    assert not isolate.statistics().is_running


@each_way(work.fail, work.fail_async)
@within(20)
async def test_the_entry_fails(kind: Kind, entry: Entry) -> None:
    """What the entry raises cancels the body and comes out of the block as itself, in no group."""
    with pytest.raises(ZeroDivisionError, match="early"):
        async with open_isolate(entry, "early"):
            await trio.sleep_forever()
    with pytest.raises(ZeroDivisionError, match="unheard"):
        async with open_isolate(entry, "unheard"):
            pass


@each_way(work.fail, work.fail_async)
@within(20)
async def test_what_wait_raised(kind: Kind, entry: Entry) -> None:
    """What `wait` has raised is not raised again when the block is left; it can be waited for again."""
    async with open_isolate(entry, "heard") as isolate:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError, match="heard"):
                await isolate.wait()


@each_way(work.fail, work.fail_async)
@within(20)
async def test_a_wait_that_was_cancelled_has_raised_nothing(kind: Kind, entry: Entry) -> None:
    """An error that only a cancelled `wait` would have raised comes out of the block."""
    with pytest.raises(ZeroDivisionError, match="late"):
        async with open_isolate(entry, "late", paused=True) as isolate:
            with trio.CancelScope() as scope:
                scope.cancel()
                await isolate.wait()
            assert isolate.pause_token is not None
            isolate.resume(isolate.pause_token)


STOPPED = {
    "receive": work.wait_in_receive,
    "for": work.wait_in_loop,
    "send": work.wait_in_send,
    "compute": work.compute,
    "listen": work.listen,
}
STOPPED_ASYNC = {"sleep": work.sleep, "send": work.sleep_in_send, "listen": work.listen_async}


async def fail_in_body(entry: Entry, marker: Path, grace: float) -> None:
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(KeyError, match="the body") as caught:
        async with open_isolate(entry, port.send_port, marker, shutdown_grace=grace) as isolate:
            assert await port.receive() == "begun"
            if entry is not work.compute:
                await isolate.ping()  # it waits by now
            raise KeyError("the body")
    assert not hasattr(caught.value, "__notes__")
    with pytest.raises((trio.ClosedResourceError, IsolateDied)):
        await isolate.wait()


@those_with("blocks")
@pytest.mark.parametrize("entry", STOPPED.values(), ids=list(STOPPED))
@within(30)
async def test_the_body_fails(kind: Kind, entry: Entry, tmp_path: Path) -> None:
    """When the body fails, a sync entry is interrupted wherever it waits or computes; its clean-up runs."""
    await fail_in_body(entry, tmp_path / "marker", math.inf)
    assert (tmp_path / "marker").read_text() == "interrupted"


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("entry", STOPPED_ASYNC.values(), ids=list(STOPPED_ASYNC))
@within(30)
async def test_the_body_fails_async(entry: Entry, tmp_path: Path) -> None:
    """When the body fails, an async entry is cancelled; its clean-up runs."""
    await fail_in_body(entry, tmp_path / "marker", math.inf)
    assert (tmp_path / "marker").read_text() == "interrupted"


@each_way(work.refuse_to_stop, work.refuse_to_stop_async)
@within(30)
async def test_an_entry_that_does_not_stop(kind: Kind, entry: Entry, tmp_path: Path) -> None:
    """An entry that has not ended within `shutdown_grace` is killed; the body's exception comes out."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(KeyError, match="the body"):
        async with open_isolate(entry, port.send_port, shutdown_grace=0.1) as isolate:
            assert await port.receive() == "begun"
            pid = isolate.pid
            raise KeyError("the body")
    if kind.name == "process":
        assert pid is not None
        await wait_gone(pid)


@each_way(work.wait_in_receive, work.sleep)
@within(20)
async def test_the_block_is_cancelled(kind: Kind, entry: Entry, tmp_path: Path) -> None:
    """A cancellation from outside stops the entry, and goes on its way."""
    port: ReceivePort[Any] = ReceivePort()
    with trio.CancelScope() as scope:
        async with open_isolate(entry, port.send_port, tmp_path / "marker"):
            assert await port.receive() == "begun"
            scope.cancel()
    assert scope.cancelled_caught
    assert (tmp_path / "marker").read_text() == "interrupted"


@pytest.mark.usefixtures("kind")
@within(20)
async def test_what_its_clean_up_raises() -> None:
    """An error of the clean-up of an entry that was stopped is not lost: `wait` raises it."""
    async with port_handlers.begun(work.fail_when_stopped) as (isolate, _):
        await isolate.aclose()
        with pytest.raises(ZeroDivisionError, match="in its clean-up"):
            await isolate.wait()


@pytest.mark.usefixtures("kind")
@within(20)
async def test_what_its_clean_up_raises_besides() -> None:
    """What the entry's clean-up raises is a note if the body failed, and comes out if it was cancelled."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(KeyError, match="the body") as caught:
        async with open_isolate(work.fail_when_stopped, port.send_port):
            assert await port.receive() == "begun"
            raise KeyError("the body")
    assert caught.value.__notes__ == ["besides: ZeroDivisionError: in its clean-up"]
    with pytest.raises(ZeroDivisionError, match="in its clean-up"), trio.CancelScope() as scope:
        async with open_isolate(work.fail_when_stopped, port.send_port):
            assert await port.receive() == "begun"
            scope.cancel()
            await trio.sleep_forever()


@each_way(work.return_unsendable, work.return_unsendable_async)
@within(20)
async def test_a_result_that_cannot_be_sent(kind: Kind, entry: Entry) -> None:
    """A result that cannot be pickled is the entry's error, with its path."""
    with pytest.raises(UnsendableError) as caught:
        async with open_isolate(entry):
            await trio.sleep_forever()
    assert caught.value.path == "result['port']"


@each_way(work.fail_base, work.fail_base_async)
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
@within(20)
async def test_odd_exceptions(kind: Kind, entry: Entry, error: type[BaseException]) -> None:
    """An exception that would end the parent's own program or loop arrives as a `RemoteError`."""
    with pytest.raises(RemoteError, match=error.__name__):
        async with open_isolate(entry, error):
            await trio.sleep_forever()
