"""What the README says is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from programs import environment

README = Path(__file__).parents[1] / "README.md"
PNG = b"\x89PNG\r\n"


def run_as_printed(heading: str, folder: Path) -> list[str]:
    """Run the first whole program of a section as an unguarded script; return the lines that it prints."""
    section = README.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    program = next(block for block in blocks if "trio.run(" in block)
    script = folder / "program.py"
    script.write_text(program)
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=50, cwd=folder, env=environment()
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout.splitlines()


def test_the_quick_start_runs_as_it_is_printed(tmp_path: Path) -> None:
    """The quick start, saved as an unguarded script, runs and says what its comments promise."""
    first, second, raised, cancelled, counts, died, last = run_as_printed("Quick start", tmp_path)
    assert (first, second) == ("1229", "2262")  # the numbers of primes below 10,000 and 20,000
    assert raised == "it raised: 'str' object cannot be interpreted as an integer"
    assert cancelled == "1 call was cancelled"
    assert counts == "[0, 168, 303, 430, 550]"
    assert died == "it died: SIGKILL"
    assert last == "168"


def test_the_program_with_ports_runs_as_it_is_printed(tmp_path: Path) -> None:
    """The isolate answers by the port that came with the question, and says so when it ends."""
    printed = run_as_printed("Ports and bare isolates", tmp_path)
    assert printed == ["0", "1", "4", "9", "16", "no more questions"]


def test_the_json_pool_runs_as_it_is_printed(tmp_path: Path) -> None:
    """A tree, what is selected of it, a bad line by its place, and a document that stays."""
    length = sum(len('{"ms": }\n') + len(str(number)) for number in range(1000))
    assert run_as_printed("JSON pools", tmp_path) == [
        """{'name': 'Ada'} ['Ada', 'Grace'] b'["Ada","Grace"]'""",
        f"line 1001, byte {length}: expected value near 'oops'",
        "1 ['users'] Grace",
    ]


def test_the_actor_runs_as_it_is_printed(tmp_path: Path) -> None:
    """The object keeps what it was told, and its generator is a stream."""
    assert run_as_printed("Actors", tmp_path) == ["one isolate", "3 calls"]


def test_the_large_data_runs_as_it_is_printed(tmp_path: Path) -> None:
    """The memory goes to the worker and comes back, changed in place."""
    assert run_as_printed("Large data", tmp_path) == ["1.0"]


def test_the_recording_runs_as_it_is_printed(tmp_path: Path) -> None:
    """The program and its isolate, the calls in their order, and a picture in a file."""
    printed = run_as_printed("Pictures of what happened", tmp_path)
    assert printed == ["['main', 'squares']", *["square value"] * 3]
    assert (tmp_path / "squares.png").read_bytes().startswith(PNG)


def test_the_picture_is_of_a_recording(tmp_path: Path) -> None:
    """The script beside it makes such a picture; the committed one is small enough to be read on the way."""
    script, drawn = README.parent / "notebooks" / "picture.py", tmp_path / "picture.png"
    command = [sys.executable, "-W", "error", str(script), str(drawn)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50, env=environment())
    assert (done.stderr, done.returncode) == ("", 0)
    assert drawn.read_bytes().startswith(PNG)
    committed = script.with_suffix(".png").read_bytes()
    assert committed.startswith(PNG)
    assert len(committed) < 100_000


def test_every_notebook_is_named() -> None:
    """The table of notebooks has all of them, in their order."""
    named = re.findall(r"\(notebooks/(\d\d_\w+)\.ipynb\)", README.read_text("utf-8"))
    there = sorted(path.stem for path in (README.parent / "notebooks").glob("*.ipynb"))
    assert [name for name in named if name in there] == there
