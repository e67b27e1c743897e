"""What type checkers know of the public API: checked by mypy and pyright, never run."""

from __future__ import annotations

import json
import operator
from typing import Any, assert_type

import trio

from trio_isolates import Pool, Worker, open_pool, open_worker, run


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
