"""Actors: objects in isolates, their methods here, and what becomes of their state."""

from __future__ import annotations

import inspect
import os
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import trio
import trio.testing

import actor_handlers as work
import contract
import contract_handlers
from contract import Kind, those_with
from fifo import within
from trio_isolates import (
    IsolateSpawnError,
    UnsendableError,
    Worker,
    actor_method,
    actor_worker,
    open_actor,
)

kind, fifo, gate = contract.kind, contract.fifo, contract.gate

# As somebody would use it who has no type checker: sync methods are awaited.
open_any: Callable[..., Any] = open_actor

SYNC = [
    "add",
    "all",
    "called",
    "die",
    "fail",
    "get",
    "give_lock",
    "inherited",
    "place",
    "plus",
    "report",
    "tell_and_spin",
    "tell_and_yield",
]
ASYNC = ["add_async", "all_async", "fail_async", "refuse_to_be_cancelled", "take_part", "tell_and_wait"]

each_class = pytest.mark.parametrize("cls", [work.Counter, work.AsyncCounter])


# Methods.


@each_class
@pytest.mark.usefixtures("kind")
@within(20)
async def test_methods(cls: Any) -> None:
    """Methods are awaited, whatever they are at home; the object stays, and so does what it holds."""
    async with open_any(cls, 5) as actor:
        assert await actor.add(3) == 8
        assert await actor.add(1, times=2) == 10
        assert await actor.add(number=0) == await actor.get() == 10
        assert await actor.inherited() == cls.__name__
        assert await actor.called("!") == f"{cls.__name__}!"
        assert await actor.plus(1, b=2) == 3
        if cls is work.AsyncCounter:
            assert await actor.add_async(5, times=2) == 20
    async with open_any(partial(cls, step=10)) as actor, open_any(cls) as other:
        assert await actor.add(1) == 10
        assert await other.add(1) == 1


@those_with("own process")
@within(20)
async def test_the_object_lives_elsewhere(kind: Kind) -> None:
    """It is made in the worker underneath, which has the name that it was given, or that of its class."""
    async with open_any(work.Counter, name="counts") as actor, open_any(work.Counter) as other:
        assert await actor.place() == (actor_worker(actor).pid, "counts")
        pid, name = await other.place()
        assert pid != os.getpid()
        assert name.startswith("Counter-")


@each_class
@pytest.mark.usefixtures("kind")
@within(20)
async def test_streams(cls: Any) -> None:
    """A generator method is a stream; one that is left early is closed, and the object lives on."""
    async with open_any(cls, 3) as actor:
        methods = [actor.all, actor.all_async] if cls is work.AsyncCounter else [actor.all]
        for method in methods:
            async with method(more=1) as items:
                assert [item async for item in items] == [0, 1, 2, 3]
            async with method(100_000) as items:
                assert await items.receive() == 0
        assert await actor.get() == 3
        assert actor_worker(actor).statistics().cancelled == len(methods)


@each_class
@pytest.mark.usefixtures("kind")
@within(20)
async def test_errors(cls: Any) -> None:
    """What a method raises arrives as itself; wrong arguments and unsendable ones fail one call alone."""
    lock: Any = threading.Lock()
    async with open_any(cls, 3) as actor:
        with pytest.raises(work.CustomError, match="as it was told"):
            await actor.fail()
        with pytest.raises(TypeError, match="unexpected keyword argument 'nope'"):
            await actor.add(1, nope=2)
        paths: list[str] = []
        for args, kwargs in (((lock,), {}), ((1, [lock]), {}), ((1,), {"times": lock})):
            with pytest.raises(UnsendableError) as caught:
                await actor.add(*args, **kwargs)
            paths.append(caught.value.path)
        assert paths == ["args[0]", "args[1][0]", "kwargs['times']"]
        with pytest.raises(UnsendableError) as caught:
            await actor_worker(actor).run(print, lock)
        assert caught.value.path == "args[0]"
        async with actor.all(lock) as items:
            with pytest.raises(UnsendableError) as caught:
                await items.receive()
        assert caught.value.path == "args[0]"
        with pytest.raises(UnsendableError, match="result"):
            await actor.give_lock()
        if cls is work.AsyncCounter:
            with pytest.raises(work.CustomError, match="as it was told"):
                await actor.fail_async()
        assert await actor.get() == 3


@pytest.mark.usefixtures("kind")
@within(20)
async def test_progress() -> None:
    """Methods report their progress as handlers do."""
    heard: list[int] = []
    async with open_any(work.Counter) as actor:
        assert await actor.report(1, 2, on_progress=heard.append) == "done"
    assert heard == [1, 2]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_methods_of_builtin_classes() -> None:
    """A class may have its methods from a class that is written in C, and type arguments."""
    for cls in (work.Stack, work.Stack[int]):
        async with open_any(cls, [3, 1, 2]) as stack:
            await stack.append(0)
            await stack.sort(reverse=True)
            assert await stack.pop() == 0
            assert await stack.index(1) == 2
    async with open_any(dict, {"a": 1}) as mapping:
        await mapping.update(b=2)
        assert await mapping.pop("a") == 1
        assert await mapping.get("b") == 2


# What there is, and what is not.


@each_class
@pytest.mark.usefixtures("kind")
@within(20)
async def test_what_an_actor_has(cls: Any) -> None:
    """It has the public methods of the class, with their names, signatures and documentation."""
    async with open_any(cls) as actor:
        assert dir(actor) == sorted(SYNC + (ASYNC if cls is work.AsyncCounter else []))
        assert str(inspect.signature(actor.add)) == "(number: 'int', *, times: 'int' = 1) -> 'int'"
        assert str(inspect.signature(actor.plus)) == "(a: 'int', b: 'int') -> 'int'"
        assert str(inspect.signature(actor.called)) == "(more: 'str') -> 'str'"
        assert (actor.add.__name__, actor.add.__doc__) == ("add", "Add a number, and return the sum.")
        assert inspect.iscoroutinefunction(actor.add)
        assert cls.__name__ in repr(actor)
        assert repr(actor_worker(actor).name) in repr(actor)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("double", "'Counter.double' is no method"),
        ("triple", "'Counter.triple' is no method"),
        ("limit", "'Counter.limit' is no method"),
        ("declared", "'Counter.declared' is no method"),
        ("Nested", "'Counter.Nested' is no method"),
        ("_secret", "'_secret' is private"),
        ("__len__", "'__len__' is private"),
        ("ad", "'Counter' has no method 'ad'"),
        ("total", "'Counter' has no method 'total'"),
    ],
)
@pytest.mark.usefixtures("kind")
@within(20)
async def test_what_it_has_not(name: str, words: str) -> None:
    """All else is an error at once, which says what the name is and asks nobody."""
    async with open_any(work.Counter) as actor:
        with pytest.raises(AttributeError, match=words) as caught:
            getattr(actor, name)
        assert (caught.value.name, caught.value.obj) == (name, actor)
        with pytest.raises(AttributeError, match="only its methods"):
            setattr(actor, name, 1)
        with pytest.raises(AttributeError, match="only its methods"):
            delattr(actor, name)
        assert actor_worker(actor).statistics().done == 0


@pytest.mark.usefixtures("kind")
@within(20)
async def test_the_worker_underneath() -> None:
    """It can be asked, run functions and be closed; its `call` and `open_stream` take the method's name."""
    async with open_any(work.Counter, 2) as actor:
        worker = actor_worker(actor)
        assert isinstance(worker, Worker)
        assert await worker.run(abs, -1) == 1
        assert await worker.call("add", 1, times=3) == 5
        async with worker.open_stream("all") as items:
            assert [item async for item in items] == [0, 1, 2, 3, 4]
        assert worker.statistics().done == 3
        with pytest.raises(TypeError, match="name of a method"):
            await worker.call()
        with pytest.raises(TypeError, match="use `open_stream`"):
            await worker.call("all")
        async with worker.open_stream("get") as items:
            with pytest.raises(TypeError, match="use `call`"):
                await items.receive()
        with pytest.raises(AttributeError, match="nope"):
            await worker.call("nope")
        await worker.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await actor.get()
    with pytest.raises(TypeError, match="from open_actor"):
        actor_worker(work.Counter())


@pytest.mark.usefixtures("kind")
@within(20)
async def test_it_stays() -> None:
    """An actor cannot be sent, and its methods are what `actor_method` says that they are."""
    async with open_any(work.Counter) as actor:
        with pytest.raises(TypeError, match="an actor cannot be sent"):
            pickle.dumps(actor)
        assert actor_method(actor.get) is actor.get


# The opening.


@pytest.mark.parametrize("cls", [work.Counter, work.AsyncCounter, partial(work.Counter, step=2)])
@pytest.mark.usefixtures("kind")
@within(20)
async def test_it_cannot_be_made(cls: Any) -> None:
    """What the class raises comes out of the opening, as the cause of `IsolateSpawnError`."""
    with pytest.raises(IsolateSpawnError, match=r"cls\(\*args\) raised CustomError: below zero") as caught:
        async with open_any(cls, -1):
            raise AssertionError
    assert type(caught.value.__cause__) is work.CustomError


@pytest.mark.parametrize(
    ("cls", "args", "path"),
    [
        (work.Counter, (1, threading.Lock()), "args[1]"),
        (work.AsyncCounter, (threading.Lock(),), "args[0]"),
        (partial(work.Counter, step=cast(Any, threading.Lock())), (1,), "cls.keywords['step']"),
    ],
)
@pytest.mark.usefixtures("kind")
@within(20)
async def test_arguments_that_cannot_be_sent(cls: Any, args: tuple[Any, ...], path: str) -> None:
    """The path to what cannot be sent is in the caller's words; in the block it is that of the call."""
    with pytest.raises(UnsendableError) as caught:
        async with open_any(cls, *args):
            raise AssertionError
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        ((5,), {}, "cls must be a class, or a functools.partial of one, not 5"),
        ((work.Counter(),), {}, "cls must be a class"),
        ((work.apply,), {}, "cls must be a class"),
        (("actor_handlers:Counter",), {}, "cls must be a class"),
        ((work.Counter,), {"step": 5}, "unexpected keyword argument 'step'"),
        ((work.Counter,), {"state": list}, "unexpected keyword argument 'state'"),
        ((work.Counter,), {"teardown": print}, "unexpected keyword argument 'teardown'"),
        ((work.Counter,), {"concurrency": 2}, "concurrency= is for classes with async methods; 'Counter'"),
        ((work.AsyncCounter,), {"on_cancel": "kill"}, "on_cancel='kill' is for sync methods only"),
        ((work.Counter,), {"restart": True}, "restart= must be"),
        ((work.Counter,), {"name": 3}, "name= must be"),
        ((work.Counter,), {"init": 3}, "init= must be"),
        ((work.Counter,), {"context": 3}, "context= must be"),
        ((work.AsyncCounter,), {"concurrency": "3"}, "concurrency= must be"),
        ((work.Counter,), {"max_in_flight": "3"}, "max_in_flight= must be"),
        ((work.Counter,), {"cancel_grace": "3"}, "cancel_grace= must be"),
        ((work.Counter,), {"shutdown_grace": "3"}, "shutdown_grace= must be"),
        ((work.Counter,), {"engine": 3}, "engine= must be"),
    ],
)
def test_wrong_options(args: tuple[Any, ...], options: dict[str, Any], words: str) -> None:
    """What does not apply is an error at once."""
    with pytest.raises(TypeError, match=words.replace("(", "[(]")):
        open_any(*args, **options)
    for option in ("on_cancel", "gc"):
        with pytest.raises(ValueError, match=f"{option}= must be one of"):
            open_any(work.Counter, **{option: "nonsense"})


@pytest.mark.usefixtures("kind")
@within(20)
async def test_an_abstract_class() -> None:
    """A class of which there can be no object is one that cannot be made."""
    with pytest.raises(IsolateSpawnError, match="Protocols cannot be instantiated"):
        async with open_any(work.Interface):
            raise AssertionError


@pytest.mark.usefixtures("kind")
@within(20)
async def test_surroundings() -> None:
    """`init` runs before the object is made, and the variables of `context` travel with each call."""
    contract_handlers.SENT.set("mine")
    init = contract_handlers.set_in_init
    async with open_any(work.Context, init=init, context=[contract_handlers.SENT]) as actor:
        assert await actor.get() == ("mine", "by init")
