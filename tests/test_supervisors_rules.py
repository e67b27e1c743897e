"""What a supervisor is told, and what it decides: tables without processes and clocks."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from attrs import define
from hypothesis import given
from hypothesis import strategies as st

from trio_isolates import ChildSpec, Restart, RestartLimitExceeded, SupervisorSpec, open_supervisor
from trio_isolates._child_spec import RestartType, Strategy
from trio_isolates._siblings import Siblings, Sweep

FAILED = OSError("failed")


@define(eq=False)
class Sibling:
    """A child that does nothing."""

    name: str
    spec: ChildSpec


def siblings(strategy: Strategy, restart: Restart, **kinds: RestartType) -> Siblings[Sibling]:
    made: Siblings[Sibling] = Siblings("family", strategy, restart)
    made.children = [Sibling(name, ChildSpec(print, restart=kind)) for name, kind in kinds.items()]
    return made


def names(children: list[Sibling]) -> str:
    return "".join(child.name for child in children)


def end(family: Siblings[Sibling], name: str, failure: BaseException | None = FAILED, now: float = 0) -> Any:
    """One of them ends; return whom the sweep is for, and when they are to start."""
    child = next(child for child in family.children if child.name == name)
    sweep = family.ended(child, failure, now)
    return sweep and (names(sweep.children), sweep.at)


def start(family: Siblings[Sibling], which: str) -> None:
    for child in list(family.children):
        if child.name in which:
            assert family.started(child)


# Which ends are answered.


@pytest.mark.parametrize(
    ("kind", "failure", "is_restarted"),
    [
        ("permanent", None, True),
        ("permanent", FAILED, True),
        ("transient", None, False),
        ("transient", FAILED, True),
        ("temporary", None, False),
        ("temporary", FAILED, False),
    ],
)
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
def test_which_ends(
    strategy: Strategy, kind: RestartType, failure: BaseException | None, is_restarted: bool
) -> None:
    """Permanent children are started again whatever their end, transient ones after a failure."""
    family = siblings(strategy, Restart(), a=kind)
    assert end(family, "a", failure) == (("a", 0) if is_restarted else None)
    assert family.restarts == is_restarted
    is_kept = is_restarted or (kind == "transient" and strategy != "one_for_one")
    assert names(family.children) == ("a" if is_kept else "")


@pytest.mark.parametrize(
    ("strategy", "swept"),
    [
        ("one_for_one", {"a": "a", "b": "b", "c": "c"}),
        ("one_for_all", {"a": "abc", "b": "abc", "c": "abc"}),
        ("rest_for_one", {"a": "abc", "b": "bc", "c": "c"}),
    ],
)
def test_with_whom(strategy: Strategy, swept: dict[str, str]) -> None:
    """The strategy says who is started again with a child, in the order in which all were started."""
    for name, expected in swept.items():
        family = siblings(strategy, Restart(), a="permanent", b="permanent", c="permanent")
        assert end(family, name) == (expected, 0)


def test_one_that_has_ended_well_comes_along() -> None:
    """A transient child that has returned is started again with its siblings; a temporary one is gone."""
    family = siblings("one_for_all", Restart(), a="permanent", b="transient", c="temporary", d="permanent")
    assert end(family, "b", None) is end(family, "c", None) is None
    assert end(family, "d") == ("abd", 0)
    assert family.restarts == 1


# How many.


def test_every_end_counts() -> None:
    """Returns and failures count alike; one more than is allowed gives up, with every cause in order."""
    policy = Restart(max_restarts=2, within=10, min_backoff=1, max_backoff=8, jitter=0)
    family = siblings("one_for_one", policy, a="permanent", b="transient", c="temporary")
    assert end(family, "a", None, 0) == ("a", 0)
    start(family, "a")
    end(family, "c", FAILED, 1)
    assert end(family, "b", FAILED, 2) == ("b", 3)
    start(family, "b")
    with pytest.raises(RestartLimitExceeded, match="'family': 3 ends within 10 seconds") as caught:
        end(family, "a", FAILED, 10)
    returned, *failed = caught.value.causes
    assert "'a' has returned" in str(returned)
    assert failed == [FAILED, FAILED]
    assert caught.value.__cause__ is FAILED


def test_a_sweep_counts_once() -> None:
    """However many are started again together, it is one restart of the number that is allowed."""
    policy = Restart(max_restarts=2, min_backoff=0, max_backoff=0)
    family = siblings("one_for_all", policy, a="permanent", b="permanent", c="permanent")
    for _ in range(2):
        assert end(family, "b") == ("abc", 0)
        start(family, "abc")
    assert family.restarts == 2
    with pytest.raises(RestartLimitExceeded):
        end(family, "a")


# One sweep after another.


def sweep(family: Siblings[Sibling], name: str) -> Sweep[Sibling]:
    made = family.ended(next(child for child in family.children if child.name == name), FAILED, 0)
    assert made is not None
    return made


async def test_a_sweep_is_overtaken() -> None:
    """A larger sweep takes over those whom the first has not started; that one is over."""
    family = siblings("rest_for_one", Restart(), a="permanent", b="permanent", c="permanent")
    first = sweep(family, "b")
    assert all(family.is_waiting(child) == (child.name != "a") for child in family.children)
    second = sweep(family, "a")
    assert (names(first.children), names(second.children)) == ("", "abc")
    assert first.scope.cancel_called and not second.scope.cancel_called


async def test_one_that_fails_while_others_still_wait() -> None:
    """A child that ends again during its sweep begins another one, which has all that are left."""
    family = siblings("rest_for_one", Restart(), a="permanent", b="permanent", c="permanent", d="permanent")
    first = sweep(family, "b")
    start(family, "bc")
    assert names(first.children) == "d"
    second = sweep(family, "c")
    assert first.scope.cancel_called
    assert names(second.children) == "cd"


def test_sweeps_side_by_side() -> None:
    """Sweeps that have no child in common do not disturb each other."""
    family = siblings("one_for_one", Restart(), a="permanent", b="permanent")
    first, second = sweep(family, "a"), sweep(family, "b")
    assert (names(first.children), names(second.children)) == ("a", "b")
    later = siblings("rest_for_one", Restart(), a="permanent", b="permanent")
    first = sweep(later, "a")
    newcomer = Sibling("c", ChildSpec(print))
    later.starting.append(newcomer)
    assert not later.started(newcomer)
    second = sweep(later, "c")
    assert (names(first.children), names(second.children)) == ("ab", "c")


async def test_nobody_is_started_any_more() -> None:
    """A child that is forgotten waits for no start; at the end nobody does."""
    family = siblings("one_for_all", Restart(), a="permanent", b="permanent", c="permanent")
    only = sweep(family, "a")
    family.forget(family.children[1])
    assert names(only.children) == names(family.children) == "ac"
    family.end()
    assert only.scope.cancel_called
    assert only.children == []


@given(
    st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
    st.lists(st.tuples(st.sampled_from(["end", "start", "add", "forget"]), st.integers(0, 9)), max_size=40),
)
def test_nobody_waits_twice(strategy: Strategy, steps: list[tuple[str, int]]) -> None:
    """Whatever happens, a child waits in one sweep at most, and every sweep keeps the children's order."""
    family: Siblings[Sibling] = Siblings("family", strategy, Restart(max_restarts=1000))
    sweeps: list[Sweep[Sibling]] = []
    for number, (step, which) in enumerate(steps):
        if step == "add":
            newcomer = Sibling(str(number), ChildSpec(print))
            family.starting.append(newcomer)
            family.started(newcomer)
        elif family.children:
            child = family.children[which % len(family.children)]
            if step == "forget":
                family.forget(child)
            elif step == "start":
                family.started(child)
            elif all(child not in each.children[1:] for each in sweeps):  # it lived, or its start has failed
                made = family.ended(child, FAILED, 0)
                assert made is not None
                sweeps.append(made)
        waiting = [child for each in sweeps for child in each.children]
        assert len(waiting) == len(set(waiting))
        assert all(family.is_waiting(child) and child in family.children for child in waiting)
        for each in sweeps:
            assert each.children == sorted(each.children, key=family.children.index)


# The records.


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ChildSpec(3), TypeError, "entry must be callable"),  # type: ignore[call-overload]
        (lambda: ChildSpec(None), TypeError, "entry must be a function"),  # type: ignore[call-overload]
        (lambda: ChildSpec("no_colon"), ValueError, "package.module:function"),
        (lambda: ChildSpec(lambda: (yield)), TypeError, "no generator function"),
        (lambda: ChildSpec(print, [1]), TypeError, r"args= must be a tuple, not \[1\]$"),  # type: ignore[call-overload]
        (lambda: ChildSpec(print, (5)), TypeError, r"args= .* not 5; a single argument is \(5,\)$"),  # type: ignore[call-overload]
        (lambda: ChildSpec(print, restart="always"), ValueError, "restart= must be one of 'permanent'"),  # type: ignore[call-overload]
        (lambda: ChildSpec(print, restart=Restart()), ValueError, "'temporary'; how often, say by"),  # type: ignore[call-overload]
        (lambda: ChildSpec(print, shutdown=-1), ValueError, "shutdown= must be 0 seconds or more, not -1$"),
        (lambda: ChildSpec(print, shutdown=math.nan), ValueError, "shutdown= must be 0 seconds or more"),
        (lambda: ChildSpec(print, shutdown="5"), TypeError, "shutdown= must be a number .* not '5'$"),  # type: ignore[call-overload]
        (lambda: ChildSpec(print, name=3), TypeError, "name= must be a str, not 3$"),  # type: ignore[call-overload]
        (lambda: ChildSpec(print, name=""), ValueError, "name= must not be empty"),
        (lambda: SupervisorSpec([print]), TypeError, "ChildSpec or a SupervisorSpec"),  # type: ignore[list-item]
        (lambda: SupervisorSpec(ChildSpec(print)), TypeError, "children= must be a list .* not ChildSpec"),  # type: ignore[arg-type]
        (lambda: SupervisorSpec(3), TypeError, "children= must be a list .* not 3$"),  # type: ignore[arg-type]
        (lambda: SupervisorSpec(strategy="all"), ValueError, "strategy= must be one of .* not 'all'$"),  # type: ignore[arg-type]
        (lambda: SupervisorSpec(policy=3), TypeError, "policy= must be a Restart, not 3$"),  # type: ignore[arg-type]
        (lambda: SupervisorSpec(restart=Restart()), ValueError, "'transient'.* policy= of SupervisorSpec"),  # type: ignore[arg-type]
        (lambda: SupervisorSpec(name="a\nb"), ValueError, r"name= must be printable text, not 'a\\nb'$"),
        (lambda: open_supervisor(name=""), ValueError, "name= must not be empty"),
        (lambda: open_supervisor("all"), ValueError, "strategy"),  # type: ignore[arg-type]
        (lambda: open_supervisor(restart="permanent"), TypeError, "restart= must be a Restart"),  # type: ignore[arg-type]
    ],
)
def test_refused(make: Callable[[], object], error: type[Exception], words: str) -> None:
    """What makes no sense is refused where it is said, before anything is started."""
    with pytest.raises(error, match=words):
        make()


def test_specs_are_frozen_values() -> None:
    """Specs are equal by value, and cross to an isolate, which may supervise, too."""
    spec = ChildSpec(print, (1, "x"), restart="transient", shutdown=math.inf, name="printer")
    tree = SupervisorSpec([spec, SupervisorSpec()], strategy="rest_for_one", policy=Restart(max_restarts=1))
    assert pickle.loads(pickle.dumps(tree)) == tree != SupervisorSpec([spec])
    assert tree.children == (spec, SupervisorSpec())
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        spec.shutdown = 1  # type: ignore[misc]
