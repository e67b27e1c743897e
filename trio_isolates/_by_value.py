"""Classes and functions that cannot be imported: taken apart here, put together there.

cloudpickle's reducers, and what those lose: cells that functions share, slots, an enum's aliases and
its members' attributes, classes whose base asks for keyword arguments, cached properties and functions.
This module does not know what has crossed before, nor whose globals a function gets.
"""

from __future__ import annotations

# cloudpickle has no types, and the parts that it is made of are private:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
import builtins
import dataclasses
import enum
import functools
import io
import sys
import types
import typing
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, ContextVar
from types import CellType, FunctionType
from typing import Any, Final, TypeAlias

import trio
from cloudpickle import cloudpickle as _cloudpickle

from ._views import reduce_view

cloudpickle: Any = _cloudpickle  # published without types
Reduced: TypeAlias = tuple[Any, ...]

_MAINS: Final = ("__main__", "__mp_main__")  # never imported by an isolate, whatever the parent calls it


def is_importable(obj: Any) -> bool:
    """True if an isolate finds this class, function or other named thing by its module's name and its own."""
    try:
        if obj.__module__ is None or obj.__module__ in _MAINS or "<" in obj.__qualname__:
            return False  # a lambda's name has one, and that of what a function makes
        if cloudpickle._PICKLE_BY_VALUE_MODULES:
            return isinstance(obj, type | FunctionType) and cloudpickle._should_pickle_by_reference(obj)
        if vars(sys.modules[obj.__module__]).get(obj.__qualname__) is obj:
            return True
    except (AttributeError, KeyError, TypeError):
        pass
    if isinstance(obj, type | FunctionType):
        return bool(cloudpickle._should_pickle_by_reference(obj))
    return is_held(obj)


def is_held(obj: Any) -> bool:
    """True if the object's module has it under the object's name: it lives as long as the module does."""
    try:
        found = sys.modules[obj.__module__]
        for name in _name(obj).split("."):
            found = getattr(found, name)
    except Exception:  # a module, or a metaclass, may answer with anything
        return False
    return found is obj


def _name(obj: Any) -> str:
    name: str = getattr(obj, "__qualname__", None) or obj.__name__  # what typing makes has only that
    return name


def find_context_var(var: ContextVar[Any]) -> tuple[str, str] | None:
    """Return the module and the name under which a module-level context variable is found, or None.

    A module that can be imported is preferred: the main program may only have imported it from there.
    """
    place = None
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is var:
                if module_name not in _MAINS:
                    return module_name, name
                place = "__main__", name
    return place


def find_place(obj: Any) -> tuple[str, str] | None:
    """Return the module and the name of a global that is this object in its own module, or None."""
    if isinstance(obj, ContextVar):
        return find_context_var(obj)
    try:
        module, name = obj.__module__, _name(obj)
        found = vars(sys.modules[module]).get(name)
    except (AttributeError, KeyError, TypeError):
        return None
    return (module, name) if found is obj else None


def reduce_class(cls: type) -> Reduced:
    """Reduce a class, whatever it is, to how it is made again."""
    if any(base.__module__.partition(".")[0] == "msgspec" for base in type.mro(type(cls))):
        raise TypeError(f"the msgspec.Struct {cls.__qualname__!r} must be defined in an importable module")
    if issubclass(cls, enum.Enum):
        return _reduce_enum(cls)
    names = _names(cls)
    first: dict[str, Any] = {"__qualname__": cls.__qualname__}
    for name in ("__module__", "__orig_bases__"):
        if name in names:
            first[name] = names.pop(name)
    if isinstance(own_dict := vars(cls).get("__dict__"), property):
        first["__dict__"] = own_dict
    if "__slots__" in names:
        first["__slots__"] = names.pop("__slots__")
    bases = cls.__bases__
    if type(cls).__name__ == "_TypedDictMeta":  # which takes nothing but what it has made itself
        bases = (sys.modules[type(cls).__module__].TypedDict,)
    return make_class, (type(cls), cls.__name__, bases, first), (names, {}), None, None, set_class


def _names(cls: type) -> dict[str, Any]:
    names: dict[str, Any] = cloudpickle._class_getstate(cls)[0]
    names.pop("__msgspec_cache__", None)  # what msgspec has found out about it, and would again
    if "_abc_impl" in names:  # the registered subclasses, some of which may be gone
        names["_abc_impl"] = [subclass for subclass in names["_abc_impl"] if subclass is not None]
    return names


def set_class(cls: Any, state: tuple[dict[str, Any], dict[str, dict[str, Any]]]) -> None:
    """Give a class the names of its namespace, and an enum's members the attributes of theirs."""
    names, members = state
    # Past the metaclass's own __setattr__. The line number goes when anything else is set.
    for name in sorted(names, key="__firstlineno__".__eq__):
        if name != "_abc_impl":
            type.__setattr__(cls, name, names[name])
    for subclass in names.get("_abc_impl", ()):
        cls.register(subclass)
    for name, attributes in members.items():
        vars(cls.__members__[name]).update(attributes)


def make_class(metaclass: type, name: str, bases: tuple[Any, ...], first: dict[str, Any]) -> type:
    """Make a class that has of its namespace only what cannot be set later."""

    def make() -> type:
        return types.new_class(name, bases, {"metaclass": metaclass}, lambda names: names.update(first))

    try:
        return make()
    except Exception:
        # An __init_subclass__ that wants keyword arguments, or names that are not there yet. What it
        # has done to the class is among the names that follow.
        owner = next((base for base in _ancestors(bases) if "__init_subclass__" in vars(base)), object)
        if owner is object:
            raise
        own = vars(owner)["__init_subclass__"]
        type.__setattr__(owner, "__init_subclass__", classmethod(lambda cls, **kwargs: None))
        try:
            return make()
        finally:
            type.__setattr__(owner, "__init_subclass__", own)


def _ancestors(bases: tuple[Any, ...]) -> Iterable[type]:
    return (cls for base in types.resolve_bases(bases) for cls in base.__mro__)


_MEMBER_OWN: Final = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_"})
_ENUM_OWN: Final = (
    "_generate_next_value_",
    "_member_names_",
    "_member_map_",
    "_member_type_",
    "_value2member_map_",
)


def _reduce_enum(cls: type[enum.Enum]) -> Reduced:
    # Iteration would leave out aliases.
    members = {name: member._value_ for name, member in cls.__members__.items()}
    names = _names(cls)
    for name in (*_ENUM_OWN, *members):
        names.pop(name, None)
    more = {
        member._name_: attributes
        for member in cls.__members__.values()
        if (attributes := {k: v for k, v in vars(member).items() if k not in _MEMBER_OWN})
    }
    names["__qualname__"] = cls.__qualname__
    options = {"boundary": cls._boundary_} if issubclass(cls, enum.Flag) else {}  # type: ignore[attr-defined]
    return make_enum, (cls.__bases__, cls.__name__, members, options), (names, more), None, None, set_class


def make_enum(bases: tuple[type, ...], name: str, members: dict[str, Any], options: dict[str, Any]) -> Any:
    metaclass: Any = type(bases[-1])
    namespace = metaclass.__prepare__(name, bases)
    for member, value in members.items():
        namespace[member] = value
    return metaclass.__new__(metaclass, name, bases, namespace, **options)


def function_state(function: FunctionType) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a function's own attributes, and what every function has; of its globals those that it uses."""
    state: tuple[dict[str, Any], dict[str, Any]] = cloudpickle._function_getstate(function)
    return state


def reduce_function(function: FunctionType, namespace: object) -> Reduced:
    """Reduce a function to how it is made again, with `namespace` for its globals."""
    attributes, slots = function_state(function)
    slots["__closure__"] = None  # its cells are in args: functions that share one still do
    args = function.__code__, namespace, function.__name__, function.__closure__
    return make_function, args, (attributes, slots), None, None, set_function


def make_function(
    code: types.CodeType, namespace: dict[str, Any], name: str, closure: tuple[CellType, ...] | None
) -> FunctionType:
    namespace.setdefault("__builtins__", builtins)
    return FunctionType(code, namespace, name, None, closure)


def set_function(function: FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Give a function its attributes; a global is set when it first arrives and never overwritten."""
    attributes, slots = state
    function.__dict__.update(attributes)
    for name, value in slots.items():
        if name == "__globals__":
            for key, arrived in value.items():
                function.__globals__.setdefault(key, arrived)
        elif name not in ("__closure__", "_cloudpickle_submodules"):
            setattr(function, name, value)


def _reduce_cached_function(function: Any) -> Reduced:
    """Reduce what `functools.lru_cache` made; the cache itself stays behind."""
    kept = {k: v for k, v in vars(function).items() if k not in ("__wrapped__", "cache_parameters")}
    parameters = function.cache_parameters()
    return make_cached_function, (function.__wrapped__, parameters["maxsize"], parameters["typed"]), kept


def make_cached_function(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_new_type(new: Any) -> Reduced:
    return typing.NewType, (new.__name__, new.__supertype__), dict(vars(new))


def _reduce_type_variable(var: Any) -> Reduced:
    return make_type_variable, (var.__module__, *cloudpickle._decompose_typevar(var)[:5])


def make_type_variable(module: str, *parts: Any) -> Any:
    made = cloudpickle._make_typevar(*parts, None)
    made.__module__ = module
    return made


def _reduce_type_parameter(parameter: Any) -> Reduced:
    return make_type_parameter, (parameter.__module__, type(parameter), parameter.__name__)


def make_type_parameter(module: str, kind: Callable[[str], Any], name: str) -> Any:
    made = kind(name)
    made.__module__ = module
    return made


def _reduce_type_alias(alias: Any) -> Reduced:
    if alias.__type_params__ or not alias.__name__.isidentifier():
        return make_type_alias, (alias.__name__, alias.__value__, alias.__type_params__)
    cell = CellType()
    return make_lazy_type_alias, (alias.__name__, cell), (cell, alias.__value__), None, None, set_type_alias


def make_type_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    return TypeAliasType(name, value, type_params=parameters)


def make_lazy_type_alias(name: str, cell: CellType) -> Any:
    """Make an alias that finds its value in the cell once it is asked: the value may speak of the alias."""
    names: dict[str, Any] = {"__cell__": cell}
    exec(f"type {name} = __cell__.cell_contents", names)
    return names[name]


def set_type_alias(alias: Any, state: tuple[CellType, Any]) -> None:
    state[0].cell_contents = state[1]


NAMED: Final[dict[type, Callable[[Any], Reduced]]] = {
    functools._lru_cache_wrapper: _reduce_cached_function,
    typing.NewType: _reduce_new_type,
    typing.TypeVar: _reduce_type_variable,
    typing.ParamSpec: _reduce_type_parameter,
    typing.TypeVarTuple: _reduce_type_parameter,
}
"""How those are reduced that pickle by a name of their own, besides functions."""

TypeAliasType: Any = getattr(typing, "TypeAliasType", None)  # since Python 3.12
if TypeAliasType is not None:
    NAMED[TypeAliasType] = _reduce_type_alias


def reduce_context_var(var: ContextVar[Any]) -> tuple[str, tuple[Any, ...]]:
    """Return the name of a variable and, if it has one, its default in a tuple."""
    try:
        return var.name, (Context().run(var.get),)
    except LookupError:
        return var.name, ()


def _reduce_cell(cell: CellType) -> Reduced:
    try:
        contents = (cell.cell_contents,)
    except ValueError:  # not assigned yet
        return CellType, ()
    return CellType, (), contents, None, None, set_cell


def set_cell(cell: CellType, contents: tuple[Any]) -> None:
    (cell.cell_contents,) = contents


def _reduce_cached_property(prop: functools.cached_property[Any]) -> Reduced:
    # Before Python 3.12 it has a lock.
    return functools.cached_property, (prop.func,), {k: v for k, v in vars(prop).items() if k != "lock"}


def _reduce_weak_mapping(mapping: Any) -> Reduced:
    return type(mapping), (), None, None, iter(list(mapping.items()))


def _reduce_file(file: io.TextIOWrapper) -> Reduced:
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name):
            return getattr, (sys, name)
    raise TypeError("cannot pickle '_io.TextIOWrapper' object")  # cloudpickle would send what is in the file


def _refuse(_: object) -> Reduced:
    raise TypeError("it stays with its loop; to be told something from there, send a port's send_port")


# They pickle, and the copy would be dead: what it is told is told to nobody.
STAYS: Final = (
    *(trio.Event, trio.Lock, trio.StrictFIFOLock, trio.Semaphore, trio.Condition, trio.CapacityLimiter),
    *(trio.MemorySendChannel, trio.MemoryReceiveChannel, trio.Nursery, trio.CancelScope),
    *(trio.lowlevel.ParkingLot, trio.lowlevel.Task, trio.lowlevel.TrioToken),
)
"""Types of Trio's whose objects are of use in their own loop only."""


def _constant(name: str) -> Callable[[object], str]:
    return lambda _: name


REDUCERS: Final[Mapping[type, Callable[[Any], Any]]] = {
    **cloudpickle.Pickler._dispatch_table,
    CellType: _reduce_cell,
    memoryview: reduce_view,
    io.TextIOWrapper: _reduce_file,
    functools.cached_property: _reduce_cached_property,
    weakref.WeakKeyDictionary: _reduce_weak_mapping,
    weakref.WeakValueDictionary: _reduce_weak_mapping,
    **dict.fromkeys(STAYS, _refuse),
    # Compared by identity, and without a reduction of their own.
    type(dataclasses.MISSING): _constant("MISSING"),
    type(dataclasses.KW_ONLY): _constant("KW_ONLY"),
    type(dataclasses._HAS_DEFAULT_FACTORY): _constant("_HAS_DEFAULT_FACTORY"),  # type: ignore[attr-defined]
}
"""How values of these exact types are reduced, besides what `copyreg` knows."""


def reduce_builtin(cls: type) -> Any:
    """Return how a class known everywhere is reduced, `NotImplemented` for "by name"; else None."""
    if cls.__module__ == "builtins" and (cls in cloudpickle._BUILTIN_TYPE_NAMES or cls in _SINGLETONS):
        return cloudpickle._class_reduce(cls)
    return NotImplemented if is_importable(cls) else None


_SINGLETONS: Final = (type(None), type(...), type(NotImplemented))
