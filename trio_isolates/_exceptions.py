"""Exceptions to messages and back, with their type, their frames and their chains.

Only an `Exception` crosses as itself. What would end the caller's loop, its task or its program
(`StopIteration`, `trio.EndOfChannel`, `SystemExit`, ...) and what does not survive pickling arrive
as `RemoteError`. Neither direction ever fails: each exception travels as plain strings with its
pickle beside them, and the pickle is opened, or given up, where it arrives.
"""

from __future__ import annotations

# What is walked here may be of any type:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
import os
import traceback
from collections.abc import Callable, Sequence
from types import FunctionType, TracebackType
from typing import Any, Final, TypeAlias, final

import trio
from attrs import frozen

from ._errors import CallInterrupted, RemoteError, UnsendableError
from ._messages import Chunk
from ._pickling import Codec, Definition, Pickled
from ._unpickling import built_in
from ._unsendable import try_str, type_name

_ENDS_LOOPS: Final = (StopIteration, StopAsyncIteration, trio.EndOfChannel)
_CUT: Final = (trio.Cancelled, CallInterrupted)
_DEEPEST: Final = 100  # links of a chain, and groups in groups
_MOST_FRAMES: Final = 100
_LONGEST_TEXT: Final = 1 << 20  # characters
_OUR_FOLDERS: Final = tuple(os.path.dirname(file) + os.sep for file in (__file__, str(trio.__file__)))

_Frames: TypeAlias = Sequence[tuple[str, str, int, str]]  # file, function, line, module


@frozen
class _Packed:
    """One exception: strings that always arrive, and the pickle if there is one.

    cause, context and leaves are places in the list of all that belong together. leaves: the members
    if it is a group; pickle is then that of its class, a group derived from it, and its attributes.
    """

    type_name: str
    text: str
    traceback: str = ""
    pickle: bytes | None = None
    refused: str = ""
    frames: _Frames = ()
    cause: int | None = None
    context: int | None = None
    suppress_context: bool = False
    leaves: tuple[int, ...] | None = None


def dump_error(codec: Codec, exc: BaseException, title: str) -> Pickled:
    """Pickle an exception that was raised in the isolate of that title. Never fails."""
    packer = _Packer(codec)
    packed = packer.pack(exc)
    try:
        chunks, buffers, definitions = codec.dumps((title, packed))
    except BaseException as failure:  # larger than a message can be
        chunks, buffers, definitions = codec.dumps((title, [_undescribed(exc, failure)]))
    return chunks, buffers, packer.definitions + definitions


def _undescribed(exc: BaseException, failure: BaseException) -> _Packed:
    words = f"could not be sent: {type(failure).__name__}: {try_str(failure)}"
    return _Packed(type(exc).__name__, _shortened(try_str(exc)), refused=_shortened(words))


@final
class _Packer:
    """Packs an exception and all that it is linked with, each once: a chain may be a ring."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._all: list[tuple[BaseException, int]] = []  # with the number of links to it
        self._places: dict[int, int] = {}
        self.definitions: list[Definition] = []

    def pack(self, exc: BaseException) -> list[_Packed]:
        self._place(exc, 0)
        packed: list[_Packed] = []
        for member, depth in self._all:  # which grows meanwhile
            try:
                packed.append(self._pack(member, depth))
            except BaseException as failure:  # an exception that fights back, say in __cause__
                packed.append(_undescribed(member, failure))
        return packed

    def _place(self, exc: BaseException | None, depth: int) -> int | None:
        """Return the place of an exception in the list, or None if there is none or it is too far away."""
        if exc is None or depth > _DEEPEST:
            return None
        if id(exc) not in self._places:
            self._places[id(exc)] = len(self._all)
            self._all.append((exc, depth))
        return self._places[id(exc)]

    def _pack(self, exc: BaseException, depth: int) -> _Packed:
        leaves = None
        if isinstance(exc, BaseExceptionGroup) and depth < _DEEPEST:
            pickled, refused = self._pickle_group(exc)
            text = exc.message
            leaves = self._places_of([leaf for leaf in exc.exceptions if not _is_cut(leaf)], depth + 1)
        else:
            pickled, refused = self._pickle(exc)
            text = try_str(exc)
        cause, context = exc.__cause__, exc.__context__
        return _Packed(
            type_name=type_name(exc),
            text=_shortened(str.__str__(text)),
            traceback=_format(exc) if depth == 0 or pickled is None else "",
            pickle=pickled,
            refused=refused,
            frames=_frames(exc.__traceback__),
            cause=self._place(_uncut(cause), depth + 1),
            context=None if context is cause else self._place(_uncut(context), depth + 1),
            suppress_context=exc.__suppress_context__,
            leaves=leaves,
        )

    def _places_of(self, leaves: Sequence[BaseException], depth: int) -> tuple[int, ...]:
        return tuple(place for leaf in leaves if (place := self._place(leaf, depth)) is not None)

    def _pickle(self, exc: BaseException) -> tuple[bytes | None, str]:
        if isinstance(exc, BaseExceptionGroup):
            return None, "it is nested too deeply"
        if not isinstance(exc, Exception) or isinstance(exc, _ENDS_LOOPS):
            return None, ""
        return self._try_pickle(exc)

    def _pickle_group(self, group: BaseExceptionGroup[BaseException]) -> tuple[bytes | None, str]:
        """Pickle all of a group but its members, or at least its notes."""
        cls = type(group) if isinstance(group, ExceptionGroup) else ExceptionGroup
        alike = None
        if cls is not ExceptionGroup:
            try:
                alike = group.derive([Exception()])
            except Exception:  # its class may still take the usual arguments
                pass
        attributes = vars(group)
        notes = {name: attributes[name] for name in ("__notes__",) if name in attributes}
        for content in ((cls, alike, attributes), (cls, None, attributes)):
            pickled, refused = self._try_pickle(content)
            if pickled is not None:
                return pickled, refused
        return self._try_pickle((ExceptionGroup, None, notes))

    def _try_pickle(self, value: object) -> tuple[bytes | None, str]:
        try:
            pickled, definitions = self._codec.dumps_whole(value, "exception")
        except BaseException as failure:
            return None, try_str(failure)
        self.definitions += definitions
        return pickled, ""


def _is_cut(exc: Any) -> bool:
    if issubclass(type(exc), BaseExceptionGroup):  # isinstance would also ask the exception itself
        return all(map(_is_cut, exc.exceptions))
    return issubclass(type(exc), _CUT)


def _uncut(exc: BaseException | None) -> BaseException | None:
    for _ in range(_DEEPEST):
        if exc is None or not _is_cut(exc):
            return exc
        exc = exc.__cause__ or exc.__context__
    return None


def _format(exc: BaseException) -> str:
    try:
        tb = exc.__traceback__
        while (
            tb is not None
            and tb.tb_next is not None
            and tb.tb_frame.f_code.co_filename.startswith(_OUR_FOLDERS)
        ):
            tb = tb.tb_next
        return _shortened("".join(traceback.format_exception(type(exc), exc, tb)).rstrip())
    except BaseException as failure:
        return f"<formatting its traceback raised {type(failure).__name__}>"


def _shortened(text: str) -> str:
    half = _LONGEST_TEXT // 2
    return text if len(text) <= _LONGEST_TEXT else f"{text[:half]}\n[...]\n{text[-half:]}"


def _frames(tb: TracebackType | None) -> _Frames:
    """The frames, outermost first, without ours and Trio's at the outer end and the middle of many."""
    frames: list[tuple[str, str, int, str]] = []
    while tb is not None:
        code = tb.tb_frame.f_code
        if frames or not code.co_filename.startswith(_OUR_FOLDERS):
            module = tb.tb_frame.f_globals.get("__name__")
            frames.append((code.co_filename, code.co_name, tb.tb_lineno or code.co_firstlineno, str(module)))
        tb = tb.tb_next
    if len(frames) > _MOST_FRAMES:
        half = _MOST_FRAMES // 2
        frames = frames[:half] + frames[-half:]
    return frames


def load_error(codec: Codec, body: Chunk, buffers: Any = ()) -> Exception:
    """Return the exception that a message holds, ready to be raised. Never fails."""
    if (built := built_in(body)) is not None:
        error: Exception = built.open()
        return error
    try:
        title, packed = codec.loads(body, buffers)
        errors = _Unpacker(codec, packed).unpack()
        if text := packed[0].traceback:
            _add_note(errors[0], f"Remote traceback ({title}):\n{_without_notes(text, errors[0])}")
        return errors[0]
    except BaseException as exc:
        error = RemoteError("<unknown>", f"an error arrived that could not be opened: {try_str(exc)}")
        error.__cause__ = exc
        return error


@final
class _Unpacker:
    def __init__(self, codec: Codec, packed: list[_Packed]) -> None:
        self._codec = codec
        self._packed = packed
        self._errors: dict[int, Exception] = {}

    def unpack(self) -> list[Exception]:
        errors = [self._error(place) for place in range(len(self._packed))]
        for error, packed in zip(errors, self._packed, strict=True):
            if packed.cause is not None and isinstance(error, RemoteError) and error.__cause__ is not None:
                _add_note(error, f"It stands in for what could not be sent: {try_str(error.__cause__)}")
                error.__cause__ = None  # its place is the original's cause
            # Past the class's own __setattr__: a frozen dataclass refuses.
            if error.__cause__ is None:
                if packed.cause is not None:
                    BaseException.__setattr__(error, "__cause__", errors[packed.cause])
                if packed.context is not None:
                    BaseException.__setattr__(error, "__context__", errors[packed.context])
                BaseException.__setattr__(error, "__suppress_context__", packed.suppress_context)
            BaseException.__setattr__(error, "__traceback__", _traceback(packed.frames))
        return errors

    def _error(self, place: int) -> Exception:
        if place not in self._errors:
            packed = self._packed[place]
            self._errors[place] = self._one(packed) if packed.leaves is None else self._group(packed)
        return self._errors[place]

    def _one(self, packed: _Packed) -> Exception:
        if packed.pickle is None:
            return _stand_in(packed)
        try:
            error = self._codec.loads(packed.pickle)
            if isinstance(error, Exception) and type_name(error) == packed.type_name:
                return error
            failure = UnsendableError(f"it unpickled as a {type_name(error)}", type_name=packed.type_name)
        except BaseException as exc:
            return _stand_in(packed, exc)
        return _stand_in(packed, failure)

    def _group(self, packed: _Packed) -> Exception:
        members = [self._error(leaf) for leaf in packed.leaves or ()]
        if not members:
            return _stand_in(packed)
        cls, alike, attributes = self._try_loads(packed.pickle) or (ExceptionGroup, None, {})
        ways: list[Callable[[], Any]] = [lambda: cls(packed.text, members)]
        if alike is not None:
            ways.insert(0, lambda: alike.derive(members))
        for way in ways:
            try:
                group = way()
            except Exception:  # a subclass with a constructor of its own
                continue
            if type(group) is cls and isinstance(group, ExceptionGroup):
                break
        else:
            group = ExceptionGroup(packed.text, members)
        vars(group).update(attributes)
        return group

    def _try_loads(self, pickled: bytes | None) -> Any:
        try:
            return None if pickled is None else self._codec.loads(pickled)
        except BaseException:
            return None


def _stand_in(packed: _Packed, why: BaseException | None = None) -> RemoteError:
    error = RemoteError(packed.type_name, packed.text, packed.traceback)
    if why is None and packed.refused:
        why = UnsendableError(packed.refused, type_name=packed.type_name)
    error.__cause__ = why
    return error


def _without_notes(text: str, error: Exception) -> str:
    """Return a traceback without the notes at its end that the exception has brought itself."""
    notes = vars(error).get("__notes__")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        return text
    return text.removesuffix("\n".join(["", *notes]).rstrip())


def _add_note(error: Exception, text: str) -> None:
    notes = vars(error).get("__notes__")
    vars(error)["__notes__"] = [*(notes if isinstance(notes, list) else ()), text]


def _template() -> Any:
    yield


def _traceback(frames: _Frames) -> TracebackType | None:
    """Make a traceback that shows these frames.

    Frames of generators that never ran: they have no callers, as those of code that raises here would
    have, with everything that waits for this exception.
    """
    tb: TracebackType | None = None
    for file, function, line, module in reversed(frames):
        code = _template.__code__.replace(
            co_filename=file, co_name=function, co_qualname=function, co_firstlineno=line
        )
        generator = FunctionType(code, {"__name__": module, "__file__": file})()
        tb = TracebackType(tb, generator.gi_frame, 0, line)
    return tb
