"""What a supervisor is told of its children, and what it tells of them: records, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, TypeVarTuple, final, get_args, overload

from attrs import field, frozen

from ._checks import check_choice, check_name, check_seconds
from ._functions import is_generator
from ._options import check_callable
from ._restart import Restart

Ts = TypeVarTuple("Ts")

RestartType: TypeAlias = Literal["permanent", "transient", "temporary"]
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
ChildState: TypeAlias = Literal["starting", "running", "stopping", "waiting", "ended"]


@final
@frozen(init=False)
class ChildSpec:
    """An isolate that a supervisor starts, and starts again. OTP's `child_spec()` of a worker.

    Args:
        entry: what runs, as for `open_isolate`.
        args: a tuple of what it is called with; pickled anew at each start, as they are then.
        restart: which ends are answered by a restart: "permanent": every one, also a return;
            "transient": an exception or a death; "temporary": none.
        shutdown: seconds that it has to end when it is stopped, then it is killed; `math.inf`: wait.
        name: shown in errors and logs, and the same after a restart; printable text.
    """

    entry: Callable[..., Any] | str
    args: tuple[Any, ...]
    restart: RestartType
    shutdown: float
    name: str | None

    @overload
    def __init__(
        self,
        entry: str,
        args: tuple[object, ...] = ...,
        *,
        restart: RestartType = ...,
        shutdown: float = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        entry: Callable[[], object],
        *,
        restart: RestartType = ...,
        shutdown: float = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        entry: Callable[[*Ts], object],
        args: tuple[*Ts],
        *,
        restart: RestartType = ...,
        shutdown: float = ...,
        name: str | None = ...,
    ) -> None: ...
    def __init__(
        self,
        entry: Callable[..., Any] | str,
        args: tuple[Any, ...] = (),
        *,
        restart: RestartType = "permanent",
        shutdown: float = 5.0,
        name: str | None = None,
    ) -> None:
        given: object = entry
        check_callable("entry", given)
        if given is None or is_generator(given):
            raise TypeError(f"the entry must be a function that is no generator function, not {entry!r}")
        _check_args(args)
        _check_restart(restart)
        check_seconds("shutdown", shutdown)
        check_name(name)
        self.__attrs_init__(entry, args, restart, shutdown, name)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]


def _check_args(args: object) -> None:
    if not isinstance(args, tuple):
        hint = "" if isinstance(args, list) else f"; a single argument is ({args!r},)"
        raise TypeError(f"args= must be a tuple, not {args!r}{hint}")


def _check_restart(kind: object) -> None:
    choices = get_args(RestartType)
    if isinstance(kind, Restart):  # what the supervisor's own option of this name takes
        how_often = "how often, say by restart= of open_supervisor, or policy= of SupervisorSpec"
        raise ValueError(f"restart= must be one of {', '.join(map(repr, choices))}; {how_often}")  # noqa: TRY004
    check_choice("restart", kind, choices)


def _checked(children: Iterable[ChildSpec | SupervisorSpec]) -> tuple[ChildSpec | SupervisorSpec, ...]:
    given: object = children
    if not isinstance(given, Iterable):
        raise TypeError(f"children= must be a list or tuple of specs, not {given!r}")
    children = tuple(children)
    for child in children:
        check_spec(child)
    return children


@final
@frozen
class SupervisorSpec:
    """A supervisor below another one, in the same process. OTP's `child_spec()` of a supervisor.

    It is ready when all its children are, and starts these again when it is started again; children
    that were started later are not. It ends when it gives up, with `RestartLimitExceeded`, which is
    one failure to the supervisor above it. Stopped, it stops its children in reverse order, each within
    its own `shutdown`.

    Args:
        children: what it starts, in this order.
        strategy: as for `open_supervisor`.
        policy: how often its children may be restarted, as `restart=` of `open_supervisor`.
        restart: as for `ChildSpec`.
        name: shown in errors.
    """

    children: tuple[ChildSpec | SupervisorSpec, ...] = field(converter=_checked, default=())
    strategy: Strategy = field(default="one_for_one", kw_only=True)
    policy: Restart = field(factory=Restart, kw_only=True)
    restart: RestartType = field(default="permanent", kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        policy: object = self.policy
        check_strategy(self.strategy)
        if not isinstance(policy, Restart):
            raise TypeError(f"policy= must be a Restart, not {policy!r}")
        _check_restart(self.restart)
        check_name(self.name)


@frozen
class ChildStatistics:
    """What `Child.statistics()` returns.

    Attributes:
        name: its name.
        pid: the process id of its isolate; None between two lives, and for a supervisor.
        state: "starting", "running", "stopping"; "waiting": to be started again; "ended": it will not
            be, unless its siblings' restart takes it along.
        restarts: how often it was started again, for its own sake or its siblings'.
        failure: what was the last that it raised, or how it died; None if it never has.
    """

    name: str
    pid: int | None
    state: ChildState
    restarts: int
    failure: BaseException | None


@frozen
class SupervisorStatistics:
    """What `Supervisor.statistics()` returns.

    Attributes:
        children: how many it has.
        running: how many of them run.
        restarts: how often it has answered an end by a restart; that of several children counts once.
    """

    children: int
    running: int
    restarts: int


def check_spec(spec: object) -> None:
    """Raise unless it says what a child is."""
    if not isinstance(spec, ChildSpec | SupervisorSpec):
        raise TypeError(f"a child must be a ChildSpec or a SupervisorSpec, not {spec!r}")


def check_strategy(strategy: object) -> None:
    """Raise unless this is the name of a strategy."""
    check_choice("strategy", strategy, get_args(Strategy))
