"""Dart's page on isolates, executed: `Isolate.run`, and Flutter's `compute`."""

from __future__ import annotations

import json
import os
import threading
import traceback
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

import contract
import dart_page as page
import handlers
from contract import Gate
from dart_page import KEYS
from fifo import Fifo, within
from photo_server import PHOTOS
from trio_isolates import IsolateDied, ReceivePort, RemoteError, UnsendableError, run

fifo, gate = contract.fifo, contract.gate


@pytest.fixture
def with_keys(tmp_path: Path) -> Path:
    path = tmp_path / "with_keys.json"
    path.write_text(KEYS)
    return path


@pytest.mark.parametrize("function", [page.read_and_parse_json, page.read_and_parse_json_async])
@within(20)
async def test_existing_function(function: Any, with_keys: Path) -> None:
    """Isolate.run with a function that is there already: a file is read and parsed, and its keys counted."""
    data = await run(function, with_keys)
    assert f"Number of JSON keys: {len(data)}" == "Number of JSON keys: 3"
    assert data == json.loads(KEYS)


@within(20)
async def test_closure(with_keys: Path) -> None:
    """Isolate.run with a closure written in its place: what it captures goes with it, and is a copy."""
    seen: list[int] = []

    def read() -> dict[str, Any]:
        data: dict[str, Any] = json.loads(with_keys.read_text("utf-8"))
        seen.append(os.getpid())
        return data

    data = await run(read)
    assert len(data) == 3
    assert seen == []


@within(20)
async def test_async_closure(with_keys: Path) -> None:
    """Isolate.run with an async closure, as the page has it: it has Trio there."""

    async def read() -> dict[str, Any]:
        data: dict[str, Any] = json.loads(await trio.Path(with_keys).read_text("utf-8"))
        return data

    assert await run(read) == json.loads(KEYS)


@within(20)
async def test_lambda(fifo: Fifo, gate: Gate) -> None:
    """The page's `Isolate.run(() => slowFib(40))`, with a smaller number: the program goes on meanwhile."""
    n = 20
    begun, opens = fifo.path, gate.path

    async def go_on() -> None:
        assert await fifo.line() == "begun"
        gate.let_pass()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        assert await run(lambda: page.wait_for_test(begun, opens) + page.slow_fib(n)) == 10946


@within(20)
async def test_compute() -> None:
    """Flutter's `compute(parsePhotos, body)`: a body becomes photos elsewhere, which are objects here."""
    photos = await run(page.parse_photos, json.dumps(PHOTOS).encode())
    assert {type(photo) for photo in photos} == {page.Photo}
    assert photos == [page.Photo.from_json(data) for data in PHOTOS]


# What the page leaves open.


@within(20)
async def test_error_with_its_frames(tmp_path: Path) -> None:
    """An error of the function comes out of `run` as itself, with the isolate's stack."""
    bad = tmp_path / "bad.json"
    bad.write_text('{"a": ')
    with pytest.raises(json.JSONDecodeError) as caught:
        await run(page.read_and_parse_json, bad)
    assert caught.value.pos == 6
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names.index("test_error_with_its_frames") < names.index("read_and_parse_json") < len(names) - 1
    assert "in read_and_parse_json" in "".join(caught.value.__notes__)
    with pytest.raises(FileNotFoundError) as missing:
        await run(page.read_and_parse_json, tmp_path / "missing.json")
    assert missing.value.filename == str(tmp_path / "missing.json")


@within(20)
async def test_death() -> None:
    """An isolate that dies is an IsolateDied where it was awaited, which says how and with which words."""
    with pytest.raises(IsolateDied) as caught:
        await run(handlers.exit_after_a_word, "last word")
    assert (caught.value.signal, caught.value.stderr_tail) == ("SIGKILL", "last word\n")


@pytest.mark.parametrize("function", [handlers.tell_and_spin, handlers.tell_and_wait])
@within(20)
async def test_cancelled(fifo: Fifo, function: Any) -> None:
    """A run is cancelled, which Dart cannot, and its isolate is gone, an endless loop too."""

    async def cancel() -> None:
        pids.append(int(await fifo.line()))
        scope.cancel()

    pids: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        with trio.CancelScope() as scope:
            await run(function, fifo.path)
    assert scope.cancelled_caught
    assert len(pids) == 1 and not psutil.pid_exists(pids[0])


@within(20)
async def test_captured_by_accident() -> None:
    """A closure that holds what cannot be sent, the page's warning, is told before anything is started."""
    lock, port = threading.Lock(), ReceivePort[Any]()
    with pytest.raises(UnsendableError, match="lock"):
        await run(lambda: [lock])
    with pytest.raises(UnsendableError, match="send its send_port"):
        await run(lambda: [port])


@within(20)
async def test_error_that_cannot_be_sent() -> None:
    """An error that cannot be sent arrives as Dart's RemoteError, with its name, text and stack."""

    def fail() -> None:
        class Local(Exception):
            def __reduce__(self) -> Any:
                raise TypeError("stays here")

        raise Local("why")

    with pytest.raises(RemoteError) as caught:
        await run(fail)
    assert caught.value.type_name.endswith("Local") and caught.value.text == "why"
    assert "in fail" in caught.value.traceback
