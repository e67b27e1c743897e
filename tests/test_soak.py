"""A pool under fire: random deaths, cancellations, bad messages and sizes; and what became of every call.

    python tests/test_soak.py                      30 seconds, and a table of what happened
    python tests/test_soak.py --seconds 600        ten minutes
    python tests/test_soak.py --seed 42 --loop async

What the isolates say of their crashes goes to stderr. In the suite it takes its seconds and its seed from
the environment: TRIO_ISOLATES_SOAK_SECONDS and TRIO_ISOLATES_SOAK_SEED.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import pytest
import trio

import handlers
import soak_handlers as deeds
from handlers import Trap
from trio_isolates import IsolateDied, Pool, RemoteError, Restart, UnsendableError, open_pool

Loop: TypeAlias = Literal["sync", "async"]
HANDLERS = {"sync": deeds.perform, "async": deeds.perform_async}
PATIENT = Restart(max_restarts=1_000_000, within=3600.0, min_backoff=0.0, max_backoff=0.0, jitter=0.0)
WORKERS, CALLERS = 4, 12
GRACE = 0.2
STUCK = 30.0
"""Seconds after which a call that has not ended is a call that never ends."""
# The last: a machine that is too busy to say in time how a process has ended.
DEATHS = ("SIGKILL", "SIGSEGV", f"exit {deeds.EXIT_CODE}", "exit 0", "exit None")


class Answer:
    """A call that is to come back with this part of the block."""

    def __init__(self, rng: random.Random, number: int) -> None:
        place, size, there = rng.randrange(deeds.LARGEST), some_size(rng), some_size(rng)
        data = deeds.part(rng.randrange(deeds.LARGEST), there)
        self.args = number, data, zlib.crc32(data), place, size
        self._expected = number, place, size

    def check(self, value: object) -> None:
        number, place, size = self._expected
        data = deeds.part(place, size)
        assert value == (number, data, zlib.crc32(data)), f"call {number} got a wrong answer"


def some_size(rng: random.Random) -> int:
    """Any order of magnitude is as likely as any other."""
    return int(2 ** rng.uniform(0, math.log2(deeds.LARGEST)))


Kind: TypeAlias = Literal["answer", "own error", "unsendable", "exception", "death", "endless"]
KINDS: dict[Kind, int] = {
    "answer": 60,
    "own error": 8,
    "unsendable": 12,
    "exception": 8,
    "death": 6,
    "endless": 6,
}
"""How often each comes."""


class Soak:
    """One run: its pool, its callers and what shoots at them, and what became of it."""

    def __init__(self, seed: int, seconds: float, loop: Loop, folder: Path) -> None:
        self.seed, self.seconds, self.loop, self._folder = seed, seconds, loop, folder
        self._rng = random.Random(seed)
        self._started = 0
        self._is_over = False
        self._running: dict[int, str] = {}
        self._shot: set[int] = set()
        self.outcomes: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.deaths: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.statistics: Any = None
        self.took = 0.0
        self.begun = 0

    async def run(self) -> None:
        start = trio.current_time()
        deeds.prepare(self._folder, self.seed)
        handler = partial(HANDLERS[self.loop], self._folder)
        async with open_pool(handler, workers=WORKERS, restart=PATIENT, cancel_grace=GRACE) as pool:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._shoot, pool)
                async with trio.open_nursery() as callers:
                    for _ in range(CALLERS):
                        callers.start_soon(self._make_calls, pool)
                    await trio.sleep(self.seconds)
                    self._is_over = True
                nursery.cancel_scope.cancel()
            await self._ends_in_order(pool)
        self.took = trio.current_time() - start
        self._judge()

    # Callers.

    async def _make_calls(self, pool: Pool[..., Any]) -> None:
        while not self._is_over:
            self._started += 1
            kind = self._rng.choices(list(KINDS), weights=list(KINDS.values()))[0]
            self.kinds[kind] += 1
            await self._make_one(pool, self._started, kind)

    async def _make_one(self, pool: Pool[..., Any], number: int, kind: Kind) -> None:
        deed, check = self._plan(number, kind)
        rng, cancelled_after = self._rng, math.inf
        if kind == "endless":
            cancelled_after = rng.uniform(0, 0.1)
        elif rng.random() < 0.15:
            cancelled_after = rng.choice([0.0, rng.uniform(0, 0.005), rng.uniform(0, 0.1)])
        self._running[number] = f"{kind}, {deed[0]!r:.80}, cancelled after {cancelled_after:.4f} s"
        result = "Cancelled"
        try:
            with trio.fail_after(STUCK), trio.move_on_after(cancelled_after):
                try:
                    value = await pool.call(number, *deed)
                except IsolateDied as died:
                    result = "IsolateDied"
                    self._check_death(died, kind)
                except Exception as error:
                    result = type(error).__name__
                    check(error)
                else:
                    result = "value"
                    check(value)
        except trio.TooSlowError:
            raise AssertionError(f"call {number} does not end: {self._running[number]}") from None
        self.outcomes[result] += 1
        del self._running[number]

    def _check_death(self, died: IsolateDied, kind: Kind) -> None:
        assert died.maybe_executed, "a call that had not begun goes to another isolate of a pool"
        how = died.signal or f"exit {died.exitcode}"
        self.deaths[how] += 1
        assert how in DEATHS, died
        # An isolate with a sync handler has begun one call at a time, so nobody's deed ends another's call.
        if self.loop == "sync":
            assert kind == "death" or died.pid in self._shot, f"nobody had killed {died.pid}: {died}"

    def _plan(self, number: int, kind: Kind) -> tuple[tuple[Any, ...], Callable[..., None]]:
        """What the call does, and a check of what comes of it unless its isolate dies."""
        rng = self._rng
        match kind:
            case "answer":
                planned = Answer(rng, number)
                ways: list[tuple[Any, ...]] = [
                    (deeds.answer,),
                    (deeds.answer_slowly, rng.uniform(0, 0.02)),
                    (deeds.answer_with_work, rng.randrange(20_000)),
                ]
                return (*rng.choice(ways), *planned.args), planned.check
            case "own error":
                return (deeds.raise_numbered, number), partial(expect, LookupError, (number,))
            case "unsendable":
                raises, junk = (handlers.raise_it, ValueError), bytes(some_size(rng) // 16)
                ways = [
                    (handlers.echo, [junk, Trap(*raises, when="dumps")]),
                    (handlers.echo, [junk, Trap(*raises)]),
                    (handlers.make_trap, handlers.raise_it, (ValueError,), "dumps"),
                    (handlers.make_owned, os.getpid(), handlers.raise_it, (ValueError,)),
                ]
                return rng.choice(ways), partial(expect, UnsendableError, None)
            case "exception":
                ways = [
                    (handlers.raise_it, handlers.Locked, "locked"),
                    (handlers.raise_it, handlers.NeedsTwo, "one", "two"),
                    (handlers.raise_it, handlers.Refuses),
                    (handlers.raise_it, SystemExit, number),
                    (handlers.raise_it, handlers.NoText),
                ]
                return rng.choice(ways), partial(expect, (RemoteError, handlers.NoText), None)
            case "death":
                ways = [(deed,) for deed in deeds.DEATHS]
                ways += [(handlers.echo, Trap(deed)) for deed in (handlers.crash, handlers.exit_at_once)]
                ways += [(handlers.make_trap, handlers.crash, (), "dumps")]
                return rng.choice(ways), expect_nothing
            case "endless":
                return rng.choice([(deeds.spin,), (deeds.spin,), (deeds.refuse_to_stop,)]), expect_nothing

    # What happens to them.

    async def _shoot(self, pool: Pool[..., Any]) -> None:
        """Kill an isolate, or stop one and let it go on, again and again."""
        while True:
            await trio.sleep(self._rng.expovariate(12))
            if not (pids := pool.pids):
                continue
            pid = self._rng.choice(pids)
            how = self._rng.choice(["SIGKILL", "SIGSEGV", "SIGSTOP", "SIGSTOP"])
            self.kills[how] += 1
            with suppress(ProcessLookupError):
                os.kill(pid, signal.Signals[how])
                if how != "SIGSTOP":
                    self._shot.add(pid)
                    continue
                try:
                    await trio.sleep(self._rng.uniform(0, 0.15))
                finally:
                    os.kill(pid, signal.SIGCONT)

    # What is left of it.

    async def _ends_in_order(self, pool: Pool[..., Any]) -> None:
        """After the last shot all is as it was: everybody answers, and nothing is in flight."""
        planned = Answer(self._rng, 0)
        with trio.fail_after(STUCK):
            while pool.statistics().workers < WORKERS:  # noqa: ASYNC110 - a pool has no event for it
                await trio.sleep(0.01)
            for _ in range(WORKERS):
                planned.check(await pool.call(0, deeds.answer, *planned.args))
        self.statistics = pool.statistics()
        assert (self.statistics.in_flight, self.statistics.queued) == (0, 0)

    def _judge(self) -> None:
        """Look at the run as a whole."""
        assert self._running == {}
        assert self.outcomes.total() == self._started
        assert self.statistics.done == self.outcomes["value"] + WORKERS
        runs = deeds.runs(self._started)
        assert set(runs) <= {0, 1}, f"calls by how often they ran: {runs}"
        self.begun = runs[1]

    def table(self) -> str:
        statistics = self.statistics
        rows = {
            "seed": self.seed,
            "loop": self.loop,
            "seconds": f"{self.took:.1f}",
            "calls": self._started,
            "begun": self.begun,
            **{f"ended in: {what}": times for what, times in self.outcomes.most_common()},
            **{f"died: {what}": times for what, times in self.deaths.most_common()},
            **{f"sent: {what}": times for what, times in self.kills.most_common()},
            **{f"asked for: {what}": times for what, times in self.kinds.most_common()},
            "restarted": statistics.restarted,
            "replaced": statistics.replaced,
            "late replies": statistics.late_replies,
        }
        return "\n".join(["| | |", "|---|---:|", *(f"| {what} | {much} |" for what, much in rows.items())])


def expect(types: Any, args: tuple[Any, ...] | None, result: object) -> None:
    assert isinstance(result, types), f"not {types}: {result!r:.200}"
    assert args is None or (isinstance(result, BaseException) and result.args == args)


def expect_nothing(result: object) -> None:
    raise AssertionError(f"this call could not end in {result!r:.200}")


SECONDS = float(os.environ.get("TRIO_ISOLATES_SOAK_SECONDS", "20"))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("loop", HANDLERS)
async def test_soak(loop: Loop, tmp_path: Path) -> None:
    """Every call ends exactly once, rightly, whatever happens to its isolate; none runs twice."""
    seed = int(os.environ.get("TRIO_ISOLATES_SOAK_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"TRIO_ISOLATES_SOAK_SEED={seed}")
    soak = Soak(seed, SECONDS / len(HANDLERS), loop, tmp_path)
    try:
        await soak.run()
    finally:
        deeds.release()
    print(soak.table())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--loop", choices=tuple(HANDLERS), default="sync")
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    with TemporaryDirectory() as folder:
        soak = Soak(chosen.seed, chosen.seconds, chosen.loop, Path(folder))
        trio.run(soak.run)
    print(soak.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
