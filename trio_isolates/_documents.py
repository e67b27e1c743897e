"""Finds JSON documents, and turns one of them into a Summary or a Problem.

It knows files, gzip, encodings and JSON. It does not know pools, terminals or Trio: what is here
runs in a worker as well as in the parent.
"""

from __future__ import annotations

import codecs
import gc
import glob
import gzip
import io
import json
import os
import re
import stat
import sys
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, final

import attrs

from trio_isolates._selection import Search, SelectionError, compile_selection, select

STDIN = "-"
_SUFFIXES = (".json", ".json.gz")
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


@final
@attrs.frozen
class Document:
    """One document to read: a file by its name, or the content that `read_piped` has read.

    `piped` says that only the parent can read it: standard input, a FIFO, `/dev/fd/3`.
    """

    name: str
    piped: bool = False
    content: bytes | Problem | None = None


@final
@attrs.frozen
class Summary:
    """What a document turned out to hold: sizes in bytes, times in seconds.

    `size` is that of its JSON text, after decompression. `length` is the number of keys, items or
    characters, and None for what has none. `selected` is the selected value as JSON in UTF-8.
    """

    name: str
    size: int
    type: str
    length: int | None
    seconds: float
    selected: bytes | None = None


@final
@attrs.frozen
class Problem:
    """Why a document could not be read; line and column count from 1 and are None outside its text."""

    name: str
    text: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = "" if self.line is None else f"{self.line}:{self.column}:"
        return f"{printable(self.name)}:{place} {printable(self.text)}"


class _BadDocument(Exception):
    def __init__(self, text: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(text)
        self.text, self.line, self.column = text, line, column


def printable(text: str) -> str:
    """`text` on one line, as any terminal can show it: the rest is escaped as in a Python string."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@final
@attrs.frozen
class Found:
    """What the paths of a command line came to; `repeated` names what was met more than once."""

    documents: tuple[Document, ...]
    problems: tuple[Problem, ...]
    repeated: tuple[str, ...]


def find_documents(paths: Iterable[str]) -> Found:
    """Turn files, folders, patterns and "-" into documents, in that order, each file once.

    A folder stands for its `*.json` and `*.json.gz` files at any depth, sorted; links to folders
    are not followed. A file is the same file under another name, too (a link, `./` in front).
    """
    documents: dict[object, Document] = {}
    problems: dict[Problem, None] = {}
    repeated: dict[object, str] = {}
    for path in paths:
        spelled: set[str] = set()  # a pattern may match a folder and its files: the user named them once
        for key, found in _expand(path):
            if isinstance(found, Problem):
                problems[found] = None
            elif key not in documents:
                documents[key] = found
            elif found.name not in spelled:
                repeated.setdefault(key, found.name)
            spelled.add(found.name)
    return Found(tuple(documents.values()), tuple(problems), tuple(repeated.values()))


_Finding = tuple[object, Document | Problem]


def _expand(path: str) -> Iterator[_Finding]:
    if path == STDIN:
        closed = Problem(STDIN, "standard input is closed")
        yield STDIN, Document(STDIN, piped=True) if sys.stdin is not None else closed
    elif not os.path.lexists(path) and re.search(r"[*?\[]", path):
        matches = sorted(glob.iglob(path, recursive=True))
        findings = [_unasked(finding) for match in matches for finding in _look(match)]
        yield from findings or [(None, Problem(path, "no document matches this pattern"))]
    else:
        findings = list(_look(path))
        yield from findings or [(None, Problem(path, "no *.json or *.json.gz file in this folder"))]


def _look(path: str) -> Iterator[_Finding]:
    try:
        status = os.stat(path)
    except OSError as error:
        yield None, Problem(path, why_unreadable(path, error))
        return
    if stat.S_ISDIR(status.st_mode):
        yield from _walk(path)
    else:
        piped = not stat.S_ISREG(status.st_mode)
        yield (status.st_dev, status.st_ino), Document(path, piped=piped)


def _walk(folder: str) -> Iterator[_Finding]:
    unreadable: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=unreadable.append):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(_SUFFIXES):
                yield from map(_unasked, _look(os.path.join(root, name)))
    for error in unreadable:
        yield None, Problem(os.fsdecode(error.filename), why_unreadable(error.filename, error))


def _unasked(finding: _Finding) -> _Finding:
    # Nobody asked for this FIFO or device by its name, and reading it might wait for ever.
    key, found = finding
    if isinstance(found, Document) and found.piped:
        return None, Problem(found.name, "not a regular file; name it to read it")
    return key, found


def why_unreadable(path: str, error: OSError) -> str:
    """What the operating system refused, in words."""
    if isinstance(error, FileNotFoundError):
        return "broken symbolic link" if os.path.islink(path) else "no such file or folder"
    return f"cannot be read: {error.strerror or error}"


def read_piped(document: Document, limit: int) -> Document:
    """Read what only this process can read. Blocks until its writers are done, or `limit` is passed."""
    content = bytearray()
    try:
        # Not sys.stdin, whose lock a thread that waits here for ever would hold at the program's end.
        name = 0 if document.name == STDIN else document.name
        with open(name, "rb", buffering=0, closefd=name != 0) as file:
            while len(content) <= limit and (chunk := file.read(_CHUNK)):
                content += chunk
    except OSError as error:
        return attrs.evolve(document, content=Problem(document.name, why_unreadable(document.name, error)))
    return attrs.evolve(document, content=bytes(content))


@final
class Reader:
    """How documents are read: what to select, and how much to take.

    `expression` is JMESPath's. Documents of more than `limit` bytes are refused. A selected
    value of more than `cut` characters of JSON is cut there: for people, no longer JSON.
    """

    def __init__(self, expression: str | None, limit: int, cut: int | None) -> None:
        self.search = None if expression is None else compile_selection(expression)
        self.limit = limit
        self.cut = cut


def read_document(reader: Reader, document: Document) -> Summary | Problem:
    """Read, decompress, decode and parse one document, and select from it."""
    if isinstance(document.content, Problem):
        return document.content
    started = time.perf_counter()
    try:
        with _collector_paused():
            data = _load(document, reader.limit)
            size = len(data)
            value = _parse(data)
            selected = None if reader.search is None else _selected(reader.search, value, reader.cut)
    except _BadDocument as bad:
        return Problem(document.name, bad.text, bad.line, bad.column)
    except MemoryError:
        return Problem(document.name, "not enough memory to parse it")
    kind = _kind(value)
    length = len(value) if kind in ("object", "array", "string") else None
    return Summary(document.name, size, kind, length, time.perf_counter() - started, selected)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {dict: "object", list: "array", str: "string", bool: "boolean"}
    return names.get(type(value), "number")


@contextmanager
def _collector_paused() -> Generator[None, None, None]:
    # Parsed JSON has no cycles, and looking for them doubles the time of a large document.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _load(document: Document, limit: int) -> bytearray:
    try:
        if isinstance(document.content, bytes):
            return _unzipped(io.BytesIO(document.content), document.name, limit)
        with open(document.name, "rb") as file:
            return _unzipped(file, document.name, limit)
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _BadDocument(f"corrupt gzip data: {error}") from None
    except EOFError:
        raise _BadDocument("truncated gzip data") from None
    except OSError as error:
        raise _BadDocument(why_unreadable(document.name, error)) from None


def _unzipped(file: BinaryIO, name: str, limit: int) -> bytearray:
    magic = file.read(2)
    file.seek(0)
    if not magic:
        raise _BadDocument("empty document", 1, 1)
    if magic == _GZIP_MAGIC:
        with gzip.open(file) as unzipped:
            return _limited(unzipped.read, limit)
    if name.lower().endswith(".gz"):
        raise _BadDocument("not gzip data, in spite of its name")
    return _limited(file.read, limit)


def _limited(read: Callable[[int], bytes], limit: int) -> bytearray:
    data = bytearray()
    while chunk := read(_CHUNK):  # not read(limit), which would reserve all of it
        data += chunk
        if len(data) > limit:
            raise _BadDocument(f"larger than the limit of {limit:,} bytes (--max-size)")
    return data


def _parse(data: bytearray) -> Any:
    text = _decode(data)
    data.clear()  # one copy less while the tree grows; the caller has noted the size
    if not text or text.isspace():
        raise _BadDocument("empty document" if not text else "nothing but white space", 1, 1)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _BadDocument(_syntax(error), error.lineno, error.colno) from None
    except RecursionError:
        depth, position = _deepest(text)
        raise _BadDocument(f"nested too deeply: {depth:,} levels", *_place(text, position)) from None
    except ValueError:
        # The one ValueError left: int() refuses numbers whose conversion takes quadratic time.
        limit = sys.get_int_max_str_digits()
        position = _long_integer(text, limit)
        raise _BadDocument(f"an integer of more than {limit:,} digits", *_place(text, position)) from None


def _decode(data: bytearray) -> str:
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding, "surrogatepass")
    except UnicodeDecodeError as error:
        skipped = len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0
        offset = error.start + skipped
        before = data[:offset].decode(encoding, "replace")
    name = encoding.removesuffix("-sig").upper()
    binary = "; the file looks binary" if name == "UTF-8" and 0 in data[:4096] else ""
    what = f"not {name}: byte 0x{data[offset]:02x} at offset {offset:,}{binary}"
    raise _BadDocument(what, *_place(before, len(before)))


def _syntax(error: json.JSONDecodeError) -> str:
    rest = error.doc[error.pos : error.pos + 1]
    if error.msg == "Extra data":
        more = " (one document a file: is this NDJSON?)" if error.lineno > 1 else ""
        return f"Extra data after the document{more}"
    if not error.msg.startswith("Expecting"):
        return error.msg
    return f"{error.msg}, not {rest!r}" if rest else f"{error.msg}, not the end of the document"


def _place(text: str, position: int) -> tuple[int, int]:
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


_STRING = r'"(?:[^"\\]|\\.)*+"'


def _deepest(text: str) -> tuple[int, int]:
    depth = deepest = position = 0
    for token in re.finditer(rf"{_STRING}|[\[\]{{}}]", text, re.DOTALL):
        if token[0] in "[{":
            depth += 1
            if depth > deepest:
                deepest, position = depth, token.start()
        elif token[0] in "]}":
            depth -= 1
    return deepest, position


def _long_integer(text: str, limit: int) -> int:
    for token in re.finditer(rf"{_STRING}|-?\d+(\.\d+)?([eE][-+]?\d+)?", text, re.DOTALL):
        whole = token[1] is None and token[2] is None and token[0][0] != '"'
        if whole and len(token[0].lstrip("-")) > limit:
            return token.start()
    return 0


def _selected(search: Search, value: Any, cut: int | None) -> bytes:
    try:
        text = select(search, value)
    except RecursionError:
        raise _BadDocument("--select: nested too deeply") from None
    except SelectionError as error:
        raise _BadDocument(f"--select: {error.text}") from None
    if cut is None or len(text) <= cut:
        return text
    return f"{text.decode()[:cut]}…".encode()
