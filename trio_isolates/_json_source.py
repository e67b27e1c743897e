"""Files to JSON texts: mapped, or decompressed up to a limit.

It knows gzip and Zstandard by their first bytes, whatever the file is called. It does not know JSON,
and never takes more memory for what is compressed than the limit allows.
"""

from __future__ import annotations

import gzip
import mmap
import os
import stat
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, BinaryIO, Final, final

from ._errors import JsonError

GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_CHUNK: Final = 1 << 20
_ZSTD_CHUNK: Final = 1024  # bytes at once, of which a bomb makes 40 MB
_MAPPED: Final = 1 << 20  # bytes from which a file is mapped instead of read


def too_large(source: str, max_bytes: int) -> JsonError:
    return JsonError(f"larger than max_bytes={max_bytes:,}", source)


def compression(path: str) -> str | None:
    """Return what a file is compressed with: "gzip", "zstd" or None. Raises `OSError`."""
    with open(path, "rb") as file:
        return _compression(file.read(4))


def _compression(magic: bytes) -> str | None:
    if magic.startswith(GZIP_MAGIC):
        return "gzip"
    return "zstd" if magic == ZSTD_MAGIC else None


def check_regular(path: str, source: str) -> os.stat_result:
    """Return a file's status. Raises `OSError`, and `JsonError` for what would have to be waited for."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise JsonError("not a regular file", source)
    return status


@contextmanager
def reading(path: str, source: str, max_bytes: int) -> Generator[bytes | bytearray | memoryview, None, None]:
    """Give the text that a file holds, for the length of a block. source: what errors call it.

    Raises `OSError`, `ImportError` if nothing is installed that decompresses it, `JsonError` if it is
    larger than `max_bytes`, not decompressible, or not a regular file.
    """
    if not os.path.isdir(path):  # of which `open` says best what is wrong
        check_regular(path, source)
    with open(path, "rb") as file:
        found = _compression(file.read(4))
        file.seek(0)
        if found is not None:
            yield _decompressed(file, found, source, max_bytes)
            return
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise too_large(source, max_bytes)
        if size < _MAPPED:  # also files of /proc, which say that they are empty
            yield _limited(file.read, source, max_bytes)
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            view = memoryview(pages)
            try:
                yield view
            finally:
                view.release()


def _limited(read: Callable[[int], bytes], source: str, max_bytes: int) -> bytearray:
    data = bytearray()
    while chunk := read(_CHUNK):  # not read(limit), which would take all of it at once
        data += chunk
        if len(data) > max_bytes:
            raise too_large(source, max_bytes)
    return data


def _decompressed(file: BinaryIO, found: str, source: str, max_bytes: int) -> bytearray:
    opened, failures = _open_zstd(file) if found == "zstd" else _open_gzip(file)
    try:
        with opened:
            return _limited(opened.read, source, max_bytes)
    except failures as exc:
        what = "truncated" if isinstance(exc, EOFError) else "corrupt"
        raise JsonError(f"{what} {found} data: {exc}", source) from None


def _open_gzip(file: BinaryIO) -> tuple[Any, tuple[type[BaseException], ...]]:
    return gzip.GzipFile(fileobj=file), (gzip.BadGzipFile, zlib.error, EOFError)


def _open_zstd(file: BinaryIO) -> tuple[Any, tuple[type[BaseException], ...]]:
    """Return what reads a decompressed file, and what that raises, by whichever library there is."""
    for name in ("compression.zstd", "backports.zstd"):  # the standard library's, since Python 3.14
        try:
            zstd: Any = import_module(name)
        except ImportError:
            continue
        return zstd.open(file, "rb"), (zstd.ZstdError, EOFError)
    try:
        zstandard: Any = import_module("zstandard")
    except ImportError:
        raise ImportError("to read .zst files: pip install 'trio-isolates[json]'") from None
    return _ZstdFile(file, zstandard.ZstdDecompressor().decompressobj), (zstandard.ZstdError, EOFError)


@final
class _ZstdFile:
    """Reads frames to their end; zstandard's own reader takes one that is cut short for whole."""

    def __init__(self, file: BinaryIO, make: Callable[[], Any]) -> None:
        self._file = file
        self._make = make
        self._frame: Any = None
        self._rest = b""

    def __enter__(self) -> _ZstdFile:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, _: int) -> bytes:
        """Return what some bytes of the file are decompressed to; nothing at its end."""
        data = b""
        while not data:
            part = self._rest or self._file.read(_ZSTD_CHUNK)
            self._rest = b""
            if not part and self._frame is None:
                break
            if not part:
                raise EOFError("its last frame ends before its end marker")
            self._frame = self._frame or self._make()
            data = self._frame.decompress(part)
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        return data
