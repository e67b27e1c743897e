"""JSON without isolates: what decoders give, where texts are wrong, what is cut and put together again."""

from __future__ import annotations

import gzip
import json
import pickle
import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_isolates import JsonError, _json_pieces
from trio_isolates._json_decode import Decoder, DecoderName
from trio_isolates._json_pieces import cut, join
from trio_isolates._json_shape import make_shape
from trio_isolates._json_source import reading

NAMES: list[DecoderName] = ["auto", "stdlib", "msgspec", "orjson"]

CHARACTERS = st.characters(exclude_categories=())  # half surrogate pairs, too
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(CHARACTERS, max_size=8)
)
TREES = st.recursive(
    LEAVES,
    lambda node: (
        st.lists(node, max_size=4) | st.dictionaries(st.text(CHARACTERS, max_size=4), node, max_size=4)
    ),
)
NOISE = st.binary(max_size=3) | st.sampled_from(
    [b",", b"]", b'"', b"\\u", b"NaN", b"1e", b"\n", b"\xef\xbb\xbf"]
)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """JSON as `json.dumps` writes it, in some encoding, and often damaged."""
    text = json.dumps(draw(TREES), ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    data = text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-32-le"])), "surrogatepass")
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(NOISE) + data[at + draw(st.integers(0, 3)) :]
    return data


def as_json(text: Any) -> str | None:
    """What `json.loads` gives, to the last bit and in order; None if it raises."""
    try:
        return repr(json.loads(text))
    except (ValueError, RecursionError):
        return None


def as_ours(name: DecoderName, text: Any) -> str | None:
    try:
        return repr(Decoder(name).decode(text, "x"))
    except JsonError:
        return None


@settings(max_examples=400, deadline=None)
@given(texts())
@example(b"-0")
@example(b"-0.0")
@example(b"1e400")
@example(b'"\\ud800"')
@example(b'"\xed\xa0\x80"')
@example(b'{"a":1,"b":2,"a":3}')
@example(b"18446744073709551616")
@example(b"9" * 5000)
@example(b'"\x1f"')
@example(b"\xef\xbb\xbf1")
@example(b"1 2")
@example(b"")
def test_auto_and_stdlib_give_what_json_loads_gives(text: bytes) -> None:
    """The same value, of the same types and in the same order, from the same texts; nothing from others."""
    assert as_ours("stdlib", text) == as_json(text)
    assert as_ours("auto", text) == as_json(text)


@settings(max_examples=100, deadline=None)
@given(st.text(CHARACTERS) | TREES.map(json.dumps))
@example("\ufeff1")
@example('"\ud800"')
def test_a_str_is_taken_as_json_loads_takes_it(text: str) -> None:
    """Also where that refuses what it takes as bytes."""
    assert as_ours("auto", text) == as_json(text)


@pytest.mark.parametrize("name", ["msgspec", "orjson"])
def test_a_decoder_by_name_is_that_decoder(name: DecoderName) -> None:
    """What it makes of a text is what the package makes of it, whatever the standard library thinks."""
    package = pytest.importorskip(name)
    decode = package.json.decode if name == "msgspec" else package.loads
    for text in (b"18446744073709551616", b'{"a":1,"a":2}', b"[1.5,-0]"):
        assert repr(Decoder(name).decode(text, "x")) == repr(decode(text))
    with pytest.raises(JsonError, match=f"x: line 2, column 2 .byte 2.: {name} refuses") as caught:
        Decoder(name).decode(b"\n NaN", "x")
    assert (caught.value.line, caught.value.column, caught.value.offset) == (2, 2, 2)


BAD: list[tuple[Any, int, int, int, str, str]] = [
    (b"", 1, 1, 0, "", "empty document"),
    (b" \n ", 2, 2, 3, "", "white space"),
    (b'{"a": 1\n "b": 2}', 2, 2, 9, '"b": 2}', "expected ','"),
    ('["\u20ac", oops]'.encode(), 1, 7, 8, "oops]", "expected value"),
    ('["\u20ac", oops]', 1, 7, 8, "oops]", "expected value"),
    ('["\u20ac", oops]'.encode("utf-16-le"), 1, 7, 12, "oops]", "expected value"),
    (b"[1, 2", 1, 6, 5, "", "not the end of the document"),
    (b'{"a": 1}\n{"a": 2}', 2, 1, 9, '{"a": 2}', "NDJSON"),
    (b'["a", \x00]', 1, 7, 6, "\x00]", "expected value"),
    (b'["abc\xe2\x82', 1, 6, 5, "", "not UTF-8"),
    (b"[" * 100_000 + b"]" * 100_000, 1, 100_000, 99_999, "[" + "]" * 39, "100,000 levels"),
    (b'["9999", ' + b"1" * 5000 + b"]", 1, 10, 9, "1" * 40, "4,300 digits"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("text", "line", "column", "offset", "excerpt", "words"), BAD)
def test_where_a_text_is_wrong(  # noqa: PLR0917
    name: DecoderName, text: Any, line: int, column: int, offset: int, excerpt: str, words: str
) -> None:
    """Line and column count characters from 1, the offset bytes from 0; whoever decodes."""
    if name == "orjson":
        pytest.importorskip("orjson")
        if words == "4,300 digits":
            pytest.skip("orjson makes an infinite float of it, or says so in its own words")
    with pytest.raises(JsonError) as caught:
        Decoder(name).decode(text, "data.json")
    error = caught.value
    assert (error.line, error.column, error.offset, error.excerpt) == (line, column, offset, excerpt)
    assert words in error.reason
    assert str(error).startswith(f"data.json: line {line}, column {column} (byte {offset}): ")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.args, str(again)) == (JsonError, error.args, str(error))


def put_together(head: bytes, pieces: list[bytes]) -> Any:
    steps: Generator[None, None, Any] = join(head, [memoryview(piece) for piece in pieces])
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@settings(max_examples=150, deadline=None)
@given(TREES, st.sampled_from([1, 8, 30]))
@example(["\ud800", {"\udfff": 2**64}], 8)
@example([2**64, -(2**63) - 1], 1)
def test_what_is_cut_is_put_together_again(tree: Any, piece: int) -> None:
    """Whatever the tree, and however small the pieces; ints and strings beyond msgpack included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_json_pieces, "PIECE", piece)
        head, pieces = cut(tree)
    assert repr(put_together(head, pieces)) == repr(tree)


def test_no_piece_is_large() -> None:
    """But for single strings: of many small things, of a few large ones, and of one in the other."""
    random.seed(7)
    small: Any = {str(i): [i, random.random(), "text" * (i % 9)] for i in range(20_000)}
    for tree in (small, [small] * 3, list(range(400_000)), {"a": {"b": [small, "x" * 500_000]}}):
        head, pieces = cut(tree)
        assert len(pieces) > 1
        assert sum(len(piece) > 2 * _json_pieces.PIECE for piece in pieces) == 0
        assert put_together(head, pieces) == tree


def test_deep_trees_travel() -> None:
    """As deep as the decoder has taken them."""
    text = "[" * 500 + '"' + "x" * 300_000 + '"' + "]" * 500
    tree = json.loads(text)
    assert put_together(*cut(tree)) == tree


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def read(path: str, limit: int = 1 << 20) -> bytes:
    with reading(path, "shown", limit) as text:
        return bytes(text)


def test_compressed_files_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    """Whatever they are called."""
    zstandard = pytest.importorskip("zstandard")
    plain = b'{"a": [1, 2]}' * 100
    assert read(write(tmp_path / "a.gz", plain)) == plain
    assert read(write(tmp_path / "b", gzip.compress(plain))) == plain
    assert read(write(tmp_path / "c", zstandard.compress(plain))) == plain
    assert read(write(tmp_path / "d", plain * 1000), 1 << 21) == plain * 1000  # mapped


def test_the_limit_counts_after_decompression(tmp_path: Path) -> None:
    """A bomb is given up at the limit; a file, plain or sparse, before it is read."""
    zstandard = pytest.importorskip("zstandard")
    bomb = b" " * (8 << 20)
    for name, data in (("a", gzip.compress(bomb)), ("b", zstandard.compress(bomb)), ("c", b" " * (2 << 20))):
        with pytest.raises(JsonError, match="shown: larger than max_bytes=1,048,576"):
            read(write(tmp_path / name, data))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(JsonError, match="larger"):
        read(str(tmp_path / "sparse"))


def test_what_is_no_file_of_text(tmp_path: Path) -> None:
    """Truncated and damaged archives are the document's error; what cannot be opened is the system's."""
    packed = gzip.compress(random.Random(1).randbytes(5000))
    with pytest.raises(JsonError, match="shown: truncated gzip data"):
        read(write(tmp_path / "a", packed[:-9]))
    with pytest.raises(JsonError, match="shown: corrupt gzip data"):
        read(write(tmp_path / "b", packed[:-5] + b"12345"))
    with pytest.raises(FileNotFoundError):
        read(str(tmp_path / "none"))
    with pytest.raises(IsADirectoryError):
        read(str(tmp_path))
    with pytest.raises(JsonError, match="not a regular file"):
        read("/dev/null")


def upper(text: str) -> str:
    return text.upper()


@attrs.frozen
class Point:
    x: int = attrs.field()
    y: str = attrs.field(default="", converter=upper)

    @x.validator
    def _check(self, _: object, value: int) -> None:
        if value < 0:
            raise ValueError("x must not be negative")


@pytest.mark.parametrize("name", NAMES)
def test_types(name: DecoderName) -> None:
    """Validators are called, converters are not; an error says where in the document."""
    if name == "orjson":
        pytest.importorskip("orjson")
    decode = Decoder(name).decode_as
    (point,) = decode(list[Point], b'[{"x": 1, "y": "a"}]', "s")
    assert (type(point), point.x, point.y) == (Point, 1, "a")
    for text, path in ((b'[{"x": 1}, {"x": "1"}]', "$[1].x"), (b'[{"x": 1}, {"x": -1}]', "$[1]")):
        with pytest.raises(JsonError) as caught:
            decode(list[Point], text, "s")
        assert (caught.value.path, caught.value.line) == (path, None)
        assert str(caught.value).endswith(f" - at {path}")
    with pytest.raises(JsonError, match="s: line 1, column 5"):
        decode(list[Point], b"[{},", "s")


def test_types_take_what_json_loads_takes() -> None:
    """With "auto" also texts that msgspec by itself refuses."""
    assert repr(Decoder("auto").decode_as(list[float], b"[NaN, 1e400]", "s")) == "[nan, inf]"
    assert Decoder("auto").decode_as(dict[int, str], b'{"1": "\\ud800"}', "s") == {1: "\ud800"}
    with pytest.raises(JsonError, match="msgspec refuses"):
        Decoder("msgspec").decode_as(list[float], b"[NaN]", "s")


def test_what_is_asked_for_is_checked() -> None:
    """At most one of three, and each for itself."""
    with pytest.raises(TypeError, match="select= and type= were given"):
        make_shape("a", None, int)
    with pytest.raises(ValueError, match=r"select='a\[' at character 3"):
        make_shape("a[", None, None)
    with pytest.raises(TypeError, match="callable"):
        make_shape(None, 5, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be decoded to"):
        make_shape(None, None, 5)
