"""Main programs, each with a class or function `obj`, and a `probe` that tells whether it works."""

from __future__ import annotations

from typing import Final

CLASSES: Final = {
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
            missing = [f.default is MISSING for f in fields(obj)]
            names = [f.name for f in fields(obj)]
            return asdict(a), replace(a, x=2, i=2).w, repr(a), a < obj(2), missing, repr(Sub(1)), names
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
            return o.twice, o.twice, o.more(), repr(o), hasattr(o, "__dict__"), attrs.asdict(o)
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
            values = obj(), Stranger(), b"", ""
            return refused, obj().f(), [isinstance(value, Base) for value in values]
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
            bases = Sub.__orig_bases__ == (obj[int, [str]],)
            parameters = obj.__parameters__ == (T, P), Pair.__parameters__ == (Ts,)
            return Sub().f(1), str(obj[int, [str]]), bases, parameters
    """,
    "metaclass": """
        class Meta(type):
            made = []
            def __new__(mcs, name, bases, names):
                return super().__new__(mcs, name, bases, {**names, "by": "Meta"})
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
    "a base that wants to know more of its subclasses": """
        class Base:
            def __init_subclass__(cls, *, key, **more): cls.key = key.upper(); cls.length = len(cls.word)
        class obj(Base, key="k"):
            word = "abc"
        def probe(obj):
            class Sub(obj, key="s"):
                word = "abcd"
            return obj.key, obj.length, Sub.key, Sub.length
    """,
    "Enum": """
        import enum
        class Outer:
            class Inner(enum.Enum):
                A = 1
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
                    [m.value for m in obj], repr(obj.RED), Outer.Inner.__qualname__)
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
            names = list(obj.__members__), [m.name for m in obj], repr(obj.RW)
            return obj["RW"] == obj.R | obj.W, names, obj.R in obj.RW, int(Kept(9)), Word.A + "b"
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
        def probe(obj):
            return obj(x=1, y=""), obj.__required_keys__, obj.__optional_keys__, sorted(obj.__annotations__)
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

FUNCTIONS: Final = {
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
