"""A supervisor, its children, and the supervisors below it: who lives, and who lives again.

Each life of a child is a task, which holds the block of its isolate; each sweep is another, which stops
children, waits, and has them begin their next lives. What follows from an end is decided at once, where
a life is over, and by `Siblings`.
"""

from __future__ import annotations

# pyright: reportPrivateUsage=false
# (users see only the ends of a child's lives, which are lived and seen out here)
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any, Final, NoReturn, cast, final

import trio
from attrs import Factory, define

from ._child_log import log_failure, say_restart
from ._child_spec import (
    ChildSpec,
    ChildState,
    ChildStatistics,
    Strategy,
    SupervisorSpec,
    SupervisorStatistics,
    check_spec,
)
from ._errors import IsolateSpawnError, RestartLimitExceeded, UnsendableError
from ._here import BELONGS, check_in_trio
from ._open_isolate import Isolate, open_isolate, take_place
from ._pickling import Codec
from ._restart import Restart
from ._siblings import Siblings, Sweep

_numbers: Final = itertools.count(1)


@define(eq=False)
class _Life:
    """One life of a child, from its start to its end.

    settled: it runs, or never will. is_stopping: its end is asked for, and asks for nothing.
    """

    scope: trio.CancelScope = Factory(lambda: trio.CancelScope(shield=True))
    settled: trio.Event = Factory(trio.Event)
    gone: trio.Event = Factory(trio.Event)
    is_ready: bool = False
    is_stopping: bool = False
    isolate: Isolate[Any] | None = None
    supervisor: Supervisor | None = None
    failure: BaseException | None = None

    def stop(self) -> None:
        self.is_stopping = True
        self.scope.cancel()

    def kill(self) -> None:
        self.stop()
        if self.isolate is not None:
            self.isolate.kill()
        elif self.supervisor is not None:
            self.supervisor._kill()


@final
class Child:
    """A child of a supervisor, through all its lives. Get one from `Supervisor.start`.

    Attributes:
        name: as in its spec, or made up.
        spec: what it was started from.
    """

    def __init__(self, spec: ChildSpec | SupervisorSpec, parent: Supervisor) -> None:
        kind = "child" if isinstance(spec, ChildSpec) else "supervisor"
        self.name = spec.name or f"{kind}-{next(_numbers)}"
        self.spec = spec
        self._parent = parent
        self._context = copy_context()  # each life begins where `start` was called, whoever starts it again
        self._life: _Life | None = None
        self._restarts = 0
        self._number = 0  # of its last isolate, in a recording
        self._failure: BaseException | None = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Child cannot be sent: it stays with its supervisor")

    def __repr__(self) -> str:
        return f"<trio_isolates.Child {self.name!r} {self._parent._state(self)}>"

    @property
    def isolate(self) -> Isolate[Any] | None:
        """The isolate of its present life; None between two lives. To kill it is an end as any other."""
        return self._life.isolate if self._life is not None and self._life.is_ready else None

    @property
    def supervisor(self) -> Supervisor | None:
        """The same for the child of a `SupervisorSpec`: what to start further children with."""
        return self._life.supervisor if self._life is not None and self._life.is_ready else None

    def statistics(self) -> ChildStatistics:
        """Return a record of its state."""
        pid, state = getattr(self.isolate, "pid", None), self._parent._state(self)
        return ChildStatistics(self.name, pid, state, self._restarts, self._failure)


@final
class Supervisor:
    """Starts children, and starts them again. Get one from `open_supervisor`."""

    def __init__(self, strategy: Strategy, restart: Restart, name: str | None) -> None:
        self.name = name or f"supervisor-{next(_numbers)}"
        self._siblings: Siblings[Child] = Siblings(self.name, strategy, restart)
        self._lives: set[_Life] = set()
        self._is_ending = False
        self._limit: RestartLimitExceeded | None = None
        self._fault: BaseException | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery  # from `open_tree`
        self._body_scope = trio.CancelScope()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Supervisor cannot be sent: it stays with the block that opened it")

    def __repr__(self) -> str:
        return f"<trio_isolates.Supervisor {self.name!r} children={len(self._siblings.children)}>"

    @trio.lowlevel.enable_ki_protection
    async def start(self, spec: ChildSpec | SupervisorSpec) -> Child:
        """Start a child, and return it when it is ready: the last one, in the order of the children.

        It is not waited for while another child is started again, nor the other way round. Cancelled:
        it is stopped.

        Raises:
            IsolateSpawnError: it could not be started. Nothing is counted, and it is no child.
            UnsendableError: the entry or an argument cannot be pickled.
            trio.ClosedResourceError: the block is being left, or has given up.
        """
        check_spec(spec)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_run()
        if self._is_ending:
            raise trio.ClosedResourceError(f"{self.name!r} is closed")
        if isinstance(spec, ChildSpec):
            Codec(side=0).dumps(spec.args, "args")  # else each start would go well, and each life fail
        child = Child(spec, self)
        self._siblings.starting.append(child)
        life = self._begin(child)
        try:
            await life.settled.wait()
        except BaseException:
            self._siblings.forget(child)
            life.stop()
            with trio.CancelScope(shield=True):
                await life.gone.wait()
            raise
        if life.is_ready:
            return child
        self._siblings.forget(child)
        failure = life.failure
        if failure is None:
            raise trio.ClosedResourceError(f"{self.name!r} is closed")
        if isinstance(failure, IsolateSpawnError | UnsendableError):
            raise failure
        words = f"{type(failure).__name__}: {failure}"
        raise IsolateSpawnError(f"{child.name!r} could not be started: {words}") from failure

    @trio.lowlevel.enable_ki_protection
    async def stop(self, child: Child) -> None:
        """Stop a child within its `shutdown`, and have it started no more. OTP's `terminate_child`.

        It is no child any more at once, and gone when this returns; while it waits to be started again
        nothing is to be waited for. Cancelled: it is killed at once. Does nothing if it was stopped before.
        """
        if child._parent is not self:
            raise ValueError(f"{child!r} is no child of {self!r}")
        self._check_run()
        self._siblings.forget(child)
        life = child._life
        if life is None:
            await trio.lowlevel.checkpoint()
            return
        life.stop()
        try:
            await life.gone.wait()
        except BaseException:
            life.kill()
            with trio.CancelScope(shield=True):
                await life.gone.wait()
            raise

    def children(self) -> tuple[ChildStatistics, ...]:
        """Return records of the children, in the order in which they were started."""
        return tuple(child.statistics() for child in self._siblings.children)

    def statistics(self) -> SupervisorStatistics:
        """Return a record of its state."""
        children = self._siblings.children
        running = sum(self._state(child) == "running" for child in children)
        return SupervisorStatistics(len(children), running, self._siblings.restarts)

    def _check_run(self) -> None:
        if not trio.lowlevel.in_trio_run() or trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError(
                f"{self.name!r} {BELONGS}; from a thread, use trio.from_thread.run(supervisor.start, ...)"
            )

    def _state(self, child: Child) -> ChildState:
        life = child._life
        if life is not None:
            return "stopping" if life.is_stopping else "running" if life.is_ready else "starting"
        return "waiting" if self._siblings.is_waiting(child) else "ended"

    # Lives.

    def _begin(self, child: Child) -> _Life:
        child._life = life = _Life()
        self._lives.add(life)
        child._context.run(self._nursery.start_soon, self._live, child, life)
        return life

    @trio.lowlevel.enable_ki_protection
    async def _live(self, child: Child, life: _Life) -> None:
        failure: BaseException | None = None
        is_fault = False  # of ours: a handler of a port here that raises over what a child has sent
        try:
            with life.scope:
                if isinstance(child.spec, ChildSpec):
                    failure = await self._run_isolate(child, child.spec, life)
                else:
                    await self._run_supervisor(child, child.spec, life)
        except Exception as exc:
            failure = exc
            is_fault = life.is_ready and not (life.is_stopping or isinstance(exc, RestartLimitExceeded))
        except BaseException as exc:
            failure, is_fault = exc, True
        child._life = None
        self._lives.discard(life)
        life.failure = failure
        child._failure = failure or child._failure
        is_first = child in self._siblings.starting  # who starts it is told
        life.settled.set()
        life.gone.set()
        if is_fault:
            self._fault = self._fault or failure
            self._end()
            self._body_scope.cancel()
            return
        what = " while it was being stopped"
        if child in self._siblings.children and not (life.is_stopping or self._is_ending):
            what = self._answer(child, failure)
        if failure is not None and not is_first:
            log_failure(self.name, child.name, failure, what)

    async def _run_isolate(self, child: Child, spec: ChildSpec, life: _Life) -> BaseException | None:
        """Run it until its end; return what it has failed by."""
        opening = open_isolate(spec.entry, *spec.args, name=child.name, shutdown_grace=spec.shutdown)
        async with opening as life.isolate:
            child._number = take_place(life.isolate, child._number)
            self._on_ready(child, life)
            try:
                await life.isolate.wait()
            except trio.ClosedResourceError:  # by `isolate.aclose()`: well, as OTP's exit reason `shutdown`
                pass
            except Exception as exc:
                return exc
        return None

    async def _run_supervisor(self, child: Child, spec: SupervisorSpec, life: _Life) -> None:
        life.supervisor = Supervisor(spec.strategy, spec.policy, child.name)
        async with open_tree(life.supervisor):
            for below in spec.children:
                await life.supervisor.start(below)
            self._on_ready(child, life)
            await trio.sleep_forever()

    def _on_ready(self, child: Child, life: _Life) -> None:
        life.is_ready = True
        life.settled.set()
        child._restarts += self._siblings.started(child)

    # Restarts, and the end.

    def _answer(self, child: Child, failure: BaseException | None) -> str:
        """Have those start again whom such an end concerns, or give up; say which."""
        now = trio.current_time()
        try:
            sweep = self._siblings.ended(child, failure, now)
        except RestartLimitExceeded as exc:
            self._limit = exc
            self._end()
            self._body_scope.cancel()
            return ", and the supervisor gives up"
        if sweep is None:
            return ", and is not started again"
        for each in sweep.children:
            if each._life is not None:
                each._life.is_stopping = True  # from now on: those that die together count once
        self._nursery.start_soon(self._sweep, sweep)
        return say_restart(sweep.at - now, len(sweep.children) - 1)

    @trio.lowlevel.enable_ki_protection
    async def _sweep(self, sweep: Sweep[Child]) -> None:
        with sweep.scope:
            for child in sweep.children[::-1]:
                await _stop(child)
                if child.spec.restart == "temporary":
                    self._siblings.forget(child)
            await trio.sleep_until(sweep.at)
            while sweep.children:
                await self._begin(sweep.children[0]).settled.wait()
        self._siblings.is_over(sweep)

    def _end(self) -> None:
        """From now on nothing is started."""
        self._is_ending = True
        self._siblings.end()

    @trio.lowlevel.enable_ki_protection
    async def _heed_cancellation(self) -> None:
        """Start nothing once the block is cancelled, even if its body does not notice yet."""
        try:
            await trio.sleep_forever()
        except trio.Cancelled:  # swallowed, so that it is the body's own that comes out
            self._end()

    @trio.lowlevel.enable_ki_protection
    async def _leave(self, error: BaseException | None) -> BaseException | None:
        """Stop all children, however the body ended; return what the block is to raise."""
        self._end()
        with trio.CancelScope(shield=True):
            try:
                for child in [*self._siblings.children, *self._siblings.starting][::-1]:
                    await _stop(child)
                while self._lives:  # those that `stop` is stopping
                    await next(iter(self._lives)).gone.wait()
            except BaseException as exc:  # a second Ctrl-C: no grace
                error = error or exc
                self._kill()
                while self._lives:
                    try:
                        await next(iter(self._lives)).gone.wait()
                    except BaseException as exc:  # and further ones
                        error = exc
        return self._final_error(error)

    def _kill(self) -> None:
        for life in list(self._lives):
            life.kill()

    def _final_error(self, error: BaseException | None) -> BaseException | None:
        ours = self._fault or self._limit
        if ours is None or ours is error:
            return error
        if error is None or _is_cancelled(error):
            return ours
        error.add_note(f"besides: {type(ours).__name__}: {ours}")
        return error


async def _stop(child: Child) -> None:
    """Stop its present life, if there is one. Cancelled: it is being stopped all the same."""
    if (life := child._life) is not None:
        life.stop()
        await life.gone.wait()


def _is_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_tree(supervisor: Supervisor) -> AsyncGenerator[Supervisor, None]:
    """Keep its children for the length of a block."""
    error: BaseException | None = None
    check_in_trio()
    supervisor._token = trio.lowlevel.current_trio_token()
    async with trio.open_nursery() as nursery:
        supervisor._nursery = nursery
        nursery.start_soon(supervisor._heed_cancellation)
        try:
            with supervisor._body_scope:
                yield supervisor
        except BaseException as exc:
            error = exc
        error = await supervisor._leave(error)
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
