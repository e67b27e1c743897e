"""Trees to pieces of bytes, and pieces to the same tree, a piece at a time.

A tree travels as msgpack. What msgpack cannot carry (ints beyond 64 bits, lone surrogates) travels
as JSON text of the standard library. A large tree is cut where it is encoded, so that nobody has to
decode more than a piece in one go. This module does not know where the pieces travel.

The laws: what comes out equals what went in, and a piece of more than twice `PIECE` bytes is a single
string, or lies deeper than `_DEEPEST`.
"""

from __future__ import annotations

# Trees are of any type:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Any, Final, final

from ._json_decode import import_msgspec

PIECE: Final = 256 << 10  # bytes
_DEEPEST: Final = 64  # levels that are cut
_WHOLE: Final = b"w"
_LIST, _DICT, _END, _VALUE, _MORE, _KEY = b"ldevxk"

Encode = Callable[[Any], bytes]
Decode = Callable[[Any], Any]


def cut(tree: Any) -> tuple[bytes, list[bytes]]:
    """Return how the pieces belong together, and the pieces.

    Raises `RecursionError` if it is nested too deeply, and `TypeError` if it is no plain tree.
    """
    try:
        return _cut(b"m", import_msgspec().msgpack.encode, tree)
    except (OverflowError, UnicodeEncodeError):
        return _cut(b"j", _to_text, tree)


def _to_text(tree: Any) -> bytes:
    return json.dumps(tree, separators=(",", ":")).encode()  # ASCII: it has half surrogate pairs as escapes


def _from_text(text: Any) -> Any:
    return json.loads(bytes(text))


def _cut(name: bytes, encode: Encode, tree: Any) -> tuple[bytes, list[bytes]]:
    whole = encode(tree)
    if len(whole) <= PIECE:
        return name + _WHOLE + whole, []
    size = len(whole)
    del whole
    cutter = _Cutter(encode)
    cutter.add(tree, size, 0)
    return name + bytes(cutter.steps), cutter.pieces


@final
class _Cutter:
    """Cuts one tree. steps: what to do with the pieces, one after the other."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self.steps = bytearray()
        self.pieces: list[bytes] = []

    def add(self, node: Any, size: int, depth: int) -> None:
        """Add a node of that many bytes, which are too many."""
        if not isinstance(node, list | dict) or depth == _DEEPEST:
            self._piece(_VALUE, self._encode(node))
            return
        self.steps.append(_LIST if isinstance(node, list) else _DICT)
        children: Any = node
        for part in _parts(children, max(1, len(children) * PIECE // size)):
            self._add_part(part, depth + 1)
        self.steps.append(_END)

    def _add_part(self, part: Any, depth: int) -> None:
        """Add neighbours, which may be more than expected."""
        encoded = self._encode(part)
        if len(encoded) <= 2 * PIECE:
            self._piece(_MORE, encoded)
        elif len(part) > 1:
            size = len(encoded)
            del encoded
            for smaller in _parts(part, max(1, min(len(part) // 2, len(part) * PIECE // size))):
                self._add_part(smaller, depth)
        elif not isinstance(part, dict):
            self.add(part[0], len(encoded), depth)
        else:
            ((key, value),) = part.items()
            self._piece(_KEY, self._encode(key))
            self.add(value, len(encoded), depth)

    def _piece(self, step: int, encoded: bytes) -> None:
        self.steps.append(step)
        self.pieces.append(encoded)


def _parts(node: Any, count: int) -> Iterator[Any]:
    if not isinstance(node, dict):
        for first in range(0, len(node), count):
            yield node[first : first + count]
    else:
        pairs: Iterator[Any] = iter(node.items())
        while part := dict(islice(pairs, count)):
            yield part


def join(head: bytes | memoryview, pieces: Sequence[Any]) -> Generator[None, None, Any]:
    """Build the tree, and yield after each piece. Raises anything if these are not what `cut` gives."""
    decode: Decode = {b"m": import_msgspec().msgpack.decode, b"j": _from_text}[bytes(head[:1])]
    if bytes(head[1:2]) == _WHOLE:
        return decode(head[2:])
    waiting = iter(pieces)
    stack: list[Any] = []  # containers, each followed by the key of the one that is in it
    value: Any = None
    for step in bytes(head[1:]):
        if step in (_LIST, _DICT):
            stack.append([] if step == _LIST else {})
            continue
        if step == _MORE:
            more = decode(next(waiting))
            if not isinstance(stack[-1], dict):
                stack[-1].extend(more)
            else:
                stack[-1].update(more)
            del more
        elif step == _KEY:
            stack.append(decode(next(waiting)))
            continue
        else:
            value = decode(next(waiting)) if step == _VALUE else stack.pop()
            _put(stack, value)
        yield
    if stack or next(waiting, None) is not None:
        raise ValueError("pieces are left")
    return value


def _put(stack: list[Any], value: Any) -> None:
    """Put a value where it belongs: into the list, or under the key, that is the last on the stack."""
    if not stack:
        return
    if type(stack[-1]) is list:
        stack[-1].append(value)
    else:
        key = stack.pop()
        stack[-1][key] = value
