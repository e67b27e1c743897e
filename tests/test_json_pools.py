"""JSON pools: documents in, trees and answers out, on both engines."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import zstandard

import contract
import json_handlers as work
from contract import Gate, those_with
from fifo import Fifo, within
from trio_isolates import IsolateDied, JsonError, JsonPool, Restart, UnsendableError, open_json_pool
from trio_isolates._json_decode import DecoderName

kind, fifo, gate = contract.kind, contract.fifo, contract.gate
pytestmark = pytest.mark.usefixtures("kind")

TREE: Any = {
    "users": [{"name": "Ada", "age": 36}, {"name": "Grace", "age": 85}],
    "odd": [2**70, float("inf"), "\ud800", None, -0.0, ""],
}
TEXT = json.dumps(TREE)


@within(20)
async def test_a_tree_comes_home() -> None:
    """As `json.loads` gives it, whatever the text is in."""
    async with open_json_pool(1) as pool:
        data = TEXT.encode()
        strange: Any = memoryview(data + data)[::-1][::-1]
        for text in (
            TEXT,
            data,
            bytearray(data),
            memoryview(data),
            strange[: len(data)],
            TEXT.encode("utf-16"),
        ):
            assert repr(await pool.parse(text)) == repr(TREE)
        assert (await pool.parse("3"), await pool.parse(b"null"), await pool.parse('""')) == (3, None, "")


@pytest.mark.parametrize("decoder", ["auto", "stdlib", "msgspec", "orjson"])
@within(20)
async def test_each_decoder(decoder: DecoderName) -> None:
    """The pool says which it is; what that refuses is an error, unless the standard library helps out."""
    if decoder == "orjson":
        pytest.importorskip("orjson")
    async with open_json_pool(1, decoder=decoder) as pool:
        assert await pool.parse('{"a": [1, 2.5, "x"]}') == {"a": [1, 2.5, "x"]}
        assert await pool.dumps({"a": ["\u20ac", 1]}) == '{"a":["\u20ac",1]}'.encode()
        if decoder in ("auto", "stdlib"):
            assert repr(await pool.parse("[NaN]")) == "[nan]"
        else:
            with pytest.raises(JsonError, match=f"{decoder} refuses what json.loads accepts"):
                await pool.parse("[NaN]")
        named = "msgspec, else stdlib" if decoder == "auto" else decoder
        assert pool.statistics().decoder == named


@within(20)
async def test_a_large_tree_comes_home_in_pieces() -> None:
    """Other tasks run meanwhile, and nothing is lost; by msgpack as well as by text."""
    rows = [{"i": i, "text": "x" * 50, "more": [i, i / 3, None]} for i in range(20_000)]
    async with open_json_pool(1, gc="freeze") as pool:
        for tree in (rows, [*rows, 2**70]):
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await trio.lowlevel.checkpoint()

            assert await pool.parse("[]") == []
            async with trio.open_nursery() as nursery:
                value = await pool.parse(json.dumps(tree))
                nursery.cancel_scope.cancel()
            assert value == tree


@within(20)
async def test_files(tmp_path: Path) -> None:
    """The isolate reads them, compressed or not; errors call them as the caller did."""
    plain, packed, empty = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "empty"
    plain.write_text(TEXT)
    packed.write_bytes(gzip.compress(TEXT.encode()))
    empty.touch()
    async with open_json_pool(1, max_bytes=10_000) as pool:
        assert repr(await pool.parse_file(plain)) == repr(await pool.parse_file(str(packed))) == repr(TREE)
        name = os.path.relpath(tmp_path / "none")
        with pytest.raises(FileNotFoundError) as missing:
            await pool.parse_file(name)
        assert (missing.value.filename, missing.value.errno) == (name, 2)
        with pytest.raises(IsADirectoryError):
            await pool.parse_file(tmp_path)
        with pytest.raises(JsonError) as caught:
            await pool.parse_file(os.path.relpath(empty))
        assert str(caught.value) == f"{os.path.relpath(empty)}: line 1, column 1 (byte 0): empty document"
        plain.write_bytes(b" " * 10_001)
        packed.write_bytes(gzip.compress(b" " * 5_000_000))
        for path in (plain, packed):
            with pytest.raises(JsonError, match="larger than max_bytes=10,000"):
                await pool.parse_file(path)
        with pytest.raises(JsonError, match="larger"):
            await pool.parse("[" + " " * 10_000)


BAD: list[str | bytes] = [
    "[1,",
    b'["\xe2\x82',
    "[" * 100_000,
    b"\x00",
    "9" * 5000,
    b"",
    "{'a': 1}",
    "\ufeff1",
]


@within(30)
async def test_bad_documents_do_no_harm() -> None:
    """Each is an error of its own; the isolate is the same before and after."""
    async with open_json_pool(1) as pool:
        before = pool.pids
        for text in BAD:
            with pytest.raises(JsonError) as caught:
                await pool.parse(text, source="here")
            assert str(caught.value).startswith("here: line 1, column ")
            assert caught.value.offset is not None
        assert pool.pids == before
        assert pool.statistics().failed == len(BAD)


@within(20)
async def test_select() -> None:
    """What an expression selects comes home; a bad one is refused before it is sent."""
    async with open_json_pool(1) as pool:
        assert await pool.parse(TEXT, select="users[?age > `40`].name") == ["Grace"]
        assert await pool.parse(TEXT, select="nothing.here") is None
        with pytest.raises(ValueError, match=r"select='users\[' at character 7"):
            await pool.parse(TEXT, select="users[")
        with pytest.raises(ValueError, match=r"select='sum\(users\)'"):
            await pool.parse(TEXT, select="sum(users)")
        with pytest.raises(TypeError, match="at most one of"):
            await pool.parse(TEXT, select="users", transform=len)
        assert pool.statistics().typed.done == 0


@within(20)
async def test_transform_and_type() -> None:
    """What the caller's code makes of a document comes home as any result, from isolates of their own."""
    users = json.dumps(TREE["users"])
    async with open_json_pool(1) as pool:
        assert [len(pool.pids)] == [1]
        assert await pool.parse(users, transform=work.ages) == {36, 85}
        assert await pool.parse(users, type=list[work.User]) == [work.User("Ada", 36), work.User("Grace", 85)]
        assert await pool.parse('{"name": "Rex"}', type=work.Pet) == work.Pet("Rex")
        assert await pool.parse('{"i": 5}', type=work.Row) == work.Row(5)
        assert await pool.parse("[1]", transform=lambda tree: [*tree, 2]) == [1, 2]
        with pytest.raises(JsonError, match=r"<json>: Expected int, got str - at \$\[0\].age"):
            await pool.parse('[{"name": "x", "age": "y"}]', type=list[work.User])
        with pytest.raises(LookupError):
            await pool.parse("[]", transform=work.fail)
        with pytest.raises(UnsendableError) as unsendable:
            await pool.parse("[]", transform=partial(max, threading.Lock()))
        assert unsendable.value.path.startswith("transform")
        assert [len(pool.pids)] == [2]
        assert (pool.statistics().done, pool.statistics().typed.done) == (0, 5)


@within(20)
async def test_a_class_of_the_script(tmp_path: Path) -> None:
    """A class that cannot be imported can be a type, and can still be sent when msgspec has looked at it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("import attrs, dataclasses\nclass D:\n    name: str\nD = dataclasses.dataclass(D)", namespace)
    cls: Any = namespace["D"]
    classes: Any = list[cls]
    async with open_json_pool(1) as pool:
        for _ in range(2):
            assert await pool.parse('{"name": "Ada"}', type=cls) == cls("Ada")
            assert await pool.parse('[{"name": "Ada"}]', type=classes) == [cls("Ada")]
        msgspec.json.decode('{"name": "Ada"}', type=cls)
    async with open_json_pool(1) as pool:
        assert await pool.parse('{"name": "Ada"}', type=cls) == cls("Ada")


@pytest.mark.parametrize("cut", [1, 4, 1000])
@within(20)
async def test_zstd_that_is_cut_short(tmp_path: Path, cut: int) -> None:
    """A frame that does not end is an error, wherever it is cut; several frames are one document."""
    compress = zstandard.ZstdCompressor(write_checksum=True).compress
    whole = compress(json.dumps(list(range(100_000))).encode())
    path = tmp_path / "a.zst"
    async with open_json_pool(1) as pool:
        path.write_bytes(whole)
        assert await pool.parse_file(path) == list(range(100_000))
        path.write_bytes(compress(b"[1, ") + compress(b"2]"))
        assert await pool.parse_file(path) == [1, 2]
        path.write_bytes(whole[:-cut])
        with pytest.raises(JsonError, match="truncated zstd"):
            await pool.parse_file(path)


@within(20)
async def test_files_that_are_none(tmp_path: Path) -> None:
    """What would have to be waited for is refused at once; what is not there is said as `open` does."""
    os.mkfifo(tmp_path / "fifo")
    async with open_json_pool(1) as pool:
        for read in (pool.parse_file, pool.load, partial(read_lines, pool)):
            with pytest.raises(JsonError, match="not a regular file"):
                await read(tmp_path / "fifo")
        with pytest.raises(FileNotFoundError) as caught:
            await pool.parse_file("/there/is/none")
        with pytest.raises(FileNotFoundError) as expected:
            Path("/there/is/none").read_bytes()
        assert str(caught.value) == str(expected.value)


async def read_lines(pool: JsonPool, path: Path) -> None:
    async with pool.open_lines(path):
        pass


@within(20)
async def test_statistics() -> None:
    """They count documents and the bytes of their text."""
    async with open_json_pool(1) as pool:
        await pool.parse('["\u20ac"]')
        await pool.parse(b"[1]", transform=len)
        with pytest.raises(JsonError):
            await pool.parse("[")
        document = await pool.load(b"[1,2]")
        counts = pool.statistics()
        assert (counts.documents, counts.bytes, counts.resident, counts.failed) == (3, 15, 1, 1)
        await document.aclose()
        assert pool.statistics().resident == 0


@those_with("own process")
@within(20)
async def test_a_worker_that_dies() -> None:
    """Its caller is told in which question, the pool lives, and a question may be repeated."""
    async with open_json_pool(1, restart=Restart(max_restarts=100)) as pool:
        with pytest.raises(IsolateDied) as caught:
            await pool.parse("[]", transform=work.die)
        assert (caught.value.call, caught.value.signal) == ("parse", "SIGKILL")
        assert await pool.parse("[]", transform=len) == 0
        assert await pool.parse("[1]", retries=1) == [1]
        os.kill(pool.pids[0], signal.SIGKILL)
        assert await pool.parse("[1]", retries=1) == [1]


@those_with("interrupts sync code")
@within(20)
async def test_a_cancelled_question(fifo: Fifo, gate: Gate) -> None:
    """It has stopped when it returns; the worker goes on."""
    text = json.dumps({"begun": str(fifo.path), "gate": str(gate.path)})
    async with open_json_pool(1) as pool:
        pid = await pool.parse("[]", transform=work.own_pid)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: pool.parse(text, transform=work.wait_for))
            assert await fifo.line() == "begun"
            nursery.cancel_scope.cancel()
        assert pool.statistics().typed.cancelled == 1
        assert await pool.parse("[]", transform=work.own_pid) == pid


@those_with("own process")
@within(30)
async def test_a_parse_that_is_cancelled() -> None:
    """The decoder cannot be interrupted, so the isolate is replaced, unless the text is not reached yet."""
    text = "[" + "[1.5,2.5,3.5]," * 2_000_000 + "0]"
    async with open_json_pool(1, decoder="stdlib", cancel_grace=0.05) as pool:
        assert await pool.parse("[1]") == [1]
        (before,) = pool.pids
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.parse, text)
            while not pool._plain.clients[0].isolate.begun > 1:  # noqa: ASYNC110  # nobody rings
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        assert pool.statistics().in_flight == 0
        assert await pool.parse("[2]") == [2]
        assert (pool.pids != (before,)) == (pool.statistics().replaced == 1)


@those_with("interrupts sync code")
@within(20)
async def test_a_body_that_fails_stops_both_kinds_within_one_grace(fifo: Fifo, gate: Gate) -> None:
    """What is in flight is stopped before the block is left, which raises what its body has raised."""
    text = json.dumps({"begun": str(fifo.path), "gate": str(gate.path)})
    stopped: list[str] = []

    async def ask(pool: JsonPool) -> None:
        try:
            await pool.parse(text, transform=work.wait_for)
        except trio.ClosedResourceError:
            stopped.append("transform")

    async with trio.open_nursery() as nursery:
        with pytest.raises(ZeroDivisionError):
            async with open_json_pool(1) as pool:
                nursery.start_soon(ask, pool)
                assert await fifo.line() == "begun"
                raise ZeroDivisionError
    assert stopped == ["transform"]


@within(20)
async def test_the_end() -> None:
    """A closed pool takes no questions; what is in flight when the body fails is stopped."""
    async with open_json_pool(1) as pool:
        await pool.parse("[]", transform=len)
        pool.close()
        for question in (pool.parse("[]"), pool.parse("[]", transform=len), pool.dumps([]), pool.load(b"[]")):
            with pytest.raises(trio.ClosedResourceError):
                await question
        await pool.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await pool.parse("[]")
    with pytest.raises(ZeroDivisionError):
        async with open_json_pool(1) as pool:
            assert await pool.parse("[]", transform=len) == 0
            raise ZeroDivisionError


async def ask_wrongly(pool: JsonPool) -> None:
    wrong: Any = pool
    for text, words in ((5, "the text must be"), (None, "the text must be")):
        with pytest.raises(TypeError, match=words):
            await wrong.parse(text)
    with pytest.raises(TypeError, match="a path must be"):
        await wrong.parse_file(5)
    with pytest.raises(TypeError, match="retries="):
        await pool.parse("[]", retries="many")  # type: ignore[call-overload]


@within(20)
async def test_what_makes_no_sense_is_refused() -> None:
    """At once, by the option's name."""
    options: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"decoder": "simdjson"}, ValueError, "decoder="),
        ({"max_bytes": 0}, ValueError, "max_bytes="),
        ({"workers": 0}, ValueError, "workers="),
        ({"workers": 2, "min_workers": 3}, ValueError, "min_workers="),
        ({"gc": "never"}, ValueError, "gc="),
    ]
    for wrong, error, words in options:
        with pytest.raises(error, match=words):
            open_json_pool(**wrong)
    async with open_json_pool(1) as pool:
        await ask_wrongly(pool)


def test_msgspec_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it there is one clear error, which names the extra."""
    monkeypatch.setitem(__import__("sys").modules, "msgspec", None)
    with pytest.raises(ImportError, match=r"trio-isolates\[json\]"):
        open_json_pool()
