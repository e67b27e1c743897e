"""Objects that are the same one in all isolates."""

from __future__ import annotations

import gc
from contextvars import ContextVar

from trio_isolates._identities import ID_SIZE, Identities
from trio_isolates._pickling import Codec


def make() -> type:
    class Made:
        pass

    return Made


def test_an_object_keeps_its_id() -> None:
    """An object has one id for its life; another has another."""
    identities, one, other = Identities(), make(), make()
    assert identities.of(one) == identities.of(one)
    assert identities.of(one) != identities.of(other)
    assert len(identities.of(one)) == ID_SIZE
    assert identities.find(identities.of(one)) is one


def test_ids_of_two_isolates_differ() -> None:
    """No two isolates give the same id."""
    made = make()
    assert Identities().of(made) != Identities().of(made)


def test_an_object_is_not_kept() -> None:
    """An object that nobody else needs is forgotten, and its id with it."""
    identities, made = Identities(), make()
    identity = identities.of(made)
    del made
    gc.collect()
    assert identities.find(identity) is None
    assert not identities._ids
    assert not identities._objects


def test_what_cannot_be_remembered_weakly() -> None:
    """A ContextVar gets an id, but is not known by it: it would have to be kept for ever."""
    identities, var = Identities(), ContextVar[int]("var")
    assert identities.find(identities.of(var)) is None


def test_the_same_object_by_two_links() -> None:
    """What arrives by a second link is what has come by the first."""
    made, home, there = make(), Identities(), Identities()
    links = [(Codec(side=0, identities=home), Codec(side=1, identities=there)) for _ in range(2)]
    arrived = []
    for sender, receiver in links:
        chunks, buffers, definitions = sender.dumps(made)
        for number, blob in definitions:
            receiver.define(number, blob)
        arrived.append(receiver.loads(b"".join(chunks), buffers))
    assert arrived[0] is arrived[1]
    assert arrived[0] is not made
