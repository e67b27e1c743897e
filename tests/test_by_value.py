"""What the main program defines, at the other end: it works there, and is itself when it comes home."""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any

import pytest
from ends import Pair

CLASSES = {
    "plain": """
        class obj:
            '''Documented.'''
            limit = 5
            @property
            def double(self): return 2 * self.limit
            @classmethod
            def make(cls): return cls()
            @staticmethod
            def add(a, b): return a + b
            class Inner:
                x = 1
        def probe(obj):
            o = obj.make()
            return o.double, o.add(1, 2), obj.__doc__, obj.__qualname__, obj.Inner.__qualname__, obj.Inner.x
    """,
    "slots": """
        class Base:
            __slots__ = "only"
        class obj(Base):
            __slots__ = ("a", "__private", "__dict__")
            def __init__(self, a): self.a, self.__private, self.only, self.more = a, a + 1, 3, 4
            def sum(self): return self.a + self.__private + self.only + self.more
        def probe(obj): return obj(1).sum(), hasattr(Base(), "__dict__"), sorted(obj.__slots__)
    """,
    "slots with documentation": """
        class obj:
            __slots__ = {"a": "what a is"}
        def probe(obj):
            o = obj()
            o.a = 1
            return o.a, obj.__slots__, hasattr(o, "__dict__")
    """,
    "dataclass": """
        from dataclasses import MISSING, KW_ONLY, InitVar, asdict, dataclass, field, fields, replace
        from typing import ClassVar
        @dataclass(order=True)
        class obj:
            x: int
            y: list = field(default_factory=list)
            n: ClassVar[int] = 7
            i: InitVar[int] = 1
            _: KW_ONLY
            z: int = 3
            def __post_init__(self, i): self.w = i
        def probe(obj):
            @dataclass
            class Sub(obj):
                more: int = 0
            a = obj(1, z=9)
            return (asdict(a), replace(a, x=2, i=2).w, repr(a), a < obj(2), [f.default is MISSING for f in fields(obj)],
                    repr(Sub(1)), [f.name for f in fields(obj)])
    """,
    "dataclass with slots": """
        from dataclasses import dataclass
        @dataclass(slots=True, frozen=True)
        class obj:
            x: int
            y: int = 2
        def probe(obj): return repr(obj(1)), obj(1) == obj(1, 2), hash(obj(1)) == hash(obj(1)), obj.__slots__
    """,
    "attrs with slots, super() and a cached property": """
        import functools, attrs
        @attrs.define
        class Base:
            x: int
            def more(self): return 1
        @attrs.define
        class obj(Base):
            y: list = attrs.field(factory=list, validator=attrs.validators.instance_of(list))
            @functools.cached_property
            def twice(self): return 2 * self.x
            def more(self): return super().more() + 1
        def probe(obj):
            o = obj(3)
            return o.twice, o.twice, o.more(), repr(o), hasattr(o, "__dict__"), attrs.asdict(o), __class__ is type
        __class__ = type
    """,
    "attrs, two classes with factories of the same name": """
        import attrs
        @attrs.define
        class Other:
            items: dict = attrs.field(factory=dict)
        @attrs.define
        class obj:
            items: list = attrs.field(factory=list)
        def probe(obj): return Other().items, obj().items
    """,
    "NamedTuple": """
        import collections, typing
        class obj(typing.NamedTuple):
            x: int
            y: str = "d"
            def both(self): return self.x, self.y
        Row = collections.namedtuple("Row", "a b")
        def probe(obj): return repr(obj(1)), obj(1)._replace(x=2).both(), obj(1)._asdict(), Row(1, 2)._fields
    """,
    "abstract": """
        import abc
        class Base(abc.ABC):
            @abc.abstractmethod
            def f(self): ...
            @property
            @abc.abstractmethod
            def p(self): ...
        class obj(Base):
            def f(self): return 1
            p = 2
        class Stranger: pass
        Base.register(Stranger)
        Base.register(bytes)
        def probe(obj):
            try: Base()
            except TypeError as exc: refused = "abstract" in str(exc)
            return (refused, obj().f(), isinstance(obj(), Base), isinstance(Stranger(), Base), isinstance(b"", Base),
                    isinstance("", Base))
    """,
    "Protocol": """
        import typing
        @typing.runtime_checkable
        class obj(typing.Protocol):
            def close(self) -> None: ...
        class Closes:
            def close(self): pass
        def probe(obj): return isinstance(Closes(), obj), isinstance(1, obj)
    """,
    "generic": """
        import typing
        T = typing.TypeVar("T")
        P = typing.ParamSpec("P")
        Ts = typing.TypeVarTuple("Ts")
        class obj(typing.Generic[T, P]):
            def f(self, x: T) -> T: return x
        class Pair(typing.Generic[typing.Unpack[Ts]]): pass
        class Sub(obj[int, [str]]): pass
        def probe(obj):
            return (Sub().f(1), obj.__parameters__ == (T, P), str(obj[int, [str]]), Sub.__orig_bases__ == (obj[int, [str]],),
                    Pair.__parameters__ == (Ts,))
    """,
    "metaclass": """
        class Meta(type):
            made = []
            def __new__(mcs, name, bases, names): return super().__new__(mcs, name, bases, {**names, "by": "Meta"})
            def __len__(cls): return 42
        class obj(metaclass=Meta):
            pass
        def probe(obj): return len(obj), obj.by, type(obj) is Meta
    """,
    "metaclass that forbids changes": """
        class Meta(type):
            def __setattr__(cls, name, value): raise AttributeError(name)
        class obj(metaclass=Meta):
            x = 1
        def probe(obj): return obj.x
    """,
    "a cycle through the class": """
        class obj:
            all = []
            def __init__(self, name): self.name = name; self.all.append(self)
        obj.first = obj("a")
        obj.me = obj
        def probe(obj): return obj.first.name, obj.all == [obj.first], type(obj.first) is obj, obj.me is obj
    """,
    "a base that is told of its subclasses": """
        class Base:
            known = {}
            def __init_subclass__(cls, *, key, **more): Base.known[key] = cls; cls.key = key
        class obj(Base, key="k"):
            x = 1
        def probe(obj): return obj.x, obj.key, Base.known["k"] is obj, len(Base.known)
    """,
    "Enum": """
        import enum
        class obj(enum.Enum):
            RED = 1
            CRIMSON = 1
            BLUE = enum.auto()
            @property
            def low(self): return self.name.lower()
            @classmethod
            def _missing_(cls, value): return cls.BLUE
        def probe(obj):
            return (list(obj.__members__), obj["CRIMSON"] is obj.RED is obj(1), obj.BLUE.low, obj(99).name,
                    [m.value for m in obj], repr(obj.RED), obj.CRIMSON is obj.RED)
    """,
    "Enum whose members have attributes": """
        import enum
        class obj(enum.Enum):
            EARTH = (5.9, 6.3)
            MARS = (0.6, 3.3)
            def __init__(self, mass, radius): self.mass = mass; self.radius = radius
            @property
            def ratio(self): return self.mass / self.radius
        class Status(int, enum.Enum):
            def __new__(cls, value, phrase):
                self = int.__new__(cls, value); self._value_ = value; self.phrase = phrase
                return self
            OK = 200, "fine"
        def probe(obj):
            return obj.MARS.mass, obj.EARTH.ratio, obj((0.6, 3.3)).name, Status(200).phrase, Status.OK + 1
    """,
    "Flag": """
        import enum
        class obj(enum.Flag):
            R = 1
            W = 2
            RW = 3
        class Kept(enum.IntFlag, boundary=enum.KEEP):
            A = 1
        class Word(enum.StrEnum):
            A = "a"
        def probe(obj):
            return (obj["RW"] == obj.R | obj.W, list(obj.__members__), repr(obj.RW), obj.R in obj.RW, int(Kept(9)),
                    Word.A + "b", [m.name for m in obj])
    """,
    "cached property": """
        import functools
        class obj:
            @functools.cached_property
            def x(self): '''doc'''; return [1]
            @functools.singledispatchmethod
            def kind(self, value): return "other"
            @kind.register
            def _(self, value: int): return "int"
        def probe(obj):
            o = obj()
            return o.x, o.x is o.x, obj.x.__doc__, o.kind(1), o.kind("")
    """,
    "TypedDict": """
        import typing
        class Base(typing.TypedDict, total=False):
            x: int
        class obj(Base):
            y: typing.Required[str]
        def probe(obj): return obj(x=1, y=""), obj.__required_keys__, obj.__optional_keys__, sorted(obj.__annotations__)
    """,
    "exception": """
        class obj(Exception):
            def __init__(self, code): super().__init__(f"code {code}"); self.code = code
        def probe(obj): return str(obj(3)), obj(3).code, issubclass(obj, Exception)
    """,
    "made by a function": """
        def make(n):
            class Local:
                def value(self): return n
                def me(self): return __class__
            return Local
        obj = make(3)
        def probe(obj): return obj().value(), obj().me() is obj, obj.__qualname__
    """,
}

FUNCTIONS = {
    "with everything": """
        def obj(a: int, b: "str" = "x", *c, d=4, **e) -> float:
            "Documented."
            return a, b, c, d, e
        obj.note = {"k": 1}
        obj.__kwdefaults__["d"] = 5
        def probe(obj):
            return (obj(1), obj(1, 2, 3, f=4), obj.__annotations__, obj.__doc__, obj.note, obj.__defaults__,
                    obj.__kwdefaults__, obj.__name__, obj.__qualname__, obj.__module__)
    """,
    "that call each other": """
        def even(n): return n == 0 or obj(n - 1)
        def obj(n): return n != 0 and even(n - 1)
        def probe(obj): return obj(7), even(7), even(6)
    """,
    "async": """
        import trio
        async def obj(n):
            await trio.lowlevel.checkpoint()
            return n + 1
        def probe(obj): return trio.run(obj, 1)
    """,
    "generator": """
        def obj(n):
            for i in range(n):
                yield i
        async def agen():
            yield 1
        def probe(obj):
            import inspect
            return list(obj(3)), inspect.isasyncgenfunction(agen), agen().__class__.__name__
    """,
    "that refers to constants and nested functions": """
        SIZES = (1, 2)
        def helper(x): return x + SIZES[0]
        def obj(): return [(lambda y: helper(y))(n) for n in SIZES]
        def probe(obj): return obj()
    """,
    "annotated with what typing makes": """
        import typing
        UserId = typing.NewType("UserId", int)
        P = typing.ParamSpec("P")
        def obj(user: UserId, then: typing.Callable[P, int]) -> None: ...
        def probe(obj):
            return (obj.__annotations__["user"] is UserId, UserId.__module__, UserId(3), UserId.__supertype__,
                    obj.__annotations__["then"].__args__[0] is P, P.__module__)
    """,
    "cached": """
        import functools
        @functools.lru_cache(maxsize=50, typed=True)
        def obj(n):
            "Documented."
            return n if n < 2 else obj(n - 1) + obj(n - 2)
        def probe(obj):
            value = obj(20)
            return value, obj.cache_parameters(), obj.__doc__, obj.__wrapped__(1), obj.cache_info().currsize
    """,
    "dispatched by type": """
        import functools
        @functools.singledispatch
        def obj(x): return "other"
        @obj.register
        def _(x: int): return "int"
        obj(1.0)
        def probe(obj):
            obj.register(str, lambda x: "str")
            return obj(1), obj(2.0), obj("a"), int in obj.registry
    """,
    "a context manager": """
        from contextlib import contextmanager
        @contextmanager
        def obj(n):
            yield n + 1
        def probe(obj):
            with obj(1) as n:
                return n
    """,
}


@pytest.mark.parametrize("script", [*CLASSES.values(), *FUNCTIONS.values()], ids=[*CLASSES, *FUNCTIONS])
@pytest.mark.filterwarnings("ignore:coroutine method 'aclose'")
def test_there_and_back(script: str) -> None:
    """A class or function of the main program works in the worker as at home, and comes home as itself, untouched."""
    pair = Pair()
    pair.parent.run(script)
    obj, probe = pair.parent["obj"], pair.parent["probe"]
    names = dict(vars(obj))
    their_probe, theirs = pair.there((probe, obj))
    with pair.worker.at_work():
        there = their_probe(theirs)
    assert theirs is not obj
    home = pair.back([theirs, their_probe, theirs])
    assert home[0] is obj and home[1] is probe and home[2] is obj
    assert vars(obj).keys() - {"__slotnames__"} == names.keys()  # which is pickle's own
    assert all(vars(obj)[name] is names[name] for name in names)
    assert pair.there(obj) is theirs
    with pair.parent.at_work():
        assert there == probe(obj)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 695")
def test_type_parameters() -> None:
    """Classes and functions with type parameters in brackets cross, and so do type aliases, also recursive ones."""
    pair = Pair()
    pair.parent.run("""
        class Box[T]:
            def get(self, x: T) -> T: return x
        type Pair[T] = tuple[T, T]
        type Json = None | int | list[Json]
        def first[T](xs: list[T], pair: Pair[int], json: Json) -> T: return xs[0]
    """)
    box, first, alias = pair.there((pair.parent["Box"], pair.parent["first"], pair.parent["Json"]))
    assert (box[int]().get(3), first([4], 0, 0), box.__type_params__[0].__name__) == (3, 4, "T")
    assert first.__annotations__["json"] is alias and str(alias.__value__) == "None | int | list[Json]"
    assert str(first.__annotations__["pair"]) == "Pair[int]"
    assert pair.back((box, first, alias)) == tuple(pair.parent[name] for name in ("Box", "first", "Json"))


def test_what_a_worker_changes_stays_there() -> None:
    """A class variable set in the worker is not set in the parent when the class, or an instance, comes home."""
    pair = Pair()
    pair.parent.run("class Conf:\n    limit = 5\n    seen = []")
    conf = pair.parent["Conf"]
    theirs = pair.there(conf)
    theirs.limit = 99
    theirs.seen.append(1)
    theirs.more = 1
    home = pair.back((theirs, theirs()))
    assert home[0] is conf and type(home[1]) is conf
    assert (conf.limit, conf.seen, hasattr(conf, "more")) == (5, [], False)
    assert pair.there(conf).limit == 99


def test_members_are_themselves() -> None:
    """Members of an enum are identical to their enum's, there and at home."""
    pair = Pair()
    pair.parent.run("import enum\nclass Color(enum.Enum):\n    RED = 1\nclass Bit(enum.Flag):\n    A = 1\n    B = 2")
    color, bit = pair.parent["Color"], pair.parent["Bit"]
    red, both = pair.there((color.RED, bit.A | bit.B))
    assert red is pair.worker["Color"].RED
    assert both is pair.worker["Bit"].A | pair.worker["Bit"].B
    assert pair.back(red) is color.RED and pair.back(both) is bit.A | bit.B


def test_a_class_of_the_worker() -> None:
    """What a worker defines itself comes to the parent, and is itself when it goes back."""
    pair = Pair()
    pair.parent.run("class Base:\n    x = 1")
    pair.there(pair.parent["Base"])
    pair.worker.run("class Sub(Base):\n    y = 2\ndef f(): return Sub().x + Sub().y")
    sub, f, instance = pair.back((pair.worker["Sub"], pair.worker["f"], pair.worker["Sub"]()))
    assert sub.__bases__ == (pair.parent["Base"],) and type(instance) is sub and f() == 3
    assert pair.there(sub) is pair.worker["Sub"] and pair.there(f) is pair.worker["f"]
    assert "Sub" not in vars(pair.parent.main)


def test_two_workers() -> None:
    """A class that one worker has is the same class at home, and in a second worker, whoever made the instance."""
    first, second = Pair(), Pair()
    second.parent.main = first.parent.main
    first.parent.run("class Point:\n    def __init__(self, x): self.x = x")
    point = first.parent["Point"]
    home = first.back(first.there(point)(7))
    assert type(home) is point
    theirs = second.there(home)
    assert (type(theirs), theirs.x) == (second.worker["Point"], 7)
    first.worker.run("class Made:\n    pass")
    made = first.back(first.worker["Made"]())
    assert type(second.back(second.there(made))) is type(made)
    assert first.there(type(made)) is first.worker["Made"]


def test_instances_of_every_kind() -> None:
    """Instances of classes with slots, of dataclasses, attrs classes and tuples keep what they hold, both ways."""
    pair = Pair()
    pair.parent.run("""
        import dataclasses, typing, attrs
        class Slots:
            __slots__ = ("a", "__b")
            def __init__(self): self.a, self.__b = 1, 2
            def __eq__(self, other): return (self.a, self.__b) == (other.a, other.__b)
            __hash__ = None
        @dataclasses.dataclass(slots=True, frozen=True)
        class Data:
            x: list
        @attrs.frozen
        class Attrs:
            x: dict
        class Row(typing.NamedTuple):
            x: int
        class Words(list):
            label = None
        words = Words("ab")
        words.label = "l"
        values = [Slots(), Data([1]), Attrs({"k": 2}), Row(3), words]
    """)
    values = pair.parent["values"]
    theirs = pair.there(values)
    assert [type(value).__name__ for value in theirs] == ["Slots", "Data", "Attrs", "Row", "Words"]
    assert not any(type(a) is type(b) for a, b in zip(values, theirs, strict=True))
    home = pair.back(theirs)
    assert home == values and [type(value) for value in home] == [type(value) for value in values]
    assert home[4].label == "l"


def test_functions_come_in_every_wrapping() -> None:
    """Partials, bound methods, callable objects, lambdas, static and class methods of the main program work there."""
    pair = Pair()
    pair.parent.run("""
        from functools import partial, partialmethod
        class Adder:
            def __init__(self, n): self.n = n
            def add(self, x): return x + self.n
            def __call__(self, x): return x + self.n
            @staticmethod
            def static(x): return x + 10
            @classmethod
            def of(cls, n): return cls(n).n
            both = partialmethod(add)
        add = lambda x, n=10: x + n
        wrapped = [partial(add, n=10), Adder(10).add, Adder(10), Adder.static, lambda x: add(x), Adder(10).both,
                   partial(Adder.add, Adder(10)), lambda x: Adder.of(x) + 10]
    """)
    wrapped = pair.parent["wrapped"]
    theirs = pair.there(wrapped)
    assert [function(1) for function in theirs] == [11] * 8
    home = pair.back(theirs)
    assert [function(1) for function in home] == [11] * 8
    assert home[3] is pair.parent["Adder"].static


def closures() -> list[Any]:
    count = 0

    def add() -> None:
        nonlocal count
        count += 1

    def get() -> int:
        return count

    def unset() -> Any:
        return later

    if count:
        later = 1
    return [add, get, unset]


def test_closures_share_their_variables() -> None:
    """Closures over the same variable still share it, one that is not yet assigned stays so, home is untouched."""
    pair, mine = Pair(), closures()
    add, get, unset = pair.there(mine)
    add()
    add()
    assert (get(), mine[1]()) == (2, 0)
    with pytest.raises(NameError):
        unset()
    assert isinstance(add, FunctionType) and add.__module__ == __name__
