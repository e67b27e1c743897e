"""Documents that stay in their worker and answer questions."""

from __future__ import annotations

import json
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

import contract
from contract import Kind, those_with
from fifo import wait_gone, within
from trio_isolates import JsonError, JsonPool, Restart, open_json_pool

kind = contract.kind
pytestmark = pytest.mark.usefixtures("kind")

TREE: Any = {"users": [{"name": "Ada"}, {"name": "Grace"}], "count": 2, "\u20ac": [2**70]}
OFTEN = Restart(max_restarts=100, within=1, min_backoff=0, max_backoff=0)


def write(path: Path, tree: Any) -> Path:
    path.write_text(json.dumps(tree))
    return path


async def kill_all(pool: JsonPool) -> None:
    pids = pool.pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        await wait_gone(pid)
    while set(pool.pids) & set(pids):
        await trio.lowlevel.checkpoint()


@within(20)
async def test_questions(tmp_path: Path) -> None:
    """A document from a file or from bytes answers what is asked, and has a length at once."""
    path = write(tmp_path / "a.json", TREE)
    async with open_json_pool(2) as pool:
        for source in (path, str(path), path.read_bytes()):
            document = await pool.load(source)
            assert (len(document), await document.length(), document.kind) == (3, 3, "dict")
            assert document.size == path.stat().st_size
            assert await document.get("users[*].name") == ["Ada", "Grace"]
            assert await document.get("@") == TREE
            assert await document.keys() == list(TREE)
            assert [key async for key in document] == list(TREE)
        assert pool.statistics().resident == 3


@within(20)
async def test_many_items_come_in_pages() -> None:
    """All of them, once and in order, large and small ones; and many keys."""
    items = [{"i": i, "text": "x" * (i % 4) * 40_000} for i in range(60)] + list(range(200_000))
    keys = {f"key {i}": None for i in range(20_000)}
    async with open_json_pool(1) as pool:
        array = await pool.load(json.dumps(items).encode())
        assert [item async for item in array] == items
        table = await pool.load(json.dumps(keys).encode())
        assert await table.keys() == list(keys)
        assert pool.statistics().done > 10
        empty = await pool.load(b"[]")
        assert ([item async for item in empty], len(empty), bool(empty)) == ([], 0, True)


@within(20)
async def test_wrong_questions() -> None:
    """They are errors of their own, and the document is still there."""
    async with open_json_pool(1) as pool:
        document = await pool.load(b'[1, "a"]')
        with pytest.raises(ValueError, match=r"select='\[' at character 2"):
            await document.get("[")
        with pytest.raises(ValueError, match="sum"):
            await document.get("sum(@)")
        with pytest.raises(TypeError, match="is a list, and has no keys"):
            await document.keys()
        number = await pool.load(b"5")
        with pytest.raises(TypeError, match="has no length"):
            len(number)
        with pytest.raises(TypeError, match="has no items"):
            aiter(number)
        assert (await number.get("@"), await document.get("[1]")) == (5, "a")
        with pytest.raises(TypeError, match="cannot be sent"):
            pickle.dumps(document)
        with pytest.raises(JsonError, match="<json>: line 1, column 2"):
            await pool.load(b"[")
        with pytest.raises(FileNotFoundError):
            await pool.load("none.json")
        assert pool.statistics().resident == 2


@within(20)
async def test_a_closed_document() -> None:
    """It answers nothing any more, and its worker has let go of it; the others stay."""
    async with open_json_pool(1) as pool:
        kept = await pool.load(b"[1]")
        async with await pool.load(b"[2]") as document:
            assert await document.get("[0]") == 2
        await document.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await document.get("[0]")
        with pytest.raises(trio.ClosedResourceError):
            async for _ in document:
                pass
        assert await kept.get("[0]") == 1
    with pytest.raises(trio.ClosedResourceError):
        await kept.get("[0]")
    await kept.aclose()


@those_with("own process")
@within(20)
async def test_a_document_whose_worker_has_died(kind: Kind, tmp_path: Path) -> None:
    """It is loaded again by the next question, once, if its file is as it was."""
    path = write(tmp_path / "a.json", TREE)
    async with open_json_pool(2, restart=OFTEN) as pool:
        document = await pool.load(path)
        await kill_all(pool)
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await document.get("count"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert answers == [2] * 5
        assert document._loads == 2
        await kill_all(pool)
        assert await document.keys() == list(TREE)
        write(path, {**TREE, "more": 1})
        await kill_all(pool)
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="is gone, and its file has changed since"):
                await document.get("count")
        path.unlink()
        with pytest.raises(trio.BrokenResourceError, match="is gone, and its file cannot be read"):
            await document.get("count")


@those_with("own process")
@within(20)
async def test_a_document_of_bytes_whose_worker_has_died(kind: Kind) -> None:
    """It is lost, and says so; the pool goes on."""
    async with open_json_pool(1, restart=OFTEN) as pool:
        document = await pool.load(b"[1]")
        await kill_all(pool)
        with pytest.raises(trio.BrokenResourceError, match="is gone, and it was not loaded from a file"):
            await document.get("[0]")
        await document.aclose()
        assert await (await pool.load(b"[2]")).get("[0]") == 2


@within(20)
async def test_a_relieved_worker_takes_its_documents_with_it(tmp_path: Path) -> None:
    """As one that has died."""
    path = write(tmp_path / "a.json", [1, 2, 3])
    async with open_json_pool(1, max_calls_per_worker=3) as pool:
        document = await pool.load(path)
        for _ in range(4):
            assert await document.get("[2]") == 3
        assert pool.statistics().recycled > 0


@within(20)
async def test_nothing_is_kept_of_what_is_closed() -> None:
    """Nor of what could not be loaded: a pool may see any number of documents."""
    async with open_json_pool(1) as pool:
        owners = pool._plain.dispatch._owners  # pyright: ignore[reportPrivateUsage]
        document = await pool.load(b"[1]")
        assert len(owners) == 1
        await document.aclose()
        with pytest.raises(JsonError):
            await pool.load(b"[")
        with trio.CancelScope() as scope:
            scope.cancel()
            await pool.load(b"[1]")
        assert not owners
        assert not any(client.keys for client in pool._plain.clients)  # pyright: ignore[reportPrivateUsage]
