"""Values to bytes and back, and what cannot be sent.

A `Codec` is one end of a link. It remembers which classes and functions both ends know, so that
those which cannot be imported by name (the ones of `__main__` above all) cross once and keep their
identity. It does not know what a message means, and how bytes travel.

The law: a class or function that came from the other end goes back as the number it came under;
so its owner finds its own object again, and nothing at home is ever written to.
"""

from __future__ import annotations

import importlib
import operator
import pickle
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar
from types import FunctionType
from typing import Any, Final, Literal, TypeAlias, final

from cloudpickle import cloudpickle

from ._errors import CallInterrupted, UnsendableError
from ._messages import Chunk
from ._unsendable import locate, type_name

Pickled: TypeAlias = tuple[list[Chunk], list[memoryview], list[tuple[int, bytes]]]
"""A message: the pickle in chunks, the buffers beside it, the definitions that must go before it."""

_IN_BAND: Final = 4096  # bytes below which a buffer is cheaper inside the pickle
_COUNT: Final = struct.Struct("<I")
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


def _namespace(module: str, name: str | None, package: str | None) -> dict[str, Any]:
    namespace = _codec().namespace(module)
    namespace.setdefault("__name__", name)
    namespace.setdefault("__package__", package)
    return namespace


def _set_function(function: FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """As cloudpickle's, but a global is set when it first arrives and never overwritten."""
    _, slots = state
    for name, value in slots["__globals__"].items():
        function.__globals__.setdefault(name, value)
    slots["__globals__"] = {}
    cloudpickle._function_setstate(function, state)


def _context_var(module: str, attribute: str, name: str, default: Any) -> ContextVar[Any]:
    if module != "__main__":
        try:
            found = operator.attrgetter(attribute)(importlib.import_module(module))
        except (ImportError, AttributeError):
            pass
        else:
            if isinstance(found, ContextVar):
                return found
    namespace = _codec().namespace(module)
    known = namespace.get(attribute)
    if not isinstance(known, ContextVar):
        known = ContextVar(name) if default is _NO_DEFAULT else ContextVar(name, default=default)
        namespace[attribute] = known
    return known


_NO_DEFAULT: Final = "trio_isolates: no default"


def find_context_var(var: ContextVar[Any]) -> tuple[str, str] | None:
    """Return the module and the name under which a module-level context variable is found, or None."""
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is var:
                return module_name, name
    return None


def _reduce_context_var(var: ContextVar[Any]) -> tuple[Any, ...]:
    place = find_context_var(var)
    if place is None:
        raise TypeError(f"{var!r} is not the value of a module-level name, so the other side could not find it")
    default = Context().run(var.get, _NO_DEFAULT)
    return _context_var, (*place, var.name, default)


class _Namespace:
    """Stands for a function's globals: the other end has its own of that module."""

    def __init__(self, function: FunctionType) -> None:
        self._function = function

    def __reduce__(self) -> tuple[Any, ...]:
        names = self._function.__globals__
        return _namespace, (self._function.__module__ or "?", names.get("__name__"), names.get("__package__"))


def _reduce_class(cls: type) -> tuple[Any, ...]:
    """As cloudpickle's, without its process-wide table of classes, and with slots that survive."""
    if type(cls).__module__.partition(".")[0] == "msgspec":
        raise TypeError(f"the msgspec.Struct {cls.__qualname__!r} can only be sent if an importable module defines it")
    make, args, state, *rest = cloudpickle._dynamic_class_reduce(cls)
    args = (*args[:-2], None, None)  # the last two: the tracker id, and extra
    if make is cloudpickle._make_skeleton_class:
        extra = {"__qualname__": cls.__qualname__}
        names, slot_state = state
        if "__slots__" in names:
            slots = names.pop("__slots__")
            slots = (slots,) if isinstance(slots, str) else tuple(slots)
            extra["__slots__"] = slots
            for slot in slots:
                if slot.startswith("__") and not slot.endswith("__"):
                    names.pop(f"_{cls.__name__.lstrip('_')}{slot}", None)
            state = names, slot_state
        args = (*args[:3], {**args[3], **extra}, *args[4:])
    return make, args, state, *rest


def _is_numbered(obj: Any) -> bool:
    """True for classes, and functions that a module holds: they live as long as their module does."""
    if not isinstance(obj, FunctionType):
        return True
    found = sys.modules.get(obj.__module__ or "")
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)  # type: ignore[assignment]
    return found is obj


class _Sink:
    """The file that a pickler writes to. Large bytes arrive as the very object that was pickled."""

    def __init__(self, write: Callable[[Chunk], object]) -> None:
        self.write = write


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """group: the objects defined in place so far if this writes a definition, else None."""

    def __init__(
        self, codec: Codec, chunks: list[Chunk], buffers: list[memoryview] | None, group: list[tuple[int, Any]] | None
    ) -> None:
        def take(buffer: pickle.PickleBuffer) -> bool:
            try:
                view = buffer.raw()
            except BufferError:  # not contiguous
                return True
            if view.nbytes < _IN_BAND or buffers is None:
                return True
            buffers.append(view)
            return False

        super().__init__(_Sink(chunks.append), protocol=5, buffer_callback=take)
        self._codec = codec
        self._group = group

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is FunctionType:
            if cloudpickle._should_pickle_by_reference(obj):
                return NotImplemented
        elif issubclass(kind, type):
            reduced = _reduce_builtin(obj)
            if reduced is not None:
                return reduced
        elif kind is ContextVar:
            number = self._codec.number(obj)
            return _reduce_context_var(obj) if number is None else (_ref, (number,))
        else:
            return NotImplemented
        return self._reduce_dynamic(obj)

    def _reduce_dynamic(self, obj: Any) -> Any:
        number = self._codec.number(obj)
        if number is not None:
            return _ref, (number,)
        if _is_numbered(obj):
            if self._group is None:
                return _ref, (self._codec.add_definition(obj),)
            self._group.append((self._codec.new_number(), obj))
        if isinstance(obj, type):
            return _reduce_class(obj)
        function, args, state, *rest, _ = self._dynamic_function_reduce(obj)
        return function, args, state, *rest, _set_function

    def _function_getnewargs(self, func: FunctionType) -> tuple[Any, ...]:
        code, _, name, defaults, closure = super()._function_getnewargs(func)
        return code, _Namespace(func), name, defaults, closure


def _reduce_builtin(cls: type) -> Any:
    """Return how a class is pickled that needs no definition; None if it needs one."""
    if cls in cloudpickle._BUILTIN_TYPE_NAMES or cls in (type(None), type(...), type(NotImplemented)):
        return cloudpickle._class_reduce(cls)
    return NotImplemented if cloudpickle._should_pickle_by_reference(cls) else None


@final
class Codec:
    """One end of a link: pickles what goes out, unpickles what comes in.

    side: 0 or 1, another at each end; the numbers of what this end defines are 2 * k + side.
    namespaces: gives the dict that by-value functions of a module have as globals here. By default
    a private one for each module, so that nothing that arrives is ever written into a real module.
    """

    def __init__(
        self, *, side: Literal[0, 1], namespaces: Callable[[str], dict[str, Any]] | None = None
    ) -> None:
        private: dict[str, dict[str, Any]] = {}
        self.namespace = namespaces or (lambda module: private.setdefault(module, {}))
        self._next = side
        self._objects: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}  # by id(); _objects keeps them alive
        self._unopened: dict[int, tuple[int, bytes]] = {}
        self._definitions: list[tuple[int, bytes]] = []
        self._new: list[int] = []
        self._busy = False
        self._reset()

    def _reset(self) -> None:
        self._chunks: list[Chunk] = []
        self._buffers: list[memoryview] = []
        self._pickler = _Pickler(self, self._chunks, self._buffers, None)

    def dumps(self, value: object, root: str = "value") -> Pickled:
        """Pickle a message; root is what an error calls it ("args" gives "args[0].lock").

        Raises `UnsendableError` from whatever was raised meanwhile. Large bytes are not copied.
        """
        if self._busy:  # a __reduce__ that sends a message itself
            return self._dump_aside(value, root, out_of_band=True)
        self._busy = True
        try:
            pickle.Pickler.dump(self._pickler, value)
            self._pickler.clear_memo()
            chunks, buffers, definitions = self._chunks[:], self._buffers, self._definitions
            self._chunks.clear()
            if buffers:
                buffers = buffers[:]
                self._buffers.clear()
            if definitions:
                self._definitions, self._new = [], []
            return chunks, list(buffers), definitions if definitions else []
        except BaseException as exc:
            self._reset()
            self._forget()
            if isinstance(exc, CallInterrupted):
                raise
            raise self._unsendable(value, root, exc) from exc
        finally:
            self._busy = False

    def dumps_whole(self, value: object, root: str = "value") -> tuple[bytes, list[tuple[int, bytes]]]:
        """As `dumps`, all in one piece."""
        chunks, _, definitions = self._dump_aside(value, root, out_of_band=False)
        return b"".join(chunks), definitions

    def _dump_aside(self, value: object, root: str, *, out_of_band: bool) -> Pickled:
        chunks: list[Chunk] = []
        buffers: list[memoryview] = []
        outer = self._definitions, self._new
        self._definitions, self._new = [], []
        try:
            _Pickler(self, chunks, buffers if out_of_band else None, None).dump(value)
            return chunks, buffers, self._definitions
        except CallInterrupted:
            self._forget()
            raise
        except BaseException as exc:
            self._forget()
            raise self._unsendable(value, root, exc) from exc
        finally:
            self._definitions, self._new = outer

    def _unsendable(self, value: object, root: str, cause: BaseException) -> UnsendableError:
        def fails(part: object) -> BaseException | None:
            outer = self._definitions, self._new
            self._definitions, self._new = [], []
            try:
                _Pickler(self, [], [], None).dump(part)
            except BaseException as exc:
                return exc
            finally:
                self._forget()
                self._definitions, self._new = outer
            return None

        path, culprit, reason = locate(value, root, cause, fails)
        name = type_name(culprit)
        words = f"{path}: cannot pickle '{name}'"
        if isinstance(reason, RecursionError | pickle.PicklingError) and "recursion" in str(reason):
            words += ": it is nested too deeply"
        elif str(reason) and name.rpartition(".")[2] not in str(reason):
            words += f": {type(reason).__name__}: {reason}"
        return UnsendableError(words, path=path, type_name=name)

    # Definitions: what is sent once and then known by number.

    def number(self, obj: object) -> int | None:
        return self._numbers.get(id(obj))

    def new_number(self) -> int:
        number = self._next
        self._next += 2
        return number

    def add_definition(self, obj: object) -> int:
        """Write the definition of `obj`, with all that it needs and the other end does not have."""
        chunks: list[Chunk] = []
        group: list[tuple[int, Any]] = []
        first = self._next
        # The pairs are pickled after the object, when they are complete.
        _Pickler(self, chunks, None, group).dump((obj, group))
        for number, member in group:
            self._bind(number, member)
            self._new.append(number)
        self._definitions.append((first, _COUNT.pack(len(group)) + b"".join(chunks)))
        return self._numbers[id(obj)]

    def _bind(self, number: int, obj: object) -> None:
        self._objects[number] = obj
        self._numbers[id(obj)] = number

    def _forget(self) -> None:
        """Take back the numbers of a message that will not be sent."""
        for number in self._new:
            del self._numbers[id(self._objects.pop(number))]
        self._new = []
        self._definitions = []

    def define(self, number: int, blob: bytes) -> None:
        """A definition arrived. It is opened when a message first refers to it: one that fails to
        open then fails that message, and one that is skipped unread loses nothing.
        """
        (count,) = _COUNT.unpack_from(blob)
        for member in range(number, number + 2 * count, 2):
            self._unopened[member] = number, blob

    def find(self, number: int) -> Any:
        found = self._objects.get(number, _MISSING)
        return self._open(number) if found is _MISSING else found

    def _open(self, number: int) -> Any:
        _, blob = self._unopened[number]
        _, pairs = pickle.loads(memoryview(blob)[_COUNT.size :])
        for member, obj in pairs:
            self._bind(member, obj)
            self._unopened.pop(member, None)
            if "." not in obj.__qualname__ and obj.__module__:
                self.namespace(obj.__module__).setdefault(obj.__qualname__, obj)
        return self._objects[number]

    def loads(self, body: Chunk, buffers: Sequence[Chunk] = ()) -> Any:
        """Unpickle a message. Raises `UnsendableError` from whatever was raised meanwhile."""
        outer, _local.codec = _local.codec, self
        try:
            return pickle.loads(body, buffers=buffers)
        except CallInterrupted:
            raise
        except BaseException as exc:
            words = f"cannot unpickle the message: {type(exc).__name__}: {_str(exc)}"
            raise UnsendableError(words, type_name=type_name(exc)) from exc
        finally:
            _local.codec = outer


def _str(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:
        return "<its str() failed>"
