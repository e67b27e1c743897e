"""What the README says is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_quick_start_runs_as_it_is_printed(tmp_path: Path) -> None:
    """The quick start, saved as an unguarded script, runs and says what its comments promise."""
    found = re.search(r"## Quick start\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    script = tmp_path / "quick_start.py"
    script.write_text(found[1])
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
    assert done.stderr == ""
    assert done.returncode == 0
    first, second, raised, cancelled, counts, died, last = done.stdout.splitlines()
    assert (first, second) == ("1229", "2262")  # the numbers of primes below 10,000 and 20,000
    assert raised == "it raised: 'str' object cannot be interpreted as an integer"
    assert cancelled == "1 call was cancelled"
    assert counts == "[0, 168, 303, 430, 550]"
    assert died == "it died: SIGKILL"
    assert last == "168"
