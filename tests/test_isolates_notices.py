"""What the parent of an isolate hears of its end and of its errors."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import trio

import contract
import isolate_handlers as work
import port_handlers
from contract import Entry, Kind, counting, each_way
from fifo import within
from trio_isolates import IsolateDied, ReceivePort, RemoteError, UnsendableError, open_isolate

kind = contract.kind

sending = each_way(work.send_args, work.send_args_async)
listening = each_way(work.listen_and_return, work.listen_and_return_async)


# The notice of its end.


@counting
@within(20)
async def test_the_notice_comes_last(kind: Kind, entry: Entry) -> None:
    """The notice of an isolate's end comes after all that it has sent, to the same port and to others."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, 200, on_exit=port.send_port):
        assert [await port.receive() for _ in range(201)] == [*range(200), None]


@sending
@within(20)
async def test_the_notice_of_a_full_port(kind: Kind, entry: Entry) -> None:
    """The notice has a place, whether the port is full or not."""
    port: ReceivePort[Any] = ReceivePort(1)
    async with open_isolate(entry, port.send_port, on_exit=port.send_port):
        pass
    assert [port.receive_nowait() for _ in range(2)] == [(), None]


@sending
@within(20)
async def test_the_message(kind: Kind, entry: Entry) -> None:
    """A notice can be any message; a port that is given twice gets one, the last that was given for it."""
    port: ReceivePort[Any] = ReceivePort()
    other: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, paused=True) as isolate:
        isolate.add_on_exit(port.send_port, "first")
        isolate.add_on_exit(other.send_port, {"gone": port.send_port})
        isolate.add_on_exit(port.send_port, ["last"])
        assert isolate.pause_token is not None
        isolate.resume(isolate.pause_token)
    assert [await port.receive(), await port.receive()] == [(), ["last"]]
    assert await other.receive() == {"gone": port.send_port}
    assert port.statistics().buffered == other.statistics().buffered == 0


@sending
@within(20)
async def test_a_notice_after_the_end(kind: Kind, entry: Entry) -> None:
    """A notice of an isolate that is gone already is sent at once, in the block and after it."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port) as isolate:
        await isolate.wait()
        assert await port.receive() == ()
        isolate.add_on_exit(port.send_port, "too late")
        assert await port.receive() == "too late"
    isolate.add_on_exit(port.send_port)
    assert await port.receive() is None


@sending
@within(20)
async def test_a_notice_that_was_removed(kind: Kind, entry: Entry) -> None:
    """A port that was removed gets no notice; to remove one that is not there does nothing."""
    port: ReceivePort[Any] = ReceivePort()
    other: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, on_exit=port.send_port) as isolate:
        isolate.add_on_exit(other.send_port, "gone")
        isolate.remove_on_exit(port.send_port)
        isolate.remove_on_exit(port.send_port)
    assert await port.receive() == ()
    assert await other.receive() == "gone"
    assert port.statistics().buffered == 0


@sending
@within(20)
async def test_a_notice_that_cannot_be_sent(kind: Kind, entry: Entry) -> None:
    """A notice that cannot be pickled is refused at once, and the one before it stays."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, on_exit=port.send_port) as isolate:
        with pytest.raises(UnsendableError) as caught:
            isolate.add_on_exit(port.send_port, [port])
        assert caught.value.path == "message[0]"
        with pytest.raises(TypeError, match="give a SendPort"):
            isolate.add_on_exit(port)  # type: ignore[arg-type]
    assert [port.receive_nowait() for _ in range(2)] == [(), None]


@sending
@within(20)
async def test_a_notice_that_was_changed(kind: Kind, entry: Entry) -> None:
    """A notice is sent as it was when it was given, whatever becomes of the object afterwards."""
    port: ReceivePort[Any] = ReceivePort()
    message: list[Any] = ["as given"]
    async with open_isolate(entry, port.send_port) as isolate:
        isolate.add_on_exit(port.send_port, message)
        message.append(port)  # which cannot be sent
    assert [await port.receive(), await port.receive()] == [(), ["as given"]]


@each_way(work.fail, work.fail_async)
@within(20)
async def test_the_notice_of_a_failure(kind: Kind, entry: Entry) -> None:
    """The notice comes, once, however the isolate ended: it failed, it was killed, it was closed."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(ZeroDivisionError):
        async with open_isolate(entry, on_exit=port.send_port):
            await trio.sleep_forever()
    assert port.receive_nowait() is None
    async with open_isolate(entry, paused=True, on_exit=port.send_port) as isolate:
        isolate.kill()
    assert port.receive_nowait() is None
    async with open_isolate(entry, paused=True, on_exit=port.send_port) as isolate:
        await isolate.aclose()
        assert port.receive_nowait() is None
    with pytest.raises(KeyError):
        async with open_isolate(entry, paused=True, on_exit=port.send_port):
            raise KeyError
    assert port.receive_nowait() is None
    assert port.statistics().buffered == 0


@sending
@within(20)
async def test_a_notice_to_an_isolate(kind: Kind, entry: Entry) -> None:
    """Another isolate can be told of the end, by a port of its own."""
    async with port_handlers.serving(port_handlers.serve_async) as server:
        async with open_isolate(entry, server.there, "hello") as isolate:
            isolate.add_on_exit(server.there, "it has ended")
        assert [await server.home.receive() for _ in range(2)] == [("hello",), "it has ended"]


# Errors that are fatal.


@each_way(work.fail_deep, work.fail_deep_async)
@within(20)
async def test_the_remote_stack(kind: Kind, entry: Entry) -> None:
    """A fatal error comes with its own frames, and says in which isolate it was raised."""
    with pytest.raises(ZeroDivisionError, match="deep down") as caught:
        async with open_isolate(entry, "deep down", name="digger"):
            await trio.sleep_forever()
    text = "".join(traceback.format_exception(caught.value))
    assert f"in {entry.__name__}" in text
    assert "isolate_handlers.py" in text
    assert "isolate 'digger' (pid" in text


@each_way(work.fail_without_text, work.fail_without_text_async)
@within(20)
async def test_an_error_without_text(kind: Kind, entry: Entry) -> None:
    """An error whose text cannot be made arrives all the same, fatal or not."""
    with pytest.raises((work.NoText, RemoteError)) as caught:
        async with open_isolate(entry):
            await trio.sleep_forever()
    assert getattr(caught.value, "type_name", type(caught.value).__name__).endswith("NoText")
    async with open_isolate(entry, errors_are_fatal=False) as isolate:
        (error,) = [error async for error in isolate.errors]
    assert isinstance(error, (work.NoText, RemoteError))


@each_way(work.listen_and_wait, work.listen_and_wait_async)
@within(20)
async def test_a_handler_that_fails(kind: Kind, entry: Entry) -> None:
    """What a handler in the isolate raises ends the isolate, while the entry waits."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(ValueError, match="1 is odd"):
        async with open_isolate(entry, port.send_port):
            there = await port.receive()
            await there.send(0)
            assert await port.receive() == 0
            await there.send(1)
            await trio.sleep_forever()


@listening
@within(20)
async def test_a_handler_that_fails_alone(kind: Kind, entry: Entry) -> None:
    """What a handler raises ends the isolate, too, when its entry has returned."""
    port: ReceivePort[Any] = ReceivePort()
    with pytest.raises(ValueError, match="3 is odd") as caught:
        async with open_isolate(entry, port.send_port, name="fussy"):
            there = await port.receive()
            await there.send(2)
            assert await port.receive() == 2
            await there.send(3)
            await trio.sleep_forever()
    text = "".join(traceback.format_exception(caught.value))
    assert "in take" in text
    assert "isolate 'fussy'" in text


# Errors that are not.


@each_way(work.fail, work.fail_async)
@within(20)
async def test_an_entry_that_fails_and_is_forgiven(kind: Kind, entry: Entry) -> None:
    """With `errors_are_fatal=False` an entry's error goes to `errors`, and the isolate ends well."""
    async with open_isolate(entry, "forgiven", errors_are_fatal=False, name="lucky") as isolate:
        error = await isolate.errors.receive()
        assert isinstance(error, ZeroDivisionError)
        assert error.args == ("forgiven",)
        text = "".join(traceback.format_exception(error))
        assert "isolate 'lucky'" in text
        assert "in fail" in text
        assert await isolate.wait() is None
        with pytest.raises(trio.EndOfChannel):
            await isolate.errors.receive()
    assert isolate.statistics().errors == 1


@each_way(work.listen_then_fail, work.listen_then_fail_async)
@within(20)
async def test_it_goes_on_without_its_entry(kind: Kind, entry: Entry) -> None:
    """An isolate whose entry was forgiven goes on while a handler keeps it alive."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, errors_are_fatal=False) as isolate:
        there = await port.receive()
        assert isinstance(await isolate.errors.receive(), ZeroDivisionError)
        await there.send(2)
        assert await port.receive() == 2
        await there.send("stop")
        await isolate.wait()


@listening
@within(20)
async def test_a_handler_that_is_forgiven(kind: Kind, entry: Entry) -> None:
    """A handler that was forgiven is called again; each of its errors arrives, in order, with its stack."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, errors_are_fatal=False) as isolate:
        there = await port.receive()
        for number in range(6):
            await there.send(number)
            if number % 2 == 0:
                assert await port.receive() == number
        await there.send("stop")
        assert await isolate.wait() == "returned"
        errors = [error async for error in isolate.errors]
    assert [str(error) for error in errors] == ["1 is odd", "3 is odd", "5 is odd"]
    assert all("in take" in "".join(traceback.format_exception(error)) for error in errors)
    assert isolate.statistics().errors == 3


@listening
@within(20)
async def test_more_errors_than_are_kept(
    kind: Kind, entry: Entry, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors that nobody takes are kept up to 1,024, the others printed; all are counted."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(entry, port.send_port, errors_are_fatal=False) as isolate:
        there = await port.receive()
        for number in range(1026):
            await there.send(2 * number + 1)
        await there.send("stop")
        await isolate.wait()
        assert len([error async for error in isolate.errors]) == 1024
    assert isolate.statistics().errors == 1026
    assert "2049 is odd" in (printed := capsys.readouterr().err)
    assert "2051 is odd" in printed
    assert "2047 is odd" not in printed


@each_way(work.fail, work.fail_async)
@within(20)
async def test_errors_that_nobody_takes(kind: Kind, entry: Entry) -> None:
    """Errors that nobody takes harm nobody, and can be taken when the block has been left."""
    async with open_isolate(entry, "later", errors_are_fatal=False) as isolate:
        pass
    (error,) = [error async for error in isolate.errors]
    assert str(error) == "later"


@each_way(work.exit_quietly, work.exit_quietly_async)
@within(20)
async def test_death_is_an_error_still(kind: Kind, entry: Entry) -> None:
    """`errors_are_fatal=False` forgives errors: that an isolate was killed is told as ever."""
    async with open_isolate(entry, paused=True, errors_are_fatal=False) as isolate:
        isolate.kill()
        with pytest.raises(IsolateDied):
            await isolate.wait()
        assert [error async for error in isolate.errors] == []
