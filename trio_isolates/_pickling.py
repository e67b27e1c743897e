"""Values to bytes and back, and what cannot be sent.

A `Codec` is one end of a link. It remembers which classes and functions both ends know, so that
those which cannot be imported by name (the ones of `__main__` above all) cross once and keep their
identity. It does not know what a message means, and how bytes travel.

The law: what came from the other end under a number goes back under that number; so its owner
finds its own object again, and nothing at home is ever written to.
"""

from __future__ import annotations

# cloudpickle has no types, and the parts that it is made of are private:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
import importlib
import operator
import pickle
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import FunctionType
from typing import Any, Final, Literal, TypeAlias, final

import trio

from ._by_value import (
    NAMED,
    REDUCERS,
    find_place,
    is_held,
    is_importable,
    reduce_builtin,
    reduce_class,
    reduce_context_var,
    reduce_function,
)
from ._errors import CallInterrupted, ProtocolError, UnsendableError
from ._identities import ID_SIZE, Identities
from ._messages import Buffer, Chunk
from ._pieces import work_here
from ._shared_buffer import SharedBuffer, Token, reduce_shared
from ._unpickling import LARGE, built_in, load_in_pieces, without_frames
from ._unsendable import try_str, type_name, unsendable
from ._wire import MAX_BUFFERS, MAX_MESSAGE_SIZE, body_size

Definition: TypeAlias = tuple[int, bytes]
Member: TypeAlias = tuple[int, Any, tuple[str, str] | None]  # number, object, module and name of the global
Pickled: TypeAlias = tuple[list[Chunk], list[Buffer], list[Definition]]
"""A message: the pickle in chunks, the buffers beside it, the definitions that must go before it."""

_IN_BAND: Final = 4096  # bytes below which a buffer is cheaper inside the pickle
_SHORT: Final = 1024  # bytes of a pickle above which a new pickler is cheaper than one with a large memo
_COUNT: Final = struct.Struct("<Q")
_MEMBER: Final = struct.Struct(f"<Q{ID_SIZE}s")
_MISSING: Final = object()


class _Local(threading.local):
    codec: Codec | None = None


_local = _Local()


def _codec() -> Codec:
    if _local.codec is None:
        raise pickle.UnpicklingError("a message of an isolate can only be opened at the end of its link")
    return _local.codec


# What pickles refer to. They find the codec that opens them.


def _ref(number: int) -> Any:
    return _codec().find(number)


def _namespace(module: str | None, own: dict[str, Any]) -> dict[str, Any]:
    """Return the globals for functions of that module; None stands for those of no module, which are new."""
    namespace = {} if module is None else _codec().namespace(module)
    for name, value in own.items():
        namespace.setdefault(name, value)
    return namespace


def _imported_context_var(module: str, name: str) -> Any:
    return operator.attrgetter(name)(importlib.import_module(module))


def _context_var(module: str, attribute: str, name: str, default: tuple[Any, ...]) -> ContextVar[Any]:
    known = _codec().namespace(module).get(attribute)
    if isinstance(known, ContextVar):
        return known
    return ContextVar(name, default=default[0]) if default else ContextVar(name)


class _Namespace:
    """Stands for the globals of functions: a module has one dict at the other end for its whole life."""

    def __init__(self, names: dict[str, Any], module: str | None) -> None:
        self.names = names  # and so kept alive, as it is known by its id
        self._module = module

    def __reduce__(self) -> tuple[Any, ...]:
        own = {name: self.names[name] for name in ("__name__", "__package__") if name in self.names}
        return _namespace, (self._module, own)


class _Sink:
    """The file that a pickler writes to. Large bytes arrive as the very object that was pickled."""

    def __init__(self, write: Callable[[Chunk], object]) -> None:
        self.write = write


class _Pickler(pickle.Pickler):
    """group: the objects defined in place so far if this writes a definition, else None."""

    def __init__(
        self,
        codec: Codec,
        chunks: list[Chunk],
        buffers: list[Buffer] | None,
        group: list[Member] | None = None,
    ) -> None:
        def take(buffer: pickle.PickleBuffer) -> bool:
            try:
                view = buffer.raw()
            except BufferError:  # not contiguous
                return True
            if type(view.obj) is Token and buffers is not None:
                buffers.append(view.obj.buffer)
                return False
            if view.nbytes < _IN_BAND or buffers is None or len(buffers) >= MAX_BUFFERS:
                return True
            buffers.append(view)
            return False

        super().__init__(_Sink(chunks.append), protocol=5, buffer_callback=take)
        self._codec = codec
        self._group = group
        self._buffers = buffers
        self._namespaces: dict[int, _Namespace] = {}
        self.is_used_up = False  # it remembers more than `clear_memo` clears

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is FunctionType or kind in NAMED:
            if is_importable(obj):
                return NotImplemented
        elif issubclass(kind, type):
            reduced = reduce_builtin(obj)
            if reduced is not None:
                return reduced
        elif kind is not ContextVar:
            reduce = REDUCERS.get(kind)
            if reduce is not None:
                return reduce(obj)
            if kind is SharedBuffer and self._buffers is not None and len(self._buffers) < MAX_BUFFERS:
                return reduce_shared(obj)
            return NotImplemented
        return self._reduce_dynamic(obj)

    def _reduce_dynamic(self, obj: Any) -> Any:
        number = self._codec.number(obj)
        if number is not None:
            return _ref, (number,)
        place = find_place(obj)
        if isinstance(obj, ContextVar):
            if place is None:
                raise TypeError(f"{obj!r} is no module-level variable, so the other side could not find it")
            if place[0] != "__main__":
                return _imported_context_var, place
        if place is not None or isinstance(obj, type) or is_held(obj):
            if self._group is None:
                return _ref, (self._codec.add_definition(obj),)
            self._group.append((self._codec.new_number(), obj, place))
        return self._reduce_by_value(obj, place)

    def _reduce_by_value(self, obj: Any, place: tuple[str, str] | None) -> Any:
        if isinstance(obj, type):
            return reduce_class(obj)
        if isinstance(obj, FunctionType):
            return reduce_function(obj, self._stand_in(obj.__globals__))
        if isinstance(obj, ContextVar):
            return _context_var, (*(place or ()), *reduce_context_var(obj))
        return NAMED[type(obj)](obj)

    def _stand_in(self, names: dict[str, Any]) -> _Namespace:
        known = self._namespaces.get(id(names))
        if known is None:
            module = names.get("__name__")
            if not isinstance(module, str) or not self._codec.is_namespace(module, names):
                module = None  # what attrs or exec made, say: not the module that __module__ speaks of
            known = self._namespaces[id(names)] = _Namespace(names, module)
            self.is_used_up = True
        return known


@final
class Codec:
    """One end of a link: pickles what goes out, unpickles what comes in.

    side: 0 or 1, another at each end; the numbers of what this end defines are 2 * k + side.
    namespaces: gives the dict that by-value functions of a module have as globals here. By default
    a private one for each module, so that nothing that arrives is ever written into a real module.
    identities: shared by the codecs of one isolate.
    """

    def __init__(
        self,
        *,
        side: Literal[0, 1],
        namespaces: Callable[[str], dict[str, Any]] | None = None,
        identities: Identities | None = None,
    ) -> None:
        self._identities = identities or Identities()
        private: dict[str, dict[str, Any]] = {}
        self.namespace = namespaces or (lambda module: private.setdefault(module, {}))
        self._next: int = side
        self._objects: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}  # by id(); _objects keeps them alive
        self._unopened: dict[int, bytes] = {}
        self._definitions: list[Definition] = []
        self._new: list[int] = []
        self._busy = False
        self._reset()

    def close(self) -> None:
        """Let go of everything. Nothing can be pickled any more."""
        del self._pickler
        self._objects.clear()

    def _reset(self) -> None:
        self._chunks: list[Chunk] = []
        self._buffers: list[Buffer] = []
        self._pickler = _Pickler(self, self._chunks, self._buffers)

    @trio.lowlevel.enable_ki_protection
    def dumps(self, value: object, root: str = "value") -> Pickled:
        """Pickle a message; root is what an error calls it ("args" gives "args[0].lock").

        Raises `UnsendableError` from whatever was raised meanwhile, also for a message larger than
        `MAX_MESSAGE_SIZE` bytes. Large bytes are not copied.
        """
        if self._busy:  # a __reduce__ that sends a message itself
            return self._dump_aside(value, root, [])
        self._busy = True
        try:
            pickler, chunks, buffers = self._pickler, self._chunks, self._buffers
            pickler.dump(value)
            if (
                len(chunks) == 1
                and len(chunks[0]) < _SHORT
                and not (buffers or self._definitions or pickler.is_used_up)
            ):
                pickler.clear_memo()
                short = chunks[:]
                chunks.clear()
                return short, [], []
        except BaseException as exc:
            self._reset()
            self._forget()
            if isinstance(exc, CallInterrupted):
                raise
            raise self._unsendable(value, root, exc) from exc
        finally:
            self._busy = False
        self._reset()
        return self._done(chunks, buffers, value, root)

    @trio.lowlevel.enable_ki_protection
    def dumps_whole(self, value: object, root: str = "value") -> tuple[bytes, list[Definition]]:
        """As `dumps`, all in one piece."""
        chunks, _, definitions = self._dump_aside(value, root, None)
        return b"".join(chunks), definitions

    def _dump_aside(self, value: object, root: str, buffers: list[Buffer] | None) -> Pickled:
        """Pickle a message, maybe in the middle of another, before which it will be sent."""
        outer = self._definitions, self._new
        self._definitions, self._new = [], []
        try:
            chunks: list[Chunk] = []
            try:
                _Pickler(self, chunks, buffers).dump(value)
            except BaseException as exc:
                self._forget()
                if isinstance(exc, CallInterrupted):
                    raise
                raise self._unsendable(value, root, exc) from exc
            chunks, views, definitions = self._done(chunks, buffers or [], value, root)
        finally:
            self._definitions, self._new = outer
        definitions = self._definitions + definitions  # it may refer to what the outer one has defined so far
        self._definitions, self._new = [], []
        return chunks, views, definitions

    def _done(self, chunks: list[Chunk], buffers: list[Buffer], value: object, root: str) -> Pickled:
        # A bytearray is here the very one that was pickled, and its owner may resize it before it is sent.
        chunks = [chunk if type(chunk) is bytes else bytes(chunk) for chunk in chunks]
        if len(chunks) > 1:
            chunks = without_frames(chunks)
        definitions = self._definitions
        views = [buffer for buffer in buffers if isinstance(buffer, memoryview)]
        size = max([body_size(chunks, views), *(len(blob) for _, blob in definitions)])
        if size > MAX_MESSAGE_SIZE:
            self._forget()
            words = f"{root}: it has {size} bytes; the limit is {MAX_MESSAGE_SIZE} bytes"
            raise UnsendableError(words, path=root, type_name=type_name(value))
        self._definitions, self._new = [], []
        return chunks, buffers, definitions

    def _unsendable(self, value: object, root: str, cause: BaseException) -> UnsendableError:
        def fails(part: object) -> BaseException | None:
            outer = self._definitions, self._new
            self._definitions, self._new = [], []
            try:
                _Pickler(self, [], []).dump(part)
            except CallInterrupted:
                raise
            except BaseException as exc:
                return exc.with_traceback(None)  # which would hold what holds the exception
            finally:
                self._forget()
                self._definitions, self._new = outer
            return None

        return unsendable(value, root, cause, fails)

    # Definitions: what is sent once and then known by number.

    def number(self, obj: object) -> int | None:
        return self._numbers.get(id(obj))

    def new_number(self) -> int:
        number = self._next
        self._next += 2
        return number

    def is_namespace(self, module: str, names: dict[str, Any]) -> bool:
        """True if these are the globals that functions of the module have here."""
        return getattr(sys.modules.get(module), "__dict__", None) is names or self.namespace(module) is names

    def add_definition(self, obj: object) -> int:
        """Write the definition of `obj`, with all that it needs and the other end does not have."""
        chunks: list[Chunk] = []
        group: list[Member] = []
        # The members are pickled after the object, when they are complete.
        _Pickler(self, chunks, None, group).dump((obj, group))
        for number, member, _ in group:
            self._bind(number, member)
            self._new.append(number)
        members = [_MEMBER.pack(number, self._identities.of(member)) for number, member, _ in group]
        self._definitions.append((group[0][0], b"".join([_COUNT.pack(len(group)), *members, *chunks])))
        return self._numbers[id(obj)]

    def _bind(self, number: int, obj: object) -> None:
        self._objects[number] = obj
        self._numbers[id(obj)] = number

    def _forget(self) -> None:
        """Take back the numbers of a message that will not be sent."""
        for number in self._new:
            obj = self._objects.pop(number)
            if self._numbers.get(id(obj)) == number:
                del self._numbers[id(obj)]
        self._definitions, self._new = [], []

    def define(self, number: int, blob: bytes) -> None:
        """A definition arrived. It is opened when a message first refers to it: one that fails to
        open then fails that message, and one that is skipped unread loses nothing.

        Raises `ProtocolError` if it is none.
        """
        size = _COUNT.size
        count = _COUNT.unpack_from(blob)[0] if len(blob) >= size else 0
        if not 0 < count <= (len(blob) - size) // _MEMBER.size:
            raise ProtocolError(f"not a definition: number {number}, {len(blob)} bytes")
        for member, identity in _MEMBER.iter_unpack(blob[size : size + _MEMBER.size * count]):
            if (known := self._identities.find(identity)) is not None:  # it has come by another way
                self._bind(member, known)
            elif member not in self._objects:
                self._unopened[member] = blob

    def find(self, number: int) -> Any:
        found = self._objects.get(number, _MISSING)
        return self._open(number) if found is _MISSING else found

    def _open(self, number: int) -> Any:
        blob = self._unopened.get(number)
        if blob is None:
            raise pickle.UnpicklingError(f"what was sent as number {number} has never arrived")
        (count,) = _COUNT.unpack_from(blob)
        start = _COUNT.size + _MEMBER.size * count
        _, members = pickle.loads(memoryview(blob)[start:])
        identities = dict(_MEMBER.iter_unpack(blob[_COUNT.size : start]))
        for member, obj, place in members:
            if self._unopened.pop(member, None) is None:
                continue
            self._bind(member, obj)
            self._identities.add(identities[member], obj)
            if place is not None:
                module, name = place
                self.namespace(module).setdefault(name, obj)
        return self._objects[number]

    @trio.lowlevel.enable_ki_protection
    def loads(self, body: Chunk, buffers: Sequence[Chunk | SharedBuffer] = ()) -> Any:
        """Unpickle a message. Raises `UnsendableError` from whatever was raised meanwhile."""
        is_large = len(body) >= LARGE
        if is_large and (built := built_in(body)) is not None:
            return built.open()
        outer, _local.codec = _local.codec, self
        try:
            if is_large and (work := work_here()) is not None:
                return load_in_pieces(work, body, buffers)
            return pickle.loads(body, buffers=buffers)
        except CallInterrupted:
            raise
        except BaseException as exc:
            words = f"cannot unpickle the message: {type(exc).__name__}: {try_str(exc)}"
            raise UnsendableError(words, type_name=type_name(exc)) from exc
        finally:
            _local.codec = outer
