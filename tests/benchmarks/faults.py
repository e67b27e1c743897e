"""The same faults for trio_isolates and its peers: what the caller saw, after how long, what came afterwards.

examples:
  python tests/benchmarks/faults.py                      the whole table, in Markdown
  python tests/benchmarks/faults.py kill cancel          these faults, for all
  python tests/benchmarks/faults.py pebble trio_isolates these two, with all faults
  python tests/benchmarks/faults.py loky kill --verbose  one cell, with all that it writes to stderr
  python tests/benchmarks/faults.py --json               records instead of a table
  python tests/benchmarks/faults.py --list               the names

Each cell is measured in a program of its own, which is killed with all that it has started when it is
through, or when its time is up. "Then": what became of a call to the same pool after the fault. Peers come
with `pip install '.[bench]'`; what is not installed is shown as such. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import psutil

from faults_cells import FAULTS
from faults_peers import PEERS
from rounds import environment

MAIN = "import faults_cells; faults_cells.main()"
MARK = "TRIO_ISOLATES_FAULTS"
DEADLINE = 10.0
ORPHANED = 1.0
"""Seconds that the workers of a dead parent are given."""
FAREWELL = 2.0
"""Seconds that resource trackers are given, to remove what the killed have left."""

NOTE = """Pools of one worker; of two where the parent dies,
one of them spinning and one idle, and for the tasks. "Works": a call made after the fault is answered, by
loky in the new executor that it gives to who asks for one. Each cell in a program of its own."""

Cell: TypeAlias = dict[str, Any]


def processes(mark: str) -> list[psutil.Process]:
    """Whoever has inherited this mark, whatever became of its parents."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def is_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def clean_up(mark: str) -> None:
    """Kill what has this mark: trackers last, for they end by themselves when nobody needs them any more."""
    while killed := [process for process in processes(mark) if not is_tracker(process)]:
        for process in killed:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(killed, FAREWELL)
    trackers = processes(mark)
    for process in psutil.wait_procs(trackers, FAREWELL)[1]:
        with suppress(psutil.Error):
            process.kill()


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_parent(program: subprocess.Popen[bytes], report: Path, deadline: float) -> Cell:
    """Wait until the cell says who its workers are; kill it; see how long they outlive it."""
    while not (known := read(report)) and program.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    pids = known.get("pids")
    if pids is None:
        return known
    start = time.monotonic()
    program.kill()
    while left := sum(map(is_running, pids)):
        if time.monotonic() - start > ORPHANED:
            text = f"{left} of {len(pids)} workers run on"
            return {"saw": text, "seconds": ORPHANED, "failed": True}
        time.sleep(0.002)
    return {"saw": "all workers gone", "seconds": time.monotonic() - start}


def read(report: Path) -> Cell:
    known: Cell = {}
    if report.exists():
        for line in report.read_text().splitlines():
            known |= json.loads(line)
    return known


def measure(peer: str, fault: str, deadline: float, verbose: bool) -> Cell:
    mark = f"{os.getpid()}.{peer}.{fault}"
    with TemporaryDirectory(prefix="faults-") as folder:
        errors, report, until = Path(folder, "stderr"), Path(folder, "report"), time.monotonic() + deadline
        with errors.open("wb") as stderr:
            program = subprocess.Popen(
                [sys.executable, "-c", MAIN, peer, fault, folder],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if verbose else stderr,
                env={**environment(), MARK: mark, "TMPDIR": folder},
                start_new_session=True,
            )
        try:
            if fault == "parent":
                known = kill_parent(program, report, until)
            else:
                with suppress(subprocess.TimeoutExpired):
                    program.wait(deadline)
                known = read(report)
            if "saw" not in known:
                said = errors.read_text(errors="replace").strip().splitlines()[-1:]
                why = f"hung for {deadline:g} s" if program.poll() is None else " ".join(["ended:", *said])
                known |= {"saw": why, "failed": True}
        finally:
            clean_up(mark)
            program.wait()
    return {"peer": peer, "fault": fault, **known}


def lasting(seconds: float, preposition: str) -> str:
    if seconds < 0.001:
        return "within 1 ms"
    return f"{preposition} " + (f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms")


def text(cell: Cell) -> str:
    """As in the table: what was seen, after how long; and only if the pool is lost, what it did next."""
    words = str(cell["saw"])
    if "seconds" in cell:
        words += " " + lasting(cell["seconds"], "for" if cell.get("failed") else "after")
    if cell["fault"] != "parent" and "seconds" in cell:
        if cell.get("works"):
            words += "; then works"
        else:
            words += f"; then {cell.get('after', 'hung')}"
    return words


def table(cells: list[Cell]) -> str:
    peers = list(dict.fromkeys(cell["peer"] for cell in cells))
    faults = list(dict.fromkeys(cell["fault"] for cell in cells))
    texts = {(cell["peer"], cell["fault"]): text(cell) for cell in cells}
    lines = ["| " + " | ".join(["", *(FAULTS[fault][0] for fault in faults)]) + " |"]
    lines.append("|---" * (len(faults) + 1) + "|")
    lines += ["| " + " | ".join([peer, *(texts[peer, fault] for fault in faults)]) + " |" for peer in peers]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="name", help="of faults and contenders; none: all")
    parser.add_argument("--deadline", type=float, default=DEADLINE, help="seconds for a cell (%(default)g)")
    parser.add_argument("--json", action="store_true", help="records instead of a table")
    parser.add_argument("--verbose", action="store_true", help="show what the cells write to stderr")
    parser.add_argument("--list", action="store_true", help="the names, and nothing else")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.names if name not in FAULTS and name not in PEERS]
    if unknown:
        parser.error(f"no {', '.join(unknown)}; there are: {', '.join([*FAULTS, *PEERS])}")
    return chosen


def main() -> int:
    chosen = arguments()
    if chosen.list:
        for fault, (words, *_) in FAULTS.items():
            print(f"{fault:10} {words}")
        print(*PEERS, sep="\n")
        return 0
    faults = [fault for fault in FAULTS if fault in chosen.names] or list(FAULTS)
    peers = [peer for peer in PEERS if peer in chosen.names] or list(PEERS)
    load = os.getloadavg()[0]
    cells = []
    for peer in peers:
        for fault in faults:
            cells.append(measure(peer, fault, chosen.deadline, chosen.verbose))
            print(f"{peer}, {fault}: {text(cells[-1])}", file=sys.stderr)
    if chosen.json:
        print(json.dumps(cells, indent=1))
        return 0
    print(table(cells))
    machine = f"{os.cpu_count()} CPUs, load {load:.1f} before"
    print(f"\nPython {platform.python_version()}, {platform.system()}, {machine}. {NOTE}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it leaves nobody behind
    sys.exit(main())
