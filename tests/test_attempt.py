"""What the notebooks' checks hear of a solution, whatever it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn

import pytest
import trio

from notebooks.attempt import attempt


async def fail() -> NoReturn:
    raise KeyError("no row")


async def fail_in_nursery() -> None:
    async with trio.open_nursery() as outer, trio.open_nursery() as inner:
        inner.start_soon(fail)
        outer.start_soon(trio.sleep_forever)


async def yield_once() -> AsyncIterator[int]:
    yield 1


async def swallow() -> str:
    try:
        await trio.sleep_forever()
    except BaseException:
        return "sorry"


async def fail_when_cancelled() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise KeyError("no row")


async def never_wait() -> None:
    while True:
        pass


async def test_value() -> None:
    """What it returns is given, with no trouble."""
    came = await attempt(trio.sleep, 0)
    assert (came.value, came.error, came.is_late, came.trouble) == (None, None, False, "")


@pytest.mark.parametrize("function", [fail, fail_in_nursery])
async def test_error(function: Any) -> None:
    """What it raises is told; of a group, the first that is in it."""
    came = await attempt(function)
    assert isinstance(came.error, KeyError)
    assert not came.is_late
    assert came.trouble == "has raised KeyError: 'no row'"


@pytest.mark.parametrize("function", [yield_once, dict])
async def test_not_async(function: Any) -> None:
    """What nobody can await is told, and is no error."""
    came = await attempt(function)
    assert came.error is None
    assert "`async def`" in came.trouble


@pytest.mark.parametrize("function", [trio.sleep_forever, swallow, fail_when_cancelled])
async def test_no_end(function: Any) -> None:
    """What waits for ever is cancelled and late, whatever it then does."""
    came = await attempt(function, seconds=0.01)
    assert came.is_late
    assert came.value is None
    assert came.trouble


async def test_never_waits() -> None:
    """What keeps the loop to itself is interrupted, and Trio goes on."""
    came = await attempt(never_wait, seconds=0)
    assert came.is_late
    assert "keeps the loop busy" in came.trouble
    await trio.lowlevel.checkpoint()


async def test_cancelled_from_outside() -> None:
    """Who cancels the check cancels the attempt, which says nothing of it."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await attempt(trio.sleep_forever)
    assert scope.cancelled_caught
