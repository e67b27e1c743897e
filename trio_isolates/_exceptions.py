"""Exceptions to messages and back, with their type, their frames and their chains.

Only an `Exception` crosses as itself. What would end the caller's loop, its task or its program
(`StopIteration`, `trio.EndOfChannel`, `SystemExit`, ...) and what does not survive pickling arrive
as `RemoteError`. Neither direction ever fails: each exception travels as plain strings with its
pickle beside them, and the pickle is opened, or given up, where it arrives.
"""

from __future__ import annotations

import os
import traceback
from types import TracebackType
from typing import Any, Final, TypeAlias

import trio
from attrs import frozen
from tblib import Traceback

from ._errors import CallInterrupted, RemoteError, UnsendableError
from ._messages import Chunk
from ._pickling import Codec, Pickled
from ._unsendable import type_name

_ENDS_LOOPS: Final = (StopIteration, StopAsyncIteration, trio.EndOfChannel)
_CUT: Final = (trio.Cancelled, CallInterrupted)
_LONGEST_CHAIN: Final = 20
_MOST_FRAMES: Final = 100
_OUR_FOLDERS: Final = tuple(os.path.dirname(str(module.__file__)) + os.sep for module in (trio,)) + (
    os.path.dirname(__file__) + os.sep,
)

_Frames: TypeAlias = list[tuple[str, str, int, str]]  # file, function, line, module


@frozen
class _Packed:
    """One exception: strings that always arrive, and the pickle if there is one.

    leaves: the packed members if it is a group; pickle is then that of its class.
    """

    type_name: str
    text: str
    traceback: str
    pickle: bytes | None
    refused: str
    frames: _Frames
    cause: _Packed | None
    context: _Packed | None
    suppress_context: bool
    leaves: tuple[_Packed, ...] | None = None


def dump_error(codec: Codec, exc: BaseException, title: str) -> Pickled:
    """Pickle an exception that was raised in the isolate of that title. Never fails."""
    definitions: list[tuple[int, bytes]] = []
    try:
        packed = _pack(codec, exc, definitions, 0)
    except Exception as failure:  # an exception that fights back, say in __class__
        words = f"could not be described: {failure!r}"
        packed = _Packed(type(exc).__name__, words, "", None, words, [], None, None, False)
    chunks, buffers, more = codec.dumps((title, packed))
    return chunks, buffers, definitions + more


def _pack(codec: Codec, exc: BaseException, definitions: list[tuple[int, bytes]], depth: int) -> _Packed:
    name, text = type_name(exc), _try_str(exc)
    leaves: tuple[_Packed, ...] | None = None
    pickled: bytes | None = None
    refused = ""
    if isinstance(exc, BaseExceptionGroup):
        kept = [leaf for leaf in exc.exceptions if not isinstance(leaf, _CUT)]
        leaves = tuple(_pack(codec, leaf, definitions, depth + 1) for leaf in kept)
        text = exc.message
    if isinstance(exc, Exception) and not isinstance(exc, _ENDS_LOOPS):
        try:
            pickled, more = codec.dumps_whole(exc if leaves is None else type(exc), "exception")
            definitions += more
        except UnsendableError as failure:
            refused = str(failure)
    cause, context = (
        None if other is None or depth >= _LONGEST_CHAIN else _pack(codec, other, definitions, depth + 1)
        for other in (_uncut(exc.__cause__), _uncut(exc.__context__))
    )
    return _Packed(
        type_name=name,
        text=text,
        traceback=_try_format(exc) if depth == 0 or pickled is None else "",
        pickle=pickled,
        refused=refused,
        frames=_frames(exc.__traceback__),
        cause=cause,
        context=None if exc.__context__ is exc.__cause__ else context,
        suppress_context=exc.__suppress_context__,
        leaves=leaves,
    )


def _uncut(exc: BaseException | None) -> BaseException | None:
    for _ in range(_LONGEST_CHAIN):
        if not isinstance(exc, _CUT):
            return exc
        exc = exc.__cause__ or exc.__context__
    return None


def _try_str(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException as failure:
        return f"<its str() raised {type(failure).__name__}>"


def _try_format(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exc))
    except BaseException as failure:
        return f"<formatting its traceback raised {type(failure).__name__}>"


def _frames(tb: TracebackType | None) -> _Frames:
    """The frames, outermost first, without ours and Trio's at the outer end and without the middle of many."""
    frames: _Frames = []
    while tb is not None:
        code = tb.tb_frame.f_code
        if frames or not code.co_filename.startswith(_OUR_FOLDERS):
            module = tb.tb_frame.f_globals.get("__name__")
            frames.append((code.co_filename, code.co_name, tb.tb_lineno, str(module)))
        tb = tb.tb_next
    if len(frames) > _MOST_FRAMES:
        half = _MOST_FRAMES // 2
        frames = frames[:half] + frames[-half:]
    return frames


def load_error(codec: Codec, body: Chunk, buffers: Any = ()) -> Exception:
    """Return the exception that a message holds, ready to be raised. Never fails."""
    try:
        title, packed = codec.loads(body, buffers)
        error = _unpack(codec, packed)
        if packed.traceback:
            error.add_note(f"Remote traceback ({title}):\n{packed.traceback.rstrip()}")
    except Exception as exc:
        error = RemoteError("<unknown>", f"an error arrived that could not be opened: {exc}")
        error.__cause__ = exc
    return error


def _unpack(codec: Codec, packed: _Packed) -> Exception:
    error = _unpack_group(codec, packed) if packed.leaves is not None else _unpack_one(codec, packed)
    if error.__cause__ is None:
        if packed.cause is not None:
            error.__cause__ = _unpack(codec, packed.cause)
        if packed.context is not None:
            error.__context__ = _unpack(codec, packed.context)
        error.__suppress_context__ = packed.suppress_context
    error.__traceback__ = _traceback(packed.frames)
    return error


def _stand_in(packed: _Packed, why: BaseException | None = None) -> RemoteError:
    error = RemoteError(packed.type_name, packed.text, packed.traceback)
    if why is None and packed.refused:
        why = UnsendableError(packed.refused, type_name=packed.type_name)
    error.__cause__ = why
    return error


def _unpack_one(codec: Codec, packed: _Packed) -> Exception:
    if packed.pickle is None:
        return _stand_in(packed)
    try:
        error = codec.loads(packed.pickle)
    except UnsendableError as exc:
        return _stand_in(packed, exc)
    if not isinstance(error, Exception) or type_name(error) != packed.type_name:
        return _stand_in(packed, UnsendableError(f"it unpickled as a {type_name(error)}", type_name=packed.type_name))
    return error


def _unpack_group(codec: Codec, packed: _Packed) -> Exception:
    leaves = [_unpack(codec, leaf) for leaf in packed.leaves or ()]
    if not leaves:
        return _stand_in(packed)
    if packed.pickle is not None:
        try:
            group = codec.loads(packed.pickle)(packed.text, leaves)
            if isinstance(group, ExceptionGroup):
                return group
        except Exception:  # a subclass with a constructor of its own
            pass
    return ExceptionGroup(packed.text, leaves)


def _traceback(frames: _Frames) -> TracebackType | None:
    tb: dict[str, Any] | None = None
    for file, function, line, module in reversed(frames):
        frame = {
            "f_globals": {"__name__": module, "__file__": file},
            "f_locals": {},
            "f_code": {"co_filename": file, "co_name": function},
            "f_lineno": line,
        }
        tb = {"tb_frame": frame, "tb_lineno": line, "tb_next": tb}
    return None if tb is None else Traceback.from_dict(tb).as_traceback()
