"""Worker processes of the local engine: some that never start, their end, and scripts without a main guard."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.runtime import LocalGrid
from tests.support.engines import SPEC, query, told
from tests.support.waiting import wait_for


def test_workers_that_never_start_fail_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with LocalGrid(SPEC, 1) as grid:
        (reply,) = grid.send_and_receive([query(0)])
        assert reply.error.reason == "worker process ended with 1 before it was ready"


def test_workers_end_with_the_grid() -> None:
    with LocalGrid(SPEC, 2) as grid:
        replies = list(grid.send_and_receive([query(client) for client in range(5)]))
        processes = set(told(replies, "process").values())
        assert all(Path(f"/proc/{process}").exists() for process in processes)
    assert processes
    wait_for(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))


@pytest.mark.slow
def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:

    script = tmp_path / "script.py"
    script.write_text(
        "import fedsim\n"
        "text = 'rounds = 1\\n[data]\\nclients = 4\\n[model]\\nname = \"linear\"\\n[server]\\ncohort = 2'\n"
        "print(fedsim.run(fedsim.Experiment.from_toml(text), 'out').status)\n"
    )
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (result.returncode, result.stdout) == (0, "completed\n"), result.stderr
