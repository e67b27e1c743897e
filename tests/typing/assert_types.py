"""What type checkers know of the public API: checked by mypy and pyright, never run."""

from __future__ import annotations

import json
import operator
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, assert_type

import trio

from trio_isolates import (
    Capability,
    Child,
    ChildSpec,
    ChildStatistics,
    CurrentIsolate,
    Isolate,
    IsolateStatistics,
    JsonDocument,
    JsonLines,
    JsonPool,
    JsonPoolStatistics,
    Pool,
    PortStatistics,
    RawReceivePort,
    ReceivePort,
    Restart,
    SendPort,
    Supervisor,
    SupervisorSpec,
    SupervisorStatistics,
    Worker,
    actor_method,
    actor_worker,
    current_isolate,
    exit_isolate,
    open_actor,
    open_isolate,
    open_json_pool,
    open_pool,
    open_supervisor,
    open_worker,
    report_progress,
    run,
    run_isolate,
)


def length(text: str, /) -> int:
    return len(text)


async def fetch(url: str, tries: int = 1) -> bytes:
    await trio.sleep(tries)
    return url.encode()


class Connection:
    def query(self, sql: str) -> list[int]:
        return [len(sql)]


def connect() -> Connection:
    return Connection()


async def connect_slowly() -> Connection:
    return Connection()


def query(connection: Connection, sql: str) -> list[int]:
    return connection.query(sql)


async def query_slowly(connection: Connection, sql: str, limit: int) -> dict[str, int]:
    return {sql: limit}


def hang_up(connection: Connection) -> None:
    print(connection)


def lines(path: str, limit: int = 10) -> Iterator[str]:
    yield path * limit


async def lines_slowly(path: str) -> AsyncIterator[bytes]:
    yield path.encode()


def count(home: SendPort[int], limit: int) -> str:
    report_progress(limit)
    for number in range(limit):
        home.send_sync(number)
    return "done"


async def count_slowly(home: SendPort[int], limit: int) -> list[int]:
    await home.send(limit)
    return [limit]


async def a_function_run_alone() -> None:
    assert_type(await run(length, "x"), int)
    assert_type(await run(fetch, "x", 1), bytes)
    assert_type(await run(operator.truth, 1, name="truth"), bool)
    await run(length, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def a_worker_knows_its_handler() -> None:
    async with open_worker(length) as worker:
        assert_type(worker, Worker[[str], int])
        assert_type(await worker.call("x"), int)
        assert_type(await worker.run(fetch, "x", 2), bytes)
        await worker.call(1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    async with open_worker(fetch, concurrency=3) as fetcher:
        assert_type(await fetcher.call("x", tries=2), bytes)
    async with open_worker(json.loads) as parser:
        assert_type(await parser.call("{}"), Any)
        await parser.call()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    async with open_worker() as anything:
        assert_type(await anything.run(length, "x"), int)
    async with open_worker("json:loads") as named:
        assert_type(await named.call("{}"), Any)
    async with open_worker(lambda: 3) as three:
        assert_type(await three.call(), int)


async def state_is_not_an_argument_of_call() -> None:
    async with open_worker(query, state=connect, teardown=hang_up) as database:
        assert_type(await database.call("select 1"), list[int])
    async with open_worker(query_slowly, state=connect_slowly, concurrency=2) as slow:
        assert_type(await slow.call("select 1", 2), dict[str, int])
    async with open_pool(query, state=connect, workers=2) as pool:
        assert_type(await pool.call("select 1"), list[int])


async def a_process_is_set_up(port: ReceivePort[int]) -> None:
    changes: dict[str, str | None] = {"A": "1", "B": None}
    assert_type(await run(length, "x", nice=5, cpu_affinity={0}, env=changes, cwd=Path(), threads=1), int)
    async with open_worker(length, nice=None, cpu_affinity=range(2), env={"A": "1"}, cwd="/") as worker:
        assert_type(await worker.call("x"), int)
    async with open_pool(query, state=connect, threads=2, env={"B": None}) as pool:
        assert_type(await pool.call("select 1"), list[int])
    async with open_isolate(count, port.send_port, 3, nice=5, env=changes, threads=1) as isolate:
        assert_type(await isolate.wait(), str)
    open_worker(length, nice="5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    open_pool(length, env={"A": 1})  # type: ignore[arg-type, dict-item]  # pyright: ignore[reportArgumentType]
    open_isolate(count, port.send_port, 3, cwd=1)  # type: ignore[call-arg, call-overload]  # pyright: ignore[reportArgumentType]


async def a_pool_knows_its_handler() -> None:
    async with open_pool(length, workers=2) as pool:
        assert_type(pool, Pool[[str], int])
        assert_type(await pool.call("x"), int)
        assert_type(await pool.map(["x"]), list[int])
        assert_type(await pool.map([1, 2], str), list[str])
        assert_type(await pool.map(["x"], fetch), list[bytes])
        assert_type(await pool.broadcast(length, "x"), list[int])
        assert_type(await pool.run(length, "x"), int)
        async with pool.open_map(["x"]) as lengths:
            async for one in lengths:
                assert_type(one, int)
        async with pool.open_map(["x"], fetch) as pages:
            async for page in pages:
                assert_type(page, bytes)


async def a_port_knows_its_messages() -> None:
    port = ReceivePort[int](8)
    assert_type(port, ReceivePort[int])
    assert_type(port.send_port, SendPort[Any])  # what is received may be covariant, or what is sent known
    assert_type(await port.receive(), int)
    assert_type(port.receive_nowait(), int)
    assert_type(port.receive_sync(), int)
    assert_type(port.statistics(), PortStatistics)
    async for message in port:
        assert_type(message, int)
    for message in port:
        assert_type(message, int)


async def a_send_port_knows_what_it_takes(home: SendPort[int]) -> None:
    await home.send(1)
    await home.send("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    home.send_nowait("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    home.send_sync("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_port_is_a_channel(port: ReceivePort[bool], home: SendPort[float]) -> None:
    wider: ReceivePort[int] = port
    receiving: trio.abc.ReceiveChannel[bool] = port
    narrower: SendPort[int] = home
    sending: trio.abc.SendChannel[float] = home
    wrong: SendPort[str] = home  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(wider, receiving, narrower, sending, wrong)


def a_raw_port_becomes_a_port() -> None:
    raw = RawReceivePort(print)
    raw.handler = None
    raw.handler = 3  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    assert_type(raw.send_port, SendPort[Any])
    assert_type(ReceivePort.from_raw(raw), ReceivePort[Any])


async def an_isolate_knows_its_entry(port: ReceivePort[int]) -> None:
    async with open_isolate(count, port.send_port, 3) as isolate:
        assert_type(isolate, Isolate[str])
        assert_type(await isolate.wait(), str)
        token = isolate.pause()
        assert_type(token, Capability)
        isolate.resume(token)
        isolate.resume(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        isolate.add_on_exit(port.send_port, "gone")
        isolate.add_on_exit(port)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert_type(await isolate.errors.receive(), BaseException)
        assert_type(isolate.statistics(), IsolateStatistics)
    async with open_isolate(count_slowly, port.send_port, 3, paused=True, name="slow") as slow:
        assert_type(await slow.wait(), list[int])
        assert_type(slow.pause_token, Capability | None)
    async with open_isolate("package.module:function", 1, "x") as named:
        assert_type(await named.wait(), Any)
    open_isolate(count, port.send_port)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    open_isolate(count, port.send_port, "x")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue, reportArgumentType]
    open_isolate(count, port, 3)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue, reportArgumentType]


class Counter:
    def __init__(self, total: int, step: int = 1) -> None:
        self.total = total * step

    def add(self, number: int, *, twice: bool = False) -> int:
        return number * (1 + twice)

    def known(self) -> list[int]:
        return [self.total]

    def all(self, more: int) -> Iterator[int]:
        yield more

    async def all_slowly(self) -> AsyncIterator[bytes]:
        yield b""

    async def fetch(self, url: str) -> bytes:
        return url.encode()

    async def count_slowly(self, limit: int = 1) -> str:
        return str(limit)


class Default:
    def __init__(self, total: int = 0, *, step: int = 1) -> None:
        self.total = total * step


async def an_actor_is_typed_as_its_class() -> None:
    async with open_actor(Counter, 1, 2, name="counter", concurrency=2) as actor:
        assert_type(actor, Counter)
        assert_type(await actor.fetch("x"), bytes)
        assert_type(await actor.count_slowly(), str)
        await actor.fetch(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await actor.fetsh("x")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        assert_type(actor_worker(actor), Worker[..., Any])
    async with open_actor(Default) as default:
        assert_type(default, Default)
    async with open_actor(partial(Default, step=2), 1) as stepped:
        assert_type(stepped, Default)
    open_actor(Counter)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_actor(Counter, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_actor(Counter, 1, step=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    open_actor(Counter, 1, state=connect)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def what_the_other_methods_of_an_actor_are() -> None:
    async with open_actor(Counter, 1) as actor:
        await actor.add(1)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
        assert_type(await actor_method(actor.add)(1, twice=True), int)
        assert_type(await actor_method(actor.known)(), list[int])
        assert_type(await actor_method(actor.fetch)("x"), bytes)
        await actor_method(actor.add)("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await actor_method(actor.add)(1, thrice=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        async with actor_method(actor.all)(3) as items:
            assert_type(items, trio.abc.ReceiveChannel[int])
            async for item in items:
                assert_type(item, int)
        async with actor_method(actor.all_slowly)() as slow_items:
            assert_type(await slow_items.receive(), bytes)


async def an_isolate_as_a_task(port: ReceivePort[int]) -> None:
    async with trio.open_nursery() as nursery:
        isolate: Isolate[str] = await nursery.start(partial(run_isolate, name="x"), count, port.send_port, 3)
        assert_type(await isolate.wait(), str)


async def a_stream_knows_its_items() -> None:
    async with open_worker(lines) as worker, open_pool(lines_slowly) as pool:
        async with worker.open_stream("x", limit=3) as items:
            assert_type(items, trio.abc.ReceiveChannel[str])
            async for item in items:
                assert_type(item, str)
        async with pool.open_stream("x") as slow_items:
            assert_type(await slow_items.receive(), bytes)


async def a_call_with_progress() -> None:
    async with open_worker(length) as worker, open_pool(fetch) as pool:
        assert_type(await worker.call("x", on_progress=print), int)
        assert_type(await pool.call("x", on_progress=print), bytes)
        assert_type(await worker.call("x", on_progress=None), int)


async def a_json_pool_knows_its_types() -> None:
    async with open_json_pool(2, decoder="stdlib", max_bytes=1 << 20) as pool:
        assert_type(pool, JsonPool)
        assert_type(await pool.parse("[]"), Any)
        assert_type(await pool.parse(b"[]", select="a"), Any)
        assert_type(await pool.parse(b"[]", type=Connection), Connection)
        assert_type(await pool.parse(b"[]", type=list[Connection]), list[Connection])
        assert_type(await pool.parse_file("x", transform=length), int)
        assert_type(await pool.parse_file(Path("x"), type=Connection, retries=1), Connection)
        assert_type(await pool.dumps({}), bytes)
        async with pool.open_lines("x", type=Connection, ordered=False) as rows:
            assert_type(rows, JsonLines[Connection])
            async for row in rows:
                assert_type(row, Connection)
        async with pool.open_lines(Path("x"), type=Connection, reduce=len) as counts:
            assert_type(await anext(counts), int)
        async with pool.open_lines("x", select="a", return_errors=True) as anything:
            assert_type(await anext(anything), Any)
        document = await pool.load(b"[]")
        assert_type(document, JsonDocument)
        assert_type(len(document), int)
        assert_type(await document.keys(), list[str])
        assert_type(pool.statistics(), JsonPoolStatistics)
    open_json_pool(decoder="simdjson")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def inside_of_an_isolate(home: SendPort[str]) -> None:
    assert_type(current_isolate(), CurrentIsolate)
    exit_isolate(home, "bye")


async def a_supervisor_knows_its_children(port: ReceivePort[int]) -> None:
    spec = ChildSpec(count, (port.send_port, 3), restart="transient", shutdown=1, name="counter")
    async with open_supervisor("rest_for_one", Restart(max_restarts=1)) as supervisor:
        assert_type(supervisor, Supervisor)
        child = await supervisor.start(spec)
        assert_type(child, Child)
        assert_type(child.isolate, Isolate[Any] | None)
        assert_type(child.supervisor, Supervisor | None)
        assert_type(child.statistics(), ChildStatistics)
        assert_type(supervisor.children(), tuple[ChildStatistics, ...])
        assert_type(supervisor.statistics(), SupervisorStatistics)
        tree = SupervisorSpec([spec, SupervisorSpec()], strategy="one_for_all", policy=Restart())
        assert_type(await supervisor.start(tree), Child)
    ChildSpec("package.module:function", (1, "x"))
    ChildSpec(a_function_run_alone)
    ChildSpec(count, (port.send_port,))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    ChildSpec(count)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    ChildSpec(fetch, ("x",), restart="always")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    open_supervisor("all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
