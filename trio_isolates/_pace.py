"""Little by little, or in large helpings: when a link is read, and when credits are given.

This module only waits; what is read and given is the business of `_exchange` and `_inbox`.
"""

from __future__ import annotations

from typing import Final

import trio

from ._peers import Neighbour

_REST: Final = 0.001  # seconds for which a link is not read while what came by it waits to be received
_COMPANY: Final = 0.001  # seconds that credits wait for company, where somebody waits for them


async def rest(neighbour: Neighbour) -> None:
    """Read no more from there until what has come is about to be used up, or for a little while.

    Else the link would be read in vain, one message at a time, in each turn of the loop.
    """
    about_used_up = trio.Event()
    neighbour.read_on = about_used_up.set
    with trio.move_on_after(_REST):
        await about_used_up.wait()


@trio.lowlevel.enable_ki_protection
async def pay_debts(neighbour: Neighbour) -> None:
    """Give back, a little later, the places in windows that somebody waits for, for ever."""
    while True:
        owing = trio.Event()
        neighbour.on_debt = owing.set
        await owing.wait()
        await trio.sleep(_COMPANY)
        neighbour.pay()
