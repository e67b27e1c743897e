"""`open_supervisor`: isolates that are started again when they end, as OTP's supervisors do it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from ._checks import check_name
from ._child_spec import Strategy, check_strategy
from ._restart import Restart
from ._tree import Supervisor, open_tree


def open_supervisor(
    strategy: Strategy = "one_for_one", restart: Restart = Restart(), *, name: str | None = None
) -> AbstractAsyncContextManager[Supervisor]:
    """Keep isolates running for the length of a block: those that end are started again. OTP's `supervisor`.

        async with open_supervisor(restart=Restart(max_restarts=5, within=60)) as supervisor:
            await supervisor.start(ChildSpec(serve, (port.send_port,)))
            async for request in port:
                ...

    Every end that is answered by a restart counts, also a return; those of several children that are
    stopped and started again together count once, a start again that fails is one more. With more than
    `restart` allows, the supervisor gives up: the body is cancelled, all children are stopped, and
    `RestartLimitExceeded` comes out of the block, with every cause. What else a child raises, also in its
    clean-up, comes out of no block: it is a warning of the logger "trio_isolates.supervisor", which says what
    becomes of the child, and is kept for `Child.statistics`.

    A restart waits as `Restart` says. Meanwhile siblings that are restarted with the child are stopped,
    the others run, and children can be started and stopped. A cancelled block starts nothing again.

    **Children are services: the block does not wait for them.** However it is left, they are stopped in
    reverse order, each when the one started after it is gone, within its own `shutdown`; a second Ctrl-C
    kills them.

    Start a `SupervisorSpec` for a supervisor below this one. It is a task of this process, and its
    children are isolates as all others.

    Args:
        strategy: who is stopped, in reverse order, and started again, in order, when a child is:
            "one_for_one": it alone; "one_for_all": all children; "rest_for_one": it and those started
            after it. Of those that are stopped, temporary ones are not started again; transient ones that
            had ended well are.
        restart: how often.
        name: shown in errors.

    Raises:
        RestartLimitExceeded: as said above.
    """
    check_strategy(strategy)
    if not isinstance(restart, Restart):
        raise TypeError(f"restart= must be a Restart, not {restart!r}")
    check_name(name)
    return open_tree(Supervisor(strategy, restart, name))
