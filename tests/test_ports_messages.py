"""What goes through ports: copies, with identity and cycles kept inside one message, and buffers."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

import contract
import port_handlers as work
from contract import Entry, Kind, serving
from fifo import within
from handlers import MIB
from trio_isolates import Capability, ReceivePort, UnsendableError

kind = contract.kind


VALUES: list[Any] = [
    None,
    True,
    -1,
    2**200,
    1.5,
    float("inf"),
    1j,
    "",
    "text \U0001f41f \x00",
    b"\x00\xff",
    bytearray(b"abc"),
    (),
    (1, (2, [3])),
    [[], {}],
    {"a": {1: {2.0: None}}},
    {1, 2},
    frozenset({(1, 2)}),
    range(3),
    slice(1, 2),
    Fraction(1, 3),
    datetime(2024, 2, 29, tzinfo=UTC),
    Path("a/b"),
    int,
    len,
    Ellipsis,
]


@serving
@within(20)
async def test_values(kind: Kind, entry: Entry) -> None:
    """A message comes back equal and of the same type, whatever it is, alone and among others."""
    async with work.serving(entry) as server:
        for value in VALUES:
            back = await server.echo(value)
            assert back == value
            assert type(back) is type(value)
        assert await server.echo(VALUES) == VALUES


@serving
@within(20)
async def test_one_object_twice(kind: Kind, entry: Entry) -> None:
    """What stands twice in a message is one object on the other side too; what is only equal stays two."""
    one: list[int] = []
    async with work.serving(entry) as server:
        assert await server.ask(work.same, [one, one]) == (True, True)
        assert await server.ask(work.same, [one, []]) == (False, True)
        back = await server.echo({"a": one, "b": (one,)})
        assert back["a"] is back["b"][0]


@serving
@within(20)
async def test_list_in_itself(kind: Kind, entry: Entry) -> None:
    """A list that contains itself arrives as one that contains itself."""
    value: list[Any] = [1]
    value.append(value)
    async with work.serving(entry) as server:
        back = await server.echo(value)
        assert back[0] == 1
        assert back[1] is back


@serving
@within(20)
async def test_dict_in_itself(kind: Kind, entry: Entry) -> None:
    """A cycle through a dictionary, a list and a tuple arrives closed."""
    value: dict[str, Any] = {}
    value["way"] = [(value, "there")]
    async with work.serving(entry) as server:
        back = await server.echo(value)
        assert back["way"][0][0] is back


@serving
@within(20)
async def test_ring(kind: Kind, entry: Entry) -> None:
    """Objects that know each other are walked both ways, there and at home, as where they were made."""
    node = work.ring("a", "b", "c")
    async with work.serving(entry) as server:
        assert await server.ask(work.walk, node) == work.walk(node) == "abccb"
        back = await server.echo([node, node.right])
        assert back[0].right is back[1]
        assert back[0].left.left is back[1]


@serving
@within(20)
async def test_cycle_with_a_port(kind: Kind, entry: Entry) -> None:
    """A cycle may go through what holds a send port."""
    port: ReceivePort[Any] = ReceivePort()
    node: Any = work.ring("a", "b")
    node.port = port.send_port
    async with work.serving(entry) as server:
        back = await server.echo(node)
        assert back.right.right is back
        await back.right.right.port.send("home")
        assert await port.receive() == "home"


@serving
@within(20)
async def test_identity_ends_with_the_message(kind: Kind, entry: Entry) -> None:
    """The same object in two messages arrives as two; what is changed after it was sent arrives unchanged."""
    value = [1]
    async with work.serving(entry) as server:
        await server.there.send(value)
        value.append(2)
        await server.there.send(value)
        first, second = await server.home.receive(), await server.home.receive()
        assert (first, second) == ([1], [1, 2])
        first.append("mine")
        assert value == [1, 2]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_to_oneself() -> None:
    """A message to a port of the same isolate is a copy too, cycles kept."""
    port: ReceivePort[Any] = ReceivePort()
    value: list[Any] = [bytearray(b"abc")]
    value.append(value)
    await port.send_port.send(value)
    value[0][0] = 0
    back = await port.receive()
    assert back[0] == b"abc"
    assert back[1] is back is not value
    back[0][0] = 0  # and it is the receiver's to write


@serving
@within(20)
async def test_functions(kind: Kind, entry: Entry) -> None:
    """Functions, lambdas and closures are messages like others, those that call themselves too."""
    base = 10

    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    async with work.serving(entry) as server:
        assert await server.ask(lambda x: x + base, 1) == 11
        assert await server.ask(factorial, 5) == 120
        assert (await server.echo(factorial))(5) == 120


@serving
@within(20)
async def test_exceptions(kind: Kind, entry: Entry) -> None:
    """An exception is a message like others: it is received, not raised."""
    async with work.serving(entry) as server:
        back = await server.echo([KeyError("a", 1), StopIteration(3)])
        assert [type(error) for error in back] == [KeyError, StopIteration]
        assert back[0].args == ("a", 1)


@serving
@within(20)
async def test_capabilities(kind: Kind, entry: Entry) -> None:
    """A capability is equal to itself wherever it has been, and to no other."""
    one, other = Capability(), Capability()
    async with work.serving(entry) as server:
        back = await server.echo({one: "one", other: "other"})
        assert back[one] == "one"
        assert back[other] == "other"
        assert one != other
        assert len({one, other, *back}) == 2


@serving
@within(20)
async def test_not_to_be_sent(kind: Kind, entry: Entry) -> None:
    """What cannot be pickled is not sent, says where it stands, takes no place; the port lives."""
    port: ReceivePort[Any] = ReceivePort(1)
    async with work.serving(entry) as server:
        for _ in range(100):
            with pytest.raises(UnsendableError) as caught:
                await server.there.send({"jobs": [1, {"lock": port}]})
            assert caught.value.path == "message['jobs'][1]['lock']"
        with pytest.raises(UnsendableError):
            server.there.send_nowait(number for number in range(3))
        assert await server.echo("fine") == "fine"


@serving
@within(20)
async def test_not_to_be_received(kind: Kind, entry: Entry) -> None:
    """What does not unpickle is raised where it is received; the next message is received all the same."""
    port: ReceivePort[Any] = ReceivePort(2)
    async with work.serving(entry) as server:
        for _ in range(3):
            await server.ask(work.send_on, port.send_port, work.Failing, 5)
            assert await port.receive() is work.Failing
            assert await port.receive() == 5
            await server.ask(send_failing, port.send_port)
            with pytest.raises(UnsendableError, match="does not want to arrive"):
                await port.receive()
            await server.ask(send_failing, port.send_port)
            with pytest.raises(UnsendableError, match="does not want to arrive"):
                port.receive_nowait()


def send_failing(port: Any) -> None:
    port.send_nowait(work.Failing())


# Buffers.


@serving
@within(30)
async def test_arrays(kind: Kind, entry: Entry) -> None:
    """NumPy arrays of any layout arrive equal, and can be written by who receives them."""
    arrays = [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(10)[::3],
        np.zeros((0, 3)),
        np.arange(MIB // 8),
        np.array(7),
    ]
    async with work.serving(entry) as server:
        back = await server.echo(arrays)
        for ours, theirs in zip(arrays, back, strict=True):
            assert ours.dtype == theirs.dtype
            assert (ours == theirs).all()
            theirs[...] = 1
        shared = np.arange(1000)
        one, two = await server.echo((shared, shared))
        assert one is two


@serving
@within(30)
async def test_bytearrays(kind: Kind, entry: Entry) -> None:
    """A bytearray arrives as one of the receiver's own, which may be written and made longer."""
    value = bytearray(b"x" * 100_000)
    async with work.serving(entry) as server:
        back = await server.echo(value)
        assert type(back) is bytearray
        assert back == value
        back[0] = 0
        back += b"more"
        assert value[0] == ord("x")


@serving
@within(30)
async def test_20_mb(kind: Kind, entry: Entry) -> None:
    """20 MB of bytes go through a port and back, several of them behind each other."""
    value = bytes(range(250)) * 80_000
    async with work.serving(entry) as server, trio.open_nursery() as nursery:

        async def send() -> None:
            for _ in range(3):
                await server.there.send(value)

        nursery.start_soon(send)
        for _ in range(3):
            assert await server.home.receive() == value


@serving
@within(20)
async def test_memoryviews(kind: Kind, entry: Entry) -> None:
    """A memoryview arrives as bytes: what it looks at is copied, as it was when it was sent."""
    memory = bytearray(b"abcdef")
    async with work.serving(entry) as server:
        await server.there.send([memoryview(memory)[::2]])
        memory[0] = 0
        assert await server.home.receive() == [b"ace"]
