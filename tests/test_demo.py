"""The demonstration: what it measures, and that it can be run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

from programs import environment
from trio_isolates._demo import Totals, _measured, make_documents, total
from trio_isolates._screen import Screen


def test_it_shows_what_it_promises(tmp_path: Path) -> None:
    """Three rows of figures, a kill, every document accounted for, no file left."""
    args = ["demo", "--megabytes", "6", "--workers", "2"]
    command = [sys.executable, "-W", "error", "-m", "trio_isolates", *args]
    env = {**environment(), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("18 JSON documents, ")
    for name in "inline, in the event loop", "pool of 2, totals come home", "pool of 2, trees come home":
        assert re.search(rf"^{name} +\d+ +\d+\.\d +\d+\.\d\d s +\d+\.\d ms$", done.stdout, re.MULTILINE)
    assert re.search(r"^After \d+ of 18 documents, worker \d+ got a SIGKILL\.$", done.stdout, re.MULTILINE)
    assert "\n18 of 18 documents: same totals as inline; workers replaced: " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []


def test_the_documents_are_the_same_at_each_run(tmp_path: Path) -> None:
    """Of several kinds and sizes, together of the size asked for, all of them JSON."""
    contents = []
    for name in "one", "two":
        (tmp_path / name).mkdir()
        paths = make_documents(Screen(None), str(tmp_path / name), 2)
        contents.append([Path(path).read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 6
    assert 1.6e6 < sum(map(len, contents[0])) < 2.4e6
    for content in contents[0]:
        json.loads(content)


def test_totals_visit_every_value(tmp_path: Path) -> None:
    """Containers and nulls count as values, keys do not; true is 1, as Python has it."""
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5, null, true], "b": "xyz", "c": {}}')
    assert total(str(path)) == Totals(values=8, characters=3, sum=4.5)


async def test_a_gap_of_the_loop_is_noticed() -> None:
    """Work that does not give way is the longest gap, also at its very end."""

    async def work() -> str:
        time.sleep(0.05)  # noqa: ASYNC251, that is what is measured
        return "done"

    result, figures = await _measured(work)
    assert result == "done"
    assert figures.gap >= 0.05
