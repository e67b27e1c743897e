"""Isolates that are data-only: whatever they say, their parent unpickles nothing."""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

import forging_handlers as work
from fifo import within
from trio_isolates import (
    IsolateDied,
    IsolateError,
    IsolateSpawnError,
    JsonPool,
    ProtocolError,
    ReceivePort,
    RemoteError,
    open_json_pool,
)
from trio_isolates._messages import RUN
from trio_isolates._options import make_options
from trio_isolates._supervisor import Crew, open_crew
from trio_isolates.testing import InlineEngine


def open_one(**options: Any) -> Any:
    return open_json_pool(1, **options)


async def run_plain(pool: JsonPool, function: Any, *args: Any) -> Any:
    """Run a function in a worker that is data-only, which no user can do."""
    return await pool._plain.call(RUN, (function, args))


@pytest.mark.parametrize("name", ["VALUE", "ERROR", "LOG", "FAILED", "BYE", "FAULT", "DEFINE", "RELAY"])
@within(20)
async def test_a_forged_frame_is_not_unpickled(name: str, tmp_path: Path) -> None:
    """It ends its isolate, the question that it was served gets an error, and the pool goes on."""
    async with open_one() as pool:
        await run_plain(pool, work.arm, name, str(tmp_path / "trap"))
        pids = pool.pids
        with pytest.raises((ProtocolError, IsolateDied)):
            await pool.parse("[1]")
        assert await pool.parse("[2]") == [2]
        assert pool.pids != pids
    assert list(tmp_path.iterdir()) == []


@within(20)
async def test_a_forged_message_to_a_port_is_not_unpickled(tmp_path: Path) -> None:
    """Nothing from a data-only isolate goes to a port, also if it has guessed its number."""
    port: ReceivePort[Any] = ReceivePort()
    number = port.send_port._window.number
    async with open_one() as pool:
        await run_plain(pool, work.arm, "MESSAGE", str(tmp_path / "trap"), number)
        with pytest.raises((ProtocolError, IsolateDied)):
            await pool.parse("[1]")
        assert await pool.parse("[2]") == [2]
    with pytest.raises(trio.WouldBlock):
        port.receive_nowait()
    port.close()
    assert list(tmp_path.iterdir()) == []


@within(20)
async def test_a_forged_outcome_of_the_job_is_not_unpickled(tmp_path: Path) -> None:
    """trio-parallel, which hosts the isolate, does not open what that has written for it."""
    async with open_one() as pool:
        await run_plain(pool, work.forge_outcome, str(tmp_path / "trap"))
        assert await pool.parse("[2]") == [2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["VALUE", "ERROR", "LOG", "FAULT"])
@within(20)
async def test_the_same_frames_spring_the_trap_elsewhere(name: str, tmp_path: Path) -> None:
    """An ordinary isolate's are unpickled, so that the tests above test something."""
    async with open_one() as pool:
        await pool._typed.call(RUN, (work.arm, (name, str(tmp_path / "trap"))))
        with contextlib.suppress(IsolateError):
            await pool._typed.call(RUN, (len, ("",)))
    assert list(tmp_path.iterdir()) == [tmp_path / "trap"]


@within(20)
async def test_the_same_outcome_springs_the_trap_elsewhere(tmp_path: Path) -> None:
    """For the same reason. The outcome also ends the isolate, as its host takes the job for done."""
    async with open_one() as pool:
        with contextlib.suppress(IsolateError):
            await pool._typed.call(RUN, (work.forge_outcome, (str(tmp_path / "trap"),)))
            while not list(tmp_path.iterdir()):  # noqa: ASYNC110  # another process makes it
                await trio.sleep(0.001)


@pytest.mark.parametrize("engine", ["process", InlineEngine()], ids=["process", "inline"])
@within(20)
async def test_errors_are_data(engine: Any, tmp_path: Path) -> None:
    """An error whose pickle is a trap arrives as a RemoteError, with its traceback."""
    async with open_one(engine=engine) as pool:
        with pytest.raises(RemoteError) as caught:
            await run_plain(pool, work.raise_trap, str(tmp_path / "trap"))
        assert caught.value.type_name == "forging_handlers.TrapError"
        assert "raise_trap" in caught.value.__notes__[0]
        with pytest.raises(TypeError, match="returns bytes or a Parcel, not a partial"):
            await run_plain(pool, work.returns_no_bytes)
    assert list(tmp_path.iterdir()) == []


@within(20)
async def test_log_records_are_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They arrive, and what they carry besides plain values arrives as text."""
    with caplog.at_level(logging.INFO):
        async with open_one() as pool:
            await run_plain(pool, work.log_trap, str(tmp_path / "trap"))
    (record,) = [record for record in caplog.records if record.name == "forged"]
    assert (record.getMessage(), record.levelname) == ("a trap", "WARNING")
    assert "Trap object" in record.__dict__["trap"]
    assert list(tmp_path.iterdir()) == []


@within(20)
async def test_it_cannot_send_to_ports(tmp_path: Path) -> None:
    """A send port that it was given is of no use to it: it is ended."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_one() as pool:
        with pytest.raises((ProtocolError, IsolateDied)):
            await run_plain(pool, work.send_trap, port.send_port, str(tmp_path / "trap"))
            await pool.parse("[1]")
    port.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ["process", InlineEngine()], ids=["process", "inline"])
@within(20)
async def test_a_failed_setup_is_data(engine: Any, tmp_path: Path) -> None:
    """What `state` raises is told without a pickle."""
    options = make_options(
        "pool", len, state=partial(work.state_that_raises, str(tmp_path / "trap")), engine=engine
    )
    changes = evolve(options.spec.changes, is_data_only=True)
    crew = Crew(
        evolve(options, spec=evolve(options.spec, changes=changes)), size=1, restart=None, is_pool=True
    )
    with pytest.raises(IsolateSpawnError, match=r"state= raised RemoteError: forging_handlers\.TrapError"):
        async with open_crew(crew):
            pass
    assert list(tmp_path.iterdir()) == []
