"""What a recording holds: what happened, in which order, and by whose hand; and what it leaves alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

import contract
import handlers
import stream_handlers
from contract import Kind, those_with
from fifo import Fifo, within
from trio_isolates import (
    ChildSpec,
    IsolateDied,
    ReceivePort,
    Restart,
    SendPort,
    open_actor,
    open_isolate,
    open_pool,
    open_supervisor,
    open_worker,
    run,
)
from trio_isolates._notes import MOST_NUMBERS
from trio_isolates.trace import Event, Life, Trace, record

kind = contract.kind
fifo = contract.fifo
both = pytest.mark.usefixtures("kind")


def of_kind(trace: Trace, *kinds: str) -> list[Event]:
    return [event for event in trace.events if event.kind in kinds]


def kinds_about(trace: Trace, life: Life) -> list[str]:
    return [event.kind for event in trace.events if life.number in (event.source, event.target)]


def double(number: int) -> int:
    return 2 * number


async def double_async(number: int) -> int:
    return 2 * number


@both
@pytest.mark.parametrize("handler", [double, double_async])
@within(20)
async def test_calls(handler: Callable[[int], Any]) -> None:
    """A call is sent, begun, answered and known, in this order by one clock; and each belongs to one span."""
    with record() as trace:
        async with open_worker(handler, name="doubler") as worker:
            assert [await worker.call(n) for n in (1, 2, 3)] == [2, 4, 6]
    main, doubler = trace.lives
    assert (main.name, doubler.name, doubler.parent, doubler.end) == ("main", "doubler", 0, "closed")
    requests, replies = of_kind(trace, "request"), of_kind(trace, "reply")
    assert [event.request for event in requests] == [event.request for event in replies] == [1, 2, 3]
    for request, reply, span in zip(requests, replies, trace.spans, strict=True):
        assert (request.source, request.target, request.label) == (0, 1, handler.__qualname__)
        assert (reply.source, reply.target, reply.label) == (1, 0, "value")
        assert request.arrived is not None and reply.arrived is not None
        assert request.time <= request.arrived <= reply.time < reply.arrived <= trace.seconds
        assert (span.isolate, span.request, span.outcome) == (1, request.request, "value")
        assert (span.start, span.end) == (request.arrived, reply.time)
    assert doubler.ready is not None and doubler.ended is not None
    assert 0 <= doubler.spawned <= doubler.ready <= requests[0].time
    assert replies[-1].time <= doubler.ended <= trace.seconds
    begins = [event.kind for event in trace.events if event.kind not in ("request", "reply")]
    assert begins == ["spawn", "ready", "close", "death"]


@both
@within(20)
async def test_errors() -> None:
    """What a call raised is its outcome; one whose arguments do not arrive has begun and failed as well."""
    with record() as trace:
        async with open_worker(handlers.apply) as worker:
            with pytest.raises(KeyError):
                await worker.call(handlers.raise_it, KeyError)
            with pytest.raises(TypeError):
                await worker.call(*())  # type: ignore[call-overload]
    assert [span.outcome for span in trace.spans] == ["error", "error"]
    assert [event.label for event in of_kind(trace, "reply")] == ["error", "error"]


@both
@within(20)
async def test_values() -> None:
    """If asked for, texts of arguments, results, errors and messages are noted; by default none are."""

    async def use() -> None:
        async with ReceivePort[str]() as port, open_worker(handlers.apply_async) as worker:
            await worker.call(echo_to, port.send_port, "a word")
            await port.receive()
            await worker.run(double, 4)
            with pytest.raises(KeyError):
                await worker.run(handlers.raise_it, KeyError, "lost")

    with record(values=True) as trace:
        await use()
    assert [event.label for event in of_kind(trace, "request")] == [
        "apply_async(function, SendPort, 'a word')",
        "double(4)",
        "raise_it(type, 'lost')",
    ]
    assert [event.label for event in of_kind(trace, "reply")] == [
        "value: None",
        "value: 8",
        "error: KeyError('lost')",
    ]
    assert [event.label for event in of_kind(trace, "message")] == ["'a word'"]
    with record() as trace:
        await use()
    labels = {event.label for event in trace.events}
    assert labels == {"", "apply_async", "double", "raise_it", "value", "error"}


async def echo_to(port: SendPort[Any], *messages: Any) -> None:
    for message in messages:
        await port.send(message)


@those_with("own process")
@within(20)
async def test_death(kind: Kind) -> None:
    """Of a call in which its isolate is killed from outside, the beginning and the end are known."""
    with record() as trace:
        async with open_pool(handlers.apply, workers=1) as pool:
            assert await pool.call(double, 2) == 4
            with pytest.raises(IsolateDied):
                await pool.call(handlers.kill_self)
            assert await pool.call(double, 3) == 6
    _, dead, successor = trace.lives
    assert (dead.end, dead.reason) == ("died", "SIGKILL")
    assert (successor.name, successor.replaces, successor.end) == (dead.name, dead.number, "closed")
    assert [span.outcome for span in trace.spans] == ["value", "died", "value"]
    last = trace.spans[1]
    request = of_kind(trace, "request")[1]
    assert request.arrived == last.start and last.end == dead.ended
    assert [event.request for event in of_kind(trace, "reply")] == [1, 3]
    (restart,) = of_kind(trace, "restart")
    (death, _) = of_kind(trace, "death")
    assert (death.source, death.label, restart.target) == (dead.number, "SIGKILL", successor.number)
    assert death.time <= restart.time


@those_with("own process")
@within(20)
async def test_cancellation(kind: Kind, fifo: Fifo) -> None:
    """A cancelled call shows who wanted it no more, the interrupt, and its end; the isolate lives on."""
    with record() as trace:
        async with open_worker(handlers.apply) as worker, trio.open_nursery() as nursery:
            nursery.start_soon(worker.call, handlers.tell_and_spin, fifo.path)
            await fifo.line()
            nursery.cancel_scope.cancel()
    about = [event.kind for event in trace.events if event.request == 1]
    assert about[:3] == ["request", "cancel", "interrupt"] and "reply" in about
    (span,) = trace.spans
    assert span.outcome == "cancelled" and span.end is not None
    assert of_kind(trace, "cancel")[0].time <= span.end
    assert trace.lives[1].end == "closed"
    assert not of_kind(trace, "kill")


@those_with("own process")
@within(20)
async def test_kill(kind: Kind, fifo: Fifo) -> None:
    """An isolate that is killed because a call does not stop: kill, then death, and no reply."""
    with record() as trace:
        async with open_worker(handlers.apply, cancel_grace=0) as worker, trio.open_nursery() as nursery:
            nursery.start_soon(worker.call, handlers.tell_and_spin, fifo.path)
            await fifo.line()
            nursery.cancel_scope.cancel()
    assert kinds_about(trace, trace.lives[1])[:3] == ["spawn", "ready", "request"]
    assert kinds_about(trace, trace.lives[1])[3:6] == ["cancel", "kill", "death"]
    assert trace.lives[1].end == "killed"
    assert [span.outcome for span in trace.spans] == ["cancelled"] or trace.spans[0].outcome == "died"
    assert not of_kind(trace, "reply")


@both
@pytest.mark.parametrize("handler", [stream_handlers.count, stream_handlers.count_async])
@within(20)
async def test_stream(handler: Callable[..., Any]) -> None:
    """Items of a stream are items, each with when it was sent and received, in order."""
    with record(values=True) as trace:
        async with open_worker(handler) as worker, worker.open_stream(5) as items:
            assert [item async for item in items] == [0, 1, 2, 3, 4]
    items_seen = of_kind(trace, "item")
    assert [event.label for event in items_seen] == ["0", "1", "2", "3", "4"]
    assert not of_kind(trace, "message")
    for event in items_seen:
        assert (event.source, event.target) == (1, 0)
        assert event.arrived is not None and event.time <= event.arrived


async def add_up(home: SendPort[Any]) -> None:
    async with ReceivePort[int]() as port:
        await home.send(port.send_port)
        total = 0
        async for number in port:
            if not number:
                break
            total += number
            await home.send(total)


@both
@within(20)
async def test_messages() -> None:
    """Messages both ways have both their times, in the order in which they were sent."""
    with record(values=True) as trace:
        async with ReceivePort[Any]() as home, open_isolate(add_up, home.send_port) as isolate:
            port = await home.receive()
            for number in (3, 4):
                await port.send(number)
                await home.receive()
            await port.send(0)
            await isolate.wait()
    seen = [(event.source, event.target, event.label) for event in of_kind(trace, "message")]
    assert seen == [
        (1, 0, "SendPort"),
        (0, 1, "3"),
        (1, 0, "3"),
        (0, 1, "4"),
        (1, 0, "7"),
        (0, 1, "0"),
    ]
    times = [time for event in of_kind(trace, "message") for time in (event.time, event.arrived or 0.0)]
    assert all(first <= then for first, then in pairwise(times))


def wait_for(home: SendPort[Any], count: int) -> None:
    port: ReceivePort[int] = ReceivePort()
    home.send_sync(port.send_port)
    for _ in range(count):
        port.receive_sync()


@those_with("blocks")
@within(20)
async def test_waits(kind: Kind) -> None:
    """Sync code that waits for messages is known to do nothing meanwhile."""
    with record() as trace:
        async with ReceivePort[Any]() as home, open_isolate(wait_for, home.send_port, 2) as isolate:
            port = await home.receive()
            for number in range(2):
                await isolate.ping()  # answered where it waits
                await port.send(number)
            await isolate.wait()
    (span,) = trace.spans
    assert span.end is not None
    assert span.waits
    assert all(start <= stop for start, stop in span.waits)
    assert span.start <= span.waits[0][0] and span.waits[-1][1] <= span.end
    for message in of_kind(trace, "message")[1:]:
        assert message.arrived is not None
        assert any(start <= message.arrived for start, _ in span.waits)


@both
@within(20)
async def test_siblings() -> None:
    """A message from one isolate to another has both as its ends, whoever relays it."""
    with record() as trace:
        async with ReceivePort[Any]() as home, open_isolate(add_up, home.send_port) as adder:
            port = await home.receive()
            async with open_worker(echo_to, name="other") as other:
                await other.call(port, 5)
                assert await home.receive() == 5
            await port.send(0)
            await adder.wait()
    direct = [event for event in of_kind(trace, "message") if 0 not in (event.source, event.target)]
    assert [(trace.lives[e.source].name, trace.lives[e.target].name) for e in direct] == [
        ("other", adder.name)
    ]
    assert direct[0].arrived is not None and direct[0].time <= direct[0].arrived


async def delegate(number: int, depth: int) -> int:
    if not depth:
        return 2 * number
    async with open_worker(delegate, name=f"level-{depth}") as worker:
        return await worker.call(number, depth - 1)


@both
@within(30)
async def test_families() -> None:
    """Isolates of isolates are recorded as well, with who started them and who called whom."""
    with record() as trace:
        assert await run(delegate, 5, 2) == 10
    names = [(life.name, life.parent) for life in trace.lives[1:]]
    assert [parent for _, parent in names] == [0, 1, 2]
    assert [name for name, _ in names[1:]] == ["level-2", "level-1"]
    calls = of_kind(trace, "request")
    assert [(event.source, event.target) for event in calls] == [(0, 1), (1, 2), (2, 3)]
    assert all(event.arrived is not None for event in calls)
    ends = [life.ended for life in trace.lives[:0:-1]]
    assert None not in ends and ends == sorted(ends, key=lambda end: end or 0)


@both
@within(20)
async def test_tasks() -> None:
    """An isolate knows in which tasks it was opened, without those of this package and of Trio."""

    async def parse_all() -> None:
        async with open_pool(double, workers=1) as pool:
            await pool.call(1)

    with record() as trace:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parse_all, name="parse all")
    assert trace.lives[1].tasks[-1] == "parse all"
    assert not any("trio_isolates" in name for name in trace.lives[1].tasks)


def finish(port: SendPort[str]) -> None:
    port.send_sync("done")


@those_with("blocks")
@within(20)
async def test_supervisor(kind: Kind) -> None:
    """A child that is started again takes the place of the one that ended."""
    restart = Restart(max_restarts=5, within=60, min_backoff=0, max_backoff=0)
    with record() as trace:
        async with ReceivePort[str]() as port, open_supervisor(restart=restart) as supervisor:
            await supervisor.start(ChildSpec(finish, (port.send_port,)))
            assert [await port.receive() for _ in range(3)] == ["done"] * 3
    assert [life.replaces for life in trace.lives[1:4]] == [None, 1, 2]
    for event, life in zip(of_kind(trace, "restart"), trace.lives[2:4], strict=False):
        assert event.target == life.number
        assert life.ready is not None and event.time <= life.spawned <= life.ready
    assert len({life.name for life in trace.lives[1:]}) == 1


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, number: int) -> int:
        self.count += number
        return self.count


@both
@within(20)
async def test_actor() -> None:
    """The calls of an actor have the names of its methods."""
    with record() as trace:
        async with open_actor(Counter) as counter:
            await counter.add(1)  # type: ignore[misc]
    assert [event.label for event in of_kind(trace, "request")] == ["add"]


@both
@within(20)
async def test_only_those_started_meanwhile() -> None:
    """Isolates that were there before are not recorded; those that outlive the recording, up to its end."""
    async with open_worker(double) as before, AsyncExitStack() as stack:
        with record() as trace:
            await before.call(1)
            worker = await stack.enter_async_context(open_worker(double))
            await worker.call(2)
            assert len(of_kind(trace, "request")) == 1  # it can be looked at meanwhile
        assert await worker.call(3) == 6
        assert await before.call(4) == 8
    _, life = trace.lives
    assert life.end == "alive" and life.ended is None
    assert len(of_kind(trace, "request")) == 1


@within(20)
async def test_one_at_a_time() -> None:
    """A second recording in one process, or of an isolate that is recorded, is refused."""
    with record():
        with pytest.raises(RuntimeError, match="one at a time"), record():
            pass
        with pytest.raises(RuntimeError, match="recorded already"):
            await run(use_record)
    with pytest.raises(TypeError, match="values= must be a bool"), record(values="yes"):  # type: ignore[arg-type]
        pass
    with record() as trace:  # it is over when it is left, by an error as well
        pass
    assert trace.lives == (Life(0, "main", None),)


def use_record() -> None:
    with record():
        pass


def test_around_a_program() -> None:
    """It can be used outside of Trio, around whole runs."""

    async def main() -> int:
        async with open_worker(double) as worker:
            return await worker.call(21)

    with record() as trace:
        assert [trio.run(main), trio.run(main)] == [42, 42]
    assert [life.parent for life in trace.lives] == [None, 0, 0]
    assert [span.outcome for span in trace.spans] == ["value", "value"]


@within(20)
async def test_nothing_when_off() -> None:
    """Without a recording nothing is noted, at home or in the isolate."""
    async with open_worker(is_noted) as worker:
        assert await worker.call() is False
        assert worker._crew.clients[0].isolate.chronicle is None


def is_noted() -> bool:
    from trio_isolates._here import current_exchange

    return current_exchange().notes is not None


@those_with("own process")
@within(20)
async def test_it_stops_when_the_recording_is_over(kind: Kind) -> None:
    """An isolate that outlives a recording writes no more, and keeps nothing that it would write."""
    async with AsyncExitStack() as stack:
        with record():
            worker = await stack.enter_async_context(open_worker(notes_kept))
            await worker.call()
        for _ in range(100):
            count, is_open = await worker.call()
        assert not is_open
    assert count < 1_000


def notes_kept() -> tuple[int, bool]:
    from trio_isolates._here import current_exchange

    notes = current_exchange().notes
    assert notes is not None
    return len(notes.numbers), notes._sheet.is_open  # type: ignore[attr-defined]


@both
@within(20)
async def test_a_call_that_goes_to_another_isolate(fifo: Fifo, tmp_path: Path) -> None:
    """A call that is taken back from one isolate before it begins, and given to another, is one request."""
    with record() as trace:
        async with open_pool(double_async, workers=2) as pool, trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(pool.call, number)
    requests = of_kind(trace, "request")
    assert len(requests) == len({event.request for event in requests}) == 200
    assert all(event.arrived is not None for event in requests)
    assert len(trace.spans) == 200


@those_with("own process")
@within(20)
async def test_messages_outlive_their_sender(kind: Kind) -> None:
    """What an isolate has noted of its messages is there, though it is killed right after."""
    with record() as trace:
        async with ReceivePort[Any]() as home:
            with pytest.raises(IsolateDied):
                async with open_isolate(wait_for, home.send_port, 1) as isolate:
                    await home.receive()
                    await isolate.ping()
                    assert isolate.pid is not None
                    os.kill(isolate.pid, signal.SIGKILL)
                    await isolate.wait()
    assert [(e.kind, e.source) for e in of_kind(trace, "message")] == [("message", 1)]


def test_partial() -> None:
    """The label of a partial is the name of what it calls."""

    async def main() -> None:
        async with open_worker(partial(handlers.apply, double)) as worker:
            await worker.call(1)

    with record() as trace:
        trio.run(main)
    assert [event.label for event in of_kind(trace, "request")] == ["apply"]


def compute_on(home: SendPort[Any]) -> None:
    port: ReceivePort[str] = ReceivePort()
    home.send_sync(port.send_port)
    port.receive_sync()
    handlers.kill_self()


async def compute_on_async(home: SendPort[Any]) -> None:
    async with ReceivePort[str]() as port:
        await home.send(port.send_port)
        await port.receive()
        await trio.lowlevel.checkpoint()
        handlers.kill_self()


@those_with("own process")
@pytest.mark.parametrize("entry", [compute_on, compute_on_async])
@within(20)
async def test_the_message_that_killed_it(kind: Kind, entry: Callable[..., Any]) -> None:
    """The message over which an isolate dies was received, and that is known."""
    with record() as trace:
        async with ReceivePort[Any]() as home:
            with pytest.raises(IsolateDied):
                async with open_isolate(entry, home.send_port) as isolate:
                    await (await home.receive()).send("die")
                    await isolate.wait()
    first, last = of_kind(trace, "message")
    assert (first.source, last.target) == (1, 1)
    assert first.arrived is not None and last.arrived is not None
    assert trace.lives[1].ended is not None and last.arrived <= trace.lives[1].ended


@those_with("own process")
@within(20)
async def test_calls_just_before_a_death(kind: Kind) -> None:
    """Calls that were answered right before the death of their isolate have been run, and that is known."""
    with record() as trace:
        async with open_worker(handlers.apply) as worker:
            for number in range(30):
                await worker.call(double, number)
            with pytest.raises(IsolateDied):
                await worker.call(handlers.kill_self)
    assert [span.outcome for span in trace.spans] == ["value"] * 30 + ["died"]
    assert all(one.end is not None and one.end <= next_one.start for one, next_one in pairwise(trace.spans))
    assert all(event.arrived is not None for event in of_kind(trace, "request"))


@both
@within(20)
async def test_memory_is_bounded() -> None:
    """However much is noted, at home or in an isolate, only so much waits to be packed."""
    with record():
        async with open_worker(double_async) as worker:
            for _ in range(60):
                await worker.run(flood)
                async with trio.open_nursery() as nursery:
                    for number in range(50):
                        nursery.start_soon(worker.call, number)
            chronicle = worker._crew.clients[0].isolate.chronicle
            assert chronicle is not None
            assert len(chronicle.numbers) <= MOST_NUMBERS


def flood() -> None:
    from trio_isolates._here import current_exchange

    notes = current_exchange().notes
    assert notes is not None
    for _ in range(100):
        notes.take((0.0, 0, 0, 0.0))


@both
@within(20)
async def test_messages_to_oneself() -> None:
    """What a program sends to a port of its own goes nowhere, and is not noted."""
    with record() as trace:
        async with ReceivePort[int]() as port:
            await port.send_port.send(1)
            assert await port.receive() == 1
    assert trace.events == ()


async def start_another() -> int:
    return await run(double, 4)


def stay(_: object) -> None: ...


@those_with("own process")
@within(20)
async def test_another_run_in_an_isolate(kind: Kind) -> None:
    """Isolates that are opened by an async function in an isolate of sync code are recorded as well."""
    with record() as trace:
        async with open_worker(stay, name="sync") as worker:
            assert await worker.run(start_another) == 8
    names = [(life.name.partition("-")[0], life.parent) for life in trace.lives]
    assert names == [("main", None), ("sync", 0), ("run", 1)]
    assert [event.source for event in of_kind(trace, "request")] == [0, 1]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@within(20)
async def test_a_forked_child() -> None:
    """A child that is forked in the block, and leaves it, does not end the recording."""
    with record() as trace:
        async with open_worker(double) as worker:
            await worker.call(1)
            child = os.fork()
            if not child:
                try:
                    trace._end()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)  # noqa: ASYNC222  # it ends at once
            await worker.call(2)
    assert len(trace.spans) == 2


@within(20)
async def test_looked_at_by_another_thread() -> None:
    """A thread that looks at the trace while it grows takes nothing from it."""
    with record() as trace:
        async with open_worker(double) as worker, trio.open_nursery() as nursery:

            def look() -> None:
                for _ in range(20):
                    assert len(trace.lives) == 2

            nursery.start_soon(trio.to_thread.run_sync, look)
            for number in range(300):
                await worker.call(number)
    assert len(of_kind(trace, "request")) == len(of_kind(trace, "reply")) == 300


def say(home: SendPort[Any], number: int) -> None:
    home.send_sync(number)


@those_with("own process")
@within(20)
async def test_an_isolate_spoils_its_own_notes_only(kind: Kind) -> None:
    """An isolate that destroys what it was given to write to takes nothing from the others, nor from us."""
    with record() as trace:
        async with (
            ReceivePort[int]() as home,
            open_worker(say, name="good") as good,
            open_worker(say, name="bad") as bad,
        ):
            for number in range(3):
                await good.call(home.send_port, number)
                await bad.call(home.send_port, number)
                await home.receive()
                await home.receive()
            await bad.run(spoil)
    assert [life.end for life in trace.lives] == ["alive", "closed", "closed"]
    assert len(of_kind(trace, "request")) == len(of_kind(trace, "reply")) == 7
    good_number = next(life.number for life in trace.lives if life.name == "good")
    arrived = [event for event in of_kind(trace, "message") if event.source == good_number]
    assert len(arrived) == 3


def spoil() -> None:
    for name in os.listdir("/proc/self/fd"):
        try:
            if "notes" in os.readlink(f"/proc/self/fd/{name}"):
                os.ftruncate(int(name), 1 << 40)
                os.pwrite(int(name), b"x" * 1000, 0)
        except OSError:
            continue
