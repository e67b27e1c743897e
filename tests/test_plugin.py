"""The pytest plugin, in runs of pytest of its own, loaded as an installed package's would be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from contract import plugin

pytest_plugins = ("pytester",)

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder for tests, with the plugin beside them under the name that it has in a wheel."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(str(plugin.__file__), pytester.path / "_trio_isolates_pytest.py")
    pytester.makeini("[pytest]\ntrio_mode = true\nfilterwarnings = error")
    return pytester


def run(tests: pytest.Pytester, source: str) -> pytest.RunResult:
    tests.makepyfile(source)
    is_installed = "trio_isolates" in metadata.entry_points(group="pytest11").names
    options = [] if is_installed else ["-p", "_trio_isolates_pytest"]
    return tests.runpytest_subprocess(*options, timeout=40)


def test_costs_nothing_until_used(tests: pytest.Pytester) -> None:
    """A run of pytest that uses no fixture of ours imports neither the package nor Trio because of it."""
    result = run(
        tests,
        """
        import sys

        def test():
            assert "trio_isolates" not in sys.modules
            assert "_trio_isolates_pytest" in sys.modules
        """,
    )
    result.assert_outcomes(passed=1)
    code = (
        "import sys, _trio_isolates_pytest; assert not {'trio', 'trio_isolates', 'attrs'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tests.path, check=True)


@pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists(), reason="the package is tested without its sources"
)
def test_is_declared_under_that_name() -> None:
    """The entry point names the top-level module as which a wheel includes the plugin's file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["entry-points"]["pytest11"] == {"trio_isolates": "_trio_isolates_pytest"}
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"trio_isolates/_pytest_plugin.py": "_trio_isolates_pytest.py"}


def test_inline_isolates(tests: pytest.Pytester) -> None:
    """With `inline_isolates`, all isolates of a test are inline, in tests of every kind; without it, none."""
    result = run(
        tests,
        """
        import os
        import pytest
        import trio
        import trio.testing
        from trio_isolates import open_worker, run
        from trio_isolates.testing import InlineEngine

        async def pid_of_open_worker():
            async with open_worker(abs) as worker:
                return worker.pid, await worker.run(os.getpid)

        async def test_async(inline_isolates):
            pid, seen = await pid_of_open_worker()
            assert pid > 2**22 and seen == os.getpid()
            assert isinstance(inline_isolates, InlineEngine)

        def test_sync(inline_isolates):
            assert trio.run(run, os.getpid) == os.getpid()

        @pytest.fixture
        async def worker(inline_isolates):
            async with open_worker(abs) as worker:
                yield worker

        async def test_async_fixture(worker, inline_isolates, autojump_clock):
            inline_isolates.fail_next("call", KeyError(1))
            with pytest.raises(KeyError):
                await worker.call(-1)
            assert await worker.call(-1) == 1

        async def test_afterwards():
            pid, seen = await pid_of_open_worker()
            assert pid == seen != os.getpid()
        """,
    )
    result.assert_outcomes(passed=4)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a descriptor is")
def test_leak_check(tests: pytest.Pytester) -> None:
    """`isolate_leak_check` fails a test that leaves processes, descriptors or threads of isolates behind."""
    result = run(
        tests,
        """
        import os
        import signal
        import subprocess
        import threading
        import _trio_isolates_pytest
        import pytest
        from trio_isolates import open_pool

        _trio_isolates_pytest._PATIENCE = 0.1
        pytestmark = pytest.mark.usefixtures("isolate_leak_check")
        ended = threading.Event()
        kept = []

        async def test_clean():
            async with open_pool(abs, workers=2) as pool:
                assert await pool.map([-1, 1]) == [1, 1]

        def test_processes():
            script = "sleep 1000 & echo; wait"
            shell = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
            kept.append(shell)
            shell.stdout.readline()

        def test_zombie():
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

        def test_descriptors():
            kept.append(os.memfd_create("trio_isolates"))
            kept.append(os.pidfd_open(os.getpid()))

        def test_thread():
            threading.Thread(target=ended.wait, name="trio_isolates deadman", daemon=True).start()

        def test_what_was_there_before():
            pass

        def teardown_module():
            os.killpg(kept[0].pid, signal.SIGKILL)
            kept[0].stdout.close()
            kept[0].wait()
            os.wait()
            ended.set()
        """,
    )
    result.assert_outcomes(passed=6, errors=4)
    text = result.stdout.str().partition("short test summary info")[0]  # which may tell it all again
    assert text.count("left behind 0.1 seconds after the test:") == 4
    for found in (
        r"process \d+: sh",
        r"process \d+: sleep",
        r"process \d+: .* \(zombie\)",
        r"descriptor \d+ -> /memfd:trio_isolates",
        r"descriptor \d+ -> anon_inode:\[pidfd\]",
        r"thread 'trio_isolates deadman'",
    ):
        assert re.search(found, text), found


@pytest.mark.skipif(shutil.which("ps") is None, reason="there is no ps here")
def test_processes_where_there_is_no_proc() -> None:
    """The table that `ps` gives says of this process what the kernel says."""
    table = dict(plugin._ps_table())
    assert table[os.getpid()][0] == os.getppid()
    assert "zombie" not in table[os.getpid()][1]
    if Path("/proc/self/stat").exists():
        assert dict(plugin._proc_table())[os.getpid()][0] == os.getppid()
