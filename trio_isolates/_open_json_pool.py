"""`open_json_pool`: the crews of a JSON pool, one data-only and one that is started when it is needed.

This module knows how a JSON pool begins and ends; what it can be asked for, its class does.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Final, Literal

import trio
from attrs import evolve

from ._engine import Engine
from ._json_decode import DECODERS, Decoder, DecoderName
from ._json_desk import Desk
from ._json_pool import JsonPool
from ._open_pool import pool_size
from ._options import GcPolicy, OnCancel, check_positive, make_options
from ._restart import Restart
from ._service import Methods
from ._supervisor import Crew, open_crew

GIB: Final = 1 << 30


def open_json_pool(
    workers: int | None = None,
    *,
    decoder: Literal["auto", "stdlib", "msgspec", "orjson"] = "auto",
    max_bytes: int = GIB,
    min_workers: int | None = None,
    max_calls_per_worker: int | None = None,
    max_memory: int | None = None,
    restart: Restart | None = Restart(),  # frozen
    name: str | None = None,
    max_in_flight: int = 1024,
    on_cancel: OnCancel = "interrupt",
    cancel_grace: float = 1.0,
    shutdown_grace: float = 5.0,
    gc: GcPolicy = "pause",
    engine: Engine | str | None = None,
    nice: int | None = None,
    cpu_affinity: Iterable[int] | None = None,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> AbstractAsyncContextManager[JsonPool]:
    """Open isolates that parse JSON, for the length of a block.

        async with open_json_pool() as pool:
            tree = await pool.parse_file("data.json")
            name = await pool.parse_file("data.json", select="users[0].name")

    **Of what parses, nothing is unpickled here.** Trees, errors and log records come home as data, so a
    parser that has gone bad cannot run code in this process. What `transform=`, `type=` and `reduce=`
    make can be anything, so it is pickled; such calls are served by isolates of their own, as many,
    which are started when they are first needed and end when they have had nothing to do for ten
    seconds. What these have once parsed is unpickled: use them for documents that you trust.

    Args:
        workers: how many isolates; None: as many as usable CPUs, or as cpu_affinity names.
        decoder: "auto" gives exactly what `json.loads` gives, and accepts what it accepts: msgspec
            decodes, and what it refuses (NaN, half surrogate pairs, UTF-16, ...) goes to `json.loads`.
            "stdlib" is `json.loads` itself; "msgspec" and "orjson" are those packages as they are,
            which refuse more; orjson makes floats of ints beyond 64 bits.
        max_bytes: of a document, after decompression; larger ones are refused.
        gc: what the cyclic collector does here while a tree is built; see `open_worker`. "freeze" has
            the shortest stalls, and costs what it says there.
        min_workers, max_calls_per_worker, max_memory, restart, name, max_in_flight, on_cancel,
            cancel_grace, shutdown_grace, engine, nice, cpu_affinity, env, cwd, threads: as for
            `open_pool`. A document that an isolate keeps is lost with it, see `JsonDocument`.

    json.loads cannot be interrupted in the middle of a text: an isolate that has not answered
    `cancel_grace` seconds after a cancellation is killed and replaced.

    Raises what `open_pool` raises; `ImportError` if msgspec, or the decoder asked for, is not installed.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder= must be one of {', '.join(map(repr, DECODERS))}, not {decoder!r}")
    Decoder(decoder)
    check_positive("max_bytes", max_bytes)
    options = make_options(
        "json-pool",
        Methods(needs_trio=False),
        state=partial(Desk, decoder, max_bytes),
        name=name,
        max_in_flight=max_in_flight,
        on_cancel=on_cancel,
        cancel_grace=cancel_grace,
        shutdown_grace=shutdown_grace,
        gc=gc,
        engine=engine,
        restart=restart,
        nice=nice,
        cpu_affinity=cpu_affinity,
        env=env,
        cwd=cwd,
        threads=threads,
    )
    size = pool_size(options, workers, min_workers, max_calls_per_worker, max_memory)
    make = partial(
        Crew,
        size=size,
        restart=restart,
        is_pool=True,
        most_calls=max_calls_per_worker,
        max_memory=max_memory,
    )
    changes = evolve(options.spec.changes, is_data_only=True)
    plain = evolve(options, spec=evolve(options.spec, changes=changes))
    typed = evolve(options, spec=evolve(options.spec, name=f"{options.spec.name}.typed"))
    return _open(make(plain, least=min_workers), make(typed, least=0), decoder, max_bytes)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _open(
    plain: Crew, typed: Crew, decoder: DecoderName, max_bytes: int
) -> AsyncGenerator[JsonPool, None]:
    async with open_crew(plain), open_crew(typed):
        try:
            yield JsonPool(plain, typed, decoder, max_bytes)
        except BaseException:
            await _stop(plain, typed)
            raise


async def _stop(*crews: Crew) -> None:
    """Stop what is in flight side by side, so that all have one grace; what is left, each block sees to."""
    try:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for crew in crews:
                    nursery.start_soon(crew.stop)
    except BaseException:  # a second Ctrl-C: no grace
        for crew in crews:
            crew.kill()
