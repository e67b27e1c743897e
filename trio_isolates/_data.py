"""What an isolate says whose words are taken as data: values, errors and log records without a pickle.

To open a pickle is to run what it asks for. Of an isolate that is data-only the parent opens none:
values are bytes, which it hands on; errors and log records are JSON. This module does not know what
the bytes of a value mean, nor how they travel.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final, cast, final

from attrs import frozen

from ._errors import JsonError, ProtocolError, RemoteError, UnsendableError
from ._exceptions import dump_error
from ._messages import Chunk
from ._pickling import Codec, Pickled
from ._unsendable import try_str, type_name

_BY_NAME: Final = {
    cls.__name__: cls for cls in (ValueError, TypeError, MemoryError, RecursionError, ImportError)
}
_LONGEST_TEXT: Final = 100_000  # characters
_PLAIN: Final = (str, int, float, bool, type(None))


@final
@frozen
class Parcel:
    """A value on its way home, made in the isolate: bytes, and more bytes beside them, not copied."""

    head: bytes
    pieces: Sequence[bytes] = ()


@final
@frozen
class Data:
    """A parcel that has arrived. distrust: to be called with what is wrong with it; it ends its isolate."""

    head: bytes
    pieces: Sequence[memoryview]
    distrust: Callable[[str], ProtocolError]


def pack_error(codec: Codec, exc: BaseException, title: str, *, is_data_only: bool) -> Pickled:
    """Return an exception as a message, as a pickle or as data. Never fails."""
    if not is_data_only:
        return dump_error(codec, exc, title)
    return [dump_data_error(exc, title)], [], []


def dump_data_error(exc: BaseException, title: str) -> bytes:
    """Return an exception as data. Never fails."""
    import json  # only those who speak so need it

    record: dict[str, Any] = {"type": type_name(exc), "text": try_str(exc)[:_LONGEST_TEXT]}
    if type(exc) is JsonError:
        record["json"] = [getattr(exc, name) for name in JsonError.FIELDS]
    elif isinstance(exc, OSError) and type(exc).__module__ == "builtins" and isinstance(exc.errno, int):
        names = [name if isinstance(name, str) else None for name in (exc.filename, exc.filename2)]
        record["os"] = [exc.errno, try_str(exc.strerror), *names]
    else:
        record["traceback"] = f"Remote traceback ({title}):\n{_format(exc)}"
        if type(exc) is UnsendableError:
            record["unsendable"] = [try_str(exc.path), try_str(exc.type_name)]
        elif _BY_NAME.get(type(exc).__name__) is type(exc):
            record["builtin"] = type(exc).__name__
    return json.dumps(record).encode()


def _format(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exc)).rstrip()[-_LONGEST_TEXT:]
    except BaseException as failure:
        return f"<formatting its traceback raised {type(failure).__name__}>"


def load_data_error(body: Chunk) -> Exception:
    """Return the exception that a message holds. Raises `ProtocolError` if it holds none."""
    try:
        record = _record(body)
        error = _rebuild(record, str(record["text"]))
    except Exception as exc:
        raise ProtocolError(f"it sent {len(body)} bytes as an error that are none: {exc}") from None
    if words := record.get("traceback"):
        error.add_note(str(words))
    return error


def _rebuild(record: dict[str, Any], text: str) -> Exception:
    if "json" in record:
        return JsonError(*record["json"])
    if "os" in record:
        number, words, name, other = record["os"]
        names = (name,) if other is None else (name, None, other)
        return OSError(int(number), words, *(names if name is not None else ()))
    if "unsendable" in record:
        path, name = record["unsendable"]
        return UnsendableError(text, path=path, type_name=name)
    if "builtin" in record:
        return _BY_NAME[record["builtin"]](text)
    return RemoteError(str(record["type"]), text)


def dump_record(fields: dict[str, Any]) -> bytes:
    """Return the fields of a log record as data; what is no plain value, as its repr."""
    import json

    plain = {key: value if isinstance(value, _PLAIN) else repr(value) for key, value in fields.items()}
    return json.dumps(plain).encode()


def load_record(body: Chunk) -> logging.LogRecord:
    """Return the log record that a message holds. Raises `ProtocolError` if it holds none."""
    try:
        fields = _record(body)
        if not (isinstance(fields["name"], str) and isinstance(fields["levelno"], int)):
            raise TypeError("its name or its level")
        methods = [key for key in fields if hasattr(logging.LogRecord, key)]
        if methods or fields.get("args") is not None or fields.get("exc_info") is not None:
            raise TypeError(f"its {methods or 'args or exc_info'}")
        return logging.makeLogRecord(fields)
    except Exception as exc:
        raise ProtocolError(f"it sent {len(body)} bytes as a log record that are none: {exc}") from None


def _record(body: Chunk) -> dict[str, Any]:
    import json

    record = json.loads(bytes(body))
    if not isinstance(record, dict):
        raise TypeError(f"a {type(record).__name__}")
    return cast("dict[str, Any]", record)
