"""What is wrong with a JSON text, and where: a text that was refused becomes a `JsonError`.

The place is always that which the standard library's decoder finds, whoever has refused the text.
This module does not know where texts come from, nor what is done with those that are right.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any, Final, TypeAlias

from ._errors import JsonError

Text: TypeAlias = str | bytes | bytearray | memoryview

_EXCERPT: Final = 40  # characters
_DEEP: Final = 900  # levels that any decoder takes
_STRING: Final = r'"(?:[^"\\]|\\.)*+"'
_BRACKETS: Final = re.compile(rf"{_STRING}|[\[\]{{}}]", re.DOTALL)
_NUMBERS: Final = re.compile(rf"{_STRING}|-?(\d+)(\.\d+)?([eE][-+]?\d+)?", re.DOTALL)
_REFUSED_BYTE: Final = re.compile(r"\(byte (\d+)\)")


def loads(text: Text, source: str) -> Any:
    """Return what `json.loads` returns. Raises `JsonError`, or `MemoryError`."""
    encoding = "utf-8"
    if not isinstance(text, str):
        data = bytes(text)
        encoding = json.detect_encoding(data)
        try:
            text = data.decode(encoding, "surrogatepass")
        except UnicodeDecodeError as error:
            raise _not_text(data, encoding, error, source) from None
        del data
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _at(_reason(error), source, text, error.pos, encoding) from None
    except RecursionError:
        depth, position = _deepest(text)
        raise _at(f"nested too deeply: {depth:,} levels", source, text, position, encoding) from None
    except ValueError:
        # The one that is left: int() refuses numbers whose conversion takes quadratic time.
        limit = sys.get_int_max_str_digits()
        position = _long_integer(text, limit)
        reason = f"an integer of more than {limit:,} digits"
        raise _at(reason, source, text, position, encoding) from None


def refused(text: Text, source: str, decoder: str, refusal: Exception) -> JsonError:
    """Return the error for a text that this decoder has refused, with the place of the standard library's."""
    try:
        loads(text, source)
    except JsonError as error:
        return error
    reason = f"{decoder} refuses what json.loads accepts: {refusal}"
    plain = text if isinstance(text, str) else bytes(text).decode("utf-8", "replace")
    if isinstance(refusal, json.JSONDecodeError):  # orjson's is one
        return _at(reason, source, plain, refusal.pos, "utf-8")
    found = _REFUSED_BYTE.search(str(refusal))
    if found is None:
        return JsonError(reason, source)
    before = plain.encode("utf-8", "surrogatepass")[: int(found[1])].decode("utf-8", "ignore")
    return _at(reason, source, plain, len(before), "utf-8")


def _reason(error: json.JSONDecodeError) -> str:
    if not error.doc or error.doc.isspace():
        return "nothing but white space" if error.doc else "empty document"
    if error.msg == "Extra data":
        more = " (one document a file: is this NDJSON?)" if error.lineno > 1 else ""
        return f"more after the end of the document{more}"
    words = error.msg.replace("Expecting", "expected", 1)
    words = words[0].lower() + words[1:]
    return words if error.pos < len(error.doc) else f"{words}, not the end of the document"


def _not_text(data: bytes, encoding: str, error: UnicodeDecodeError, source: str) -> JsonError:
    name = encoding.removesuffix("-sig").upper()
    skipped = 3 if encoding == "utf-8-sig" else 0  # which the error does not count
    offset = error.start + skipped
    before = data[skipped:offset].decode(encoding.removesuffix("-sig"), "replace")
    reason = f"not {name}: {error.reason}, byte 0x{data[offset]:02x}"
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return JsonError(reason, source, line, column, offset)


def _at(reason: str, source: str, text: str, position: int, encoding: str) -> JsonError:
    """Return the error at a place of the text, which counts its characters."""
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    offset = len(text[:position].encode(encoding, "surrogatepass"))
    if encoding == "utf-8-sig" and not position:
        offset = 3  # nothing to encode, but the mark is there
    return JsonError(reason, source, line, column, offset, text[position : position + _EXCERPT])


def _deepest(text: str) -> tuple[int, int]:
    """Return how deep the first part is that is too deep, and where its innermost bracket stands."""
    depth = deepest = position = 0
    for token in _BRACKETS.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth > deepest:
                deepest, position = depth, token.start()
        elif token[0] in "]}":
            if deepest > _DEEP:
                break
            depth -= 1
    return deepest, position


def _long_integer(text: str, limit: int) -> int:
    for token in _NUMBERS.finditer(text):
        if token[1] is not None and token[2] is None and token[3] is None and len(token[1]) > limit:
            return token.start()
    return 0
