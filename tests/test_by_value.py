"""What the main program defines, at the other end: it works there, and is itself when it comes home."""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any

import pytest

from ends import Pair
from scripts import CLASSES, FUNCTIONS


@pytest.mark.parametrize("script", [*CLASSES.values(), *FUNCTIONS.values()], ids=[*CLASSES, *FUNCTIONS])
@pytest.mark.filterwarnings("ignore:coroutine method 'aclose'")
def test_there_and_back(script: str) -> None:
    """What the main program defines works in the worker as at home, and comes home as itself, untouched."""
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
    """Classes and functions with type parameters in brackets cross, and type aliases, also recursive ones."""
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
    """A class variable set in the worker is not set in the parent when the class comes home."""
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
    pair.parent.run(
        "import enum\nclass Color(enum.Enum):\n    RED = 1\nclass Bit(enum.Flag):\n    A = 1\n    B = 2"
    )
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
    """A class that one worker has is itself at home, and one class in a second worker."""
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
    """Instances of classes of every kind keep what they hold, both ways."""
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
    """Partials, methods of every kind, callable objects and lambdas of the main program work there."""
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
        wrapped = [partial(add, n=10), Adder(10).add, Adder(10), Adder.static, lambda x: add(x),
                   Adder(10).both, partial(Adder.add, Adder(10)), lambda x: Adder.of(x) + 10]
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
    """Closures over one variable still share it; one that is not yet assigned stays so."""
    pair, mine = Pair(), closures()
    add, get, unset = pair.there(mine)
    add()
    add()
    assert (get(), mine[1]()) == (2, 0)
    with pytest.raises(NameError):
        unset()
    assert isinstance(add, FunctionType) and add.__module__ == __name__
