"""Dart's page on isolates, executed: what `open_worker` has in the place of the robust example's class."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import trio
import trio.testing

import contract
import dart_page as page
from contract import Gate, Kept
from fifo import Fifo, within
from trio_isolates import IsolateDied, IsolateSpawnError, open_worker

fifo, gate = contract.fifo, contract.gate

both_handlers = pytest.mark.parametrize(
    "handler", [page.parse_or_wait, page.parse_or_wait_async], ids=["sync", "async"]
)


@within(20)
async def test_worker_program(capsys: pytest.CaptureFixture[str]) -> None:
    """The same program with `open_worker`, which leaves nothing of the class to be written."""
    async with open_worker(json.loads) as worker:
        await page.print_answers(worker.call)
    assert capsys.readouterr().out.splitlines() == page.PRINTED
    with pytest.raises(trio.ClosedResourceError, match="closed"):
        await worker.call("1")


@both_handlers
@within(20)
async def test_worker_dies(handler: Callable[..., Any], fifo: Fifo, gate: Gate) -> None:
    """The worker dies with requests pending: each caller gets IsolateDied, also who comes later."""
    async with open_worker(handler) as worker:
        async with trio.open_nursery() as nursery:
            answers = Kept(nursery)
            for _ in range(3):
                answers.start(worker.call, '"wait"', fifo.path, gate.path)
            assert await fifo.line() == "begun"
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
        assert [type(error) for error in answers.errors] == [IsolateDied] * 3
        assert {getattr(error, "signal", None) for error in answers.errors} == {"SIGKILL"}
        with pytest.raises(IsolateDied):
            await worker.call("1", fifo.path, gate.path)


@both_handlers
@within(20)
async def test_worker_malformed_command(handler: Callable[..., Any], fifo: Fifo, gate: Gate) -> None:
    """A malformed command is the error of its sender: the worker is the same afterwards."""
    async with open_worker(handler) as worker:
        pid = worker.pid
        unchecked: Any = worker
        with pytest.raises(TypeError, match="missing 3 required positional arguments"):
            await unchecked.call()
        with pytest.raises(TypeError, match="the JSON object must be str"):
            await unchecked.call(1, fifo.path, gate.path)
        assert await worker.call("1", fifo.path, gate.path) == 1
        assert worker.pid == pid


@both_handlers
@within(20)
async def test_worker_remote_stack(handler: Callable[..., Any], fifo: Fifo, gate: Gate) -> None:
    """What cannot be parsed comes as itself, with the isolate's frames; on the page their place is empty."""
    async with open_worker(handler) as worker:
        with pytest.raises(json.JSONDecodeError) as caught:
            await worker.call("no JSON", fifo.path, gate.path)
    error = caught.value
    assert (error.doc, error.pos) == ("no JSON", 0)
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert handler.__name__ in names and names[-1] == "raw_decode"
    assert f"in {handler.__name__}" in "".join(error.__notes__)


@both_handlers
@within(20)
async def test_worker_close_is_awaited(handler: Callable[..., Any], fifo: Fifo, gate: Gate) -> None:
    """Closing can be awaited: the request before it is answered, and then the isolate is gone."""
    async with open_worker(handler) as worker, trio.open_nursery() as nursery:
        answers = Kept(nursery)
        answers.start(worker.call, '["last"]', fifo.path, gate.path)
        await trio.testing.wait_all_tasks_blocked()
        pid = worker.pid
        assert pid is not None and psutil.pid_exists(pid)
        await worker.aclose()
        assert not psutil.pid_exists(pid)
        with pytest.raises(trio.ClosedResourceError):
            await worker.call("1", fifo.path, gate.path)
    assert [answer.unwrap() for answer in answers.outcomes] == [["last"]]


@both_handlers
@within(20)
async def test_worker_cancel_one_request(handler: Callable[..., Any], fifo: Fifo, gate: Gate) -> None:
    """One request is cancelled while it is served: it is stopped, and those behind it are answered."""
    async with open_worker(handler) as worker, trio.open_nursery() as nursery:
        pid = worker.pid
        answers = Kept(nursery)
        cancelled = await contract.cancel_when_begun(fifo, worker.call, '"wait"', fifo.path, gate.path)
        for number in range(3):
            answers.start(worker.call, str(number), fifo.path, gate.path)
    assert cancelled is None
    assert sorted(answer.unwrap() for answer in answers.outcomes) == [0, 1, 2]
    assert worker.statistics().cancelled == 1
    assert pid is not None and not psutil.pid_exists(pid)


@within(20)
async def test_worker_that_does_not_start() -> None:
    """What is to be there before the first request fails: the opening says so, and nobody waits."""
    with pytest.raises(IsolateSpawnError) as caught:
        async with open_worker(json.loads, init=fail_to_start):
            pytest.fail("it was opened")
    assert type(caught.value.__cause__) is FileNotFoundError


def fail_to_start() -> None:
    raise FileNotFoundError("no such model")
