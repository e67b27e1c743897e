"""Dart's page on isolates, executed: the robust ports example, each step of it, and the whole class."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import outcome
import psutil
import pytest
import trio
import trio.testing
from attrs import define, field

import contract
import dart_page as page
from contract import Gate, Kept
from fifo import Fifo, within
from trio_isolates import (
    Isolate,
    IsolateDied,
    RawReceivePort,
    ReceivePort,
    RemoteError,
    SendPort,
    open_isolate,
)

fifo, gate = contract.fifo, contract.gate

all_entries = pytest.mark.parametrize(
    "entry",
    [
        pytest.param(page.start_robust, id="sync"),
        pytest.param(page.start_robust_listening, id="listening"),
        pytest.param(page.start_robust_async, id="async"),
    ],
)


@define
class Completer:
    """Dart's: an event, and what it brings."""

    _is_complete: trio.Event = field(factory=trio.Event)
    _result: outcome.Outcome[Any] = field(factory=lambda: outcome.Value(None))

    def complete(self, value: Any) -> None:
        self._result = outcome.Value(value)
        self._is_complete.set()

    def complete_error(self, error: BaseException) -> None:
        self._result = outcome.Error(error)
        self._is_complete.set()

    async def future(self) -> Any:
        await self._is_complete.wait()
        return self._result.unwrap()


class Worker:
    """The page's class, member for member; but `spawn` is a block, and a request can be given up."""

    def __init__(self, responses: ReceivePort[Any], commands: SendPort[Any], isolate: Isolate[Any]) -> None:
        self.isolate = isolate  # on the page it is forgotten
        self._responses = responses
        self._commands = commands
        self._active_requests: dict[int, Completer] = {}
        self._id_counter = 0
        self._closed = False

    async def parse_json(self, message: str) -> Any:
        if self._closed:
            raise trio.ClosedResourceError("Closed")
        completer = Completer()
        number = self._id_counter
        self._id_counter += 1
        self._active_requests[number] = completer
        try:
            await self._commands.send((number, message))
            return await completer.future()
        finally:
            self._active_requests.pop(number, None)  # given up
            self._close_if_done()

    @classmethod
    @asynccontextmanager
    async def spawn(cls, entry: Callable[..., Any]) -> AsyncIterator[Worker]:
        # Create a port and give it its first handler.
        init_port = RawReceivePort()
        connection = Completer()

        def handle_initial_message(command_port: SendPort[Any]) -> None:
            connection.complete((ReceivePort.from_raw(init_port), command_port))

        init_port.handler = handle_initial_message

        # Spawn the isolate.
        try:
            async with open_isolate(entry, init_port.send_port) as isolate:
                receive_port, send_port = await connection.future()
                worker = cls(receive_port, send_port, isolate)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(worker._handle_responses_from_isolate)
                    nursery.start_soon(worker._handle_end)
                    yield worker
                    worker.close()
        finally:
            init_port.close()

    async def _handle_responses_from_isolate(self) -> None:
        async for number, response in self._responses:
            completer = self._active_requests.pop(number, None)
            if completer is None:
                continue
            if isinstance(response, RemoteError):
                completer.complete_error(response)
            else:
                completer.complete(response)
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._closed and not self._active_requests:
            self._responses.close()

    async def _handle_end(self) -> None:
        """Not on the page, which has nothing that would tell those who wait."""
        try:
            await self.isolate.wait()
        except Exception as exc:
            self._closed = True
            for completer in self._active_requests.values():
                completer.complete_error(exc)
            self._responses.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._commands.send_nowait("shutdown")
            self._close_if_done()
            print("--- port closed ---")


# The steps.


@all_entries
@within(20)
async def test_handshake(entry: Callable[..., Any]) -> None:
    """Steps 2 and 3: a raw port with an assigned handler, which becomes the ReceivePort of the answers."""
    seen: list[object] = []
    connected = trio.Event()

    def handle(message: object) -> None:
        seen.append(message)
        seen.append(ReceivePort.from_raw(init_port))
        connected.set()

    init_port = RawReceivePort()
    assert init_port.handler is None
    init_port.handler = handle
    send_port = init_port.send_port
    async with open_isolate(entry, send_port):
        await connected.wait()
        commands, responses = seen
        assert isinstance(commands, SendPort) and isinstance(responses, ReceivePort)
        assert responses.send_port == send_port
        await commands.send((0, '{"key":"value"}'))
        assert await responses.receive() == (0, {"key": "value"})
        await commands.send((1, "[]"))
        await commands.send("shutdown")
    assert responses.receive_nowait() == (1, [])
    assert len(seen) == 2
    with pytest.raises(trio.ClosedResourceError):
        init_port.send_port
    responses.close()


@all_entries
@within(20)
async def test_ids(entry: Callable[..., Any]) -> None:
    """Steps 4 and 5: an answer has the id of its command, and what cannot be parsed is a RemoteError."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port):
        commands = await port.receive()
        await commands.send((7, "[1]"))
        await commands.send((7000, "no JSON"))
        await commands.send((8, "null"))
        assert await port.receive() == (7, [1])
        number, error = await port.receive()
        assert number == 7000 and type(error) is RemoteError
        assert (error.type_name, error.text[:15]) == ("JSONDecodeError", "Expecting value")
        assert await port.receive() == (8, None)
        await commands.send("shutdown")


@all_entries
@within(20)
async def test_shutdown(entry: Callable[..., Any]) -> None:
    """Step 6: "shutdown" closes the isolate's port, what had been sent is answered, and the isolate ends."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port) as isolate:
        commands = await port.receive()
        for number in range(10):
            await commands.send((number, str(number)))
        await commands.send("shutdown")
        await isolate.wait()
        assert [port.receive_nowait() for _ in range(10)] == [(number, number) for number in range(10)]
        assert isolate.pid is not None and not psutil.pid_exists(isolate.pid)
        with pytest.raises(trio.BrokenResourceError):
            await commands.send((10, "10"))


@within(20)
async def test_order_of_what_a_handler_gets(fifo: Fifo, gate: Gate) -> None:
    """A handler gets messages in the order of sending, also those that come while it blocks to answer one."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(page.answer_in_order, port.send_port, fifo.path, gate.path):
        commands = await port.receive()
        await commands.send("hold")
        assert await fifo.line() == "begun"
        await commands.send("wait")  # these two are read together
        await commands.send("second")
        gate.let_pass()
        assert await fifo.line() == "begun"
        await commands.send("last")
        gate.let_pass()
        assert [await port.receive() for _ in range(3)] == ["wait", "second", "last"]


# The whole.


@all_entries
@within(20)
async def test_program(entry: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The program of the robust ports example, with the same output."""
    async with Worker.spawn(entry) as worker:
        await page.print_answers(worker.parse_json)
        worker.close()
    assert capsys.readouterr().out.splitlines() == [*page.PRINTED, "--- port closed ---"]


@all_entries
@within(20)
async def test_close(entry: Callable[..., Any]) -> None:
    """After `close` there are no new requests; those made before it are answered; a second one is nothing."""
    async with Worker.spawn(entry) as worker, trio.open_nursery() as nursery:
        answers = Kept(nursery)
        for number in range(20):
            answers.start(worker.parse_json, str(number))
        await trio.testing.wait_all_tasks_blocked()
        worker.close()
        worker.close()
        with pytest.raises(trio.ClosedResourceError, match="Closed"):
            await worker.parse_json("1")
    assert sorted(answer.unwrap() for answer in answers.outcomes) == list(range(20))


@all_entries
@within(20)
async def test_error_among_others(entry: Callable[..., Any]) -> None:
    """A text that cannot be parsed is the error of its own request; the worker goes on."""
    async with Worker.spawn(entry) as worker:
        with pytest.raises(RemoteError, match="JSONDecodeError: Expecting value"):
            await worker.parse_json("no JSON")
        assert await worker.parse_json("1") == 1


@all_entries
@within(20)
async def test_many_at_once(entry: Callable[..., Any]) -> None:
    """More requests at once than have room on their way, in both directions: each gets its own answer."""
    found: dict[int, Any] = {}

    async def ask(number: int) -> None:
        found[number] = await worker.parse_json(f'["{number}"]')

    async with Worker.spawn(entry) as worker, trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(ask, number)
    assert found == {number: [str(number)] for number in range(300)}


# What the page leaves open, of its own class.


@all_entries
@within(20)
async def test_malformed_command(entry: Callable[..., Any]) -> None:
    """A command that is no pair ends the isolate, and its block is told; in Dart all wait for ever."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(TypeError, match="unpack"):
        async with open_isolate(entry, port.send_port):
            commands = await port.receive()
            await commands.send(1)
            await port.receive()


@within(20)
async def test_malformed_command_is_not_fatal() -> None:
    """With errors that are not fatal, as Dart can have them, it goes to `errors`; the worker goes on."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(page.start_robust_listening, port.send_port, errors_are_fatal=False) as isolate:
        commands = await port.receive()
        await commands.send(1)
        error = await isolate.errors.receive()
        assert type(error) is TypeError and "in handle_command" in "".join(error.__notes__)
        await commands.send((1, "1"))
        assert await port.receive() == (1, 1)
        await commands.send("shutdown")


@all_entries
@within(20)
async def test_death_with_requests_pending(entry: Callable[..., Any]) -> None:
    """The isolate dies with requests pending: by one task more in the class, each of them is told."""
    async with Worker.spawn(entry) as worker, trio.open_nursery() as nursery:
        assert await worker.parse_json("1") == 1
        worker.isolate.pause()
        answers = Kept(nursery)
        for number in range(5):
            answers.start(worker.parse_json, str(number))
        await trio.testing.wait_all_tasks_blocked()
        assert worker.isolate.pid is not None
        os.kill(worker.isolate.pid, signal.SIGKILL)
    assert [type(error) for error in answers.errors] == [IsolateDied] * 5


@all_entries
@within(20)
async def test_cancel_one_request(entry: Callable[..., Any]) -> None:
    """One request is given up after it was sent; those beside it, and after it, have their answers."""

    async def give_up(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await worker.parse_json("2")
            pytest.fail("it was answered")

    async with Worker.spawn(entry) as worker, trio.open_nursery() as nursery:
        token = worker.isolate.pause()
        answers = Kept(nursery)
        answers.start(worker.parse_json, "1")
        scope = await nursery.start(give_up)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        answers.start(worker.parse_json, "3")
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught and not answers.outcomes
        worker.isolate.resume(token)
    assert sorted(answer.unwrap() for answer in answers.outcomes) == [1, 3]


@pytest.mark.parametrize(
    "entry", [page.fail_before_the_handshake, page.fail_before_the_handshake_async], ids=["sync", "async"]
)
@within(20)
async def test_fails_before_the_handshake(entry: Callable[..., Any]) -> None:
    """The class's `spawn`, whose isolate raises before it answers, raises that; in Dart it never returns."""
    with pytest.raises(FileNotFoundError, match="no such model"):
        async with Worker.spawn(entry):
            pytest.fail("there was no handshake")
