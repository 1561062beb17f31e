"""Standard output that can't be written to: a pipe that nobody reads any more, a full disk."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.deployment.servers import environment

PRINTING = """
import sys
from fedsim.output import lasting_output
with lasting_output():
    for line in range(3):
        print("line", line, flush=True)
        print("error", line, file=sys.stderr)
    print("last")
    sys.exit({code})
"""


def closed_pipe() -> int:
    """Return the end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def call(command: Sequence[str], out: int) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [sys.executable, *command],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            check=False,
        )
    finally:
        os.close(out)


@pytest.mark.parametrize("unbuffered", [(), ("-u",)])
@pytest.mark.parametrize("code", [0, 2])
def test_a_pipe_that_nobody_reads_is_no_failure(code: int, unbuffered: Sequence[str]) -> None:
    done = call([*unbuffered, "-c", PRINTING.format(code=code)], closed_pipe())
    assert (done.returncode, done.stderr) == (code, "error 0\nerror 1\nerror 2\n")


@pytest.mark.parametrize(("code", "ends_with"), [(0, 1), (2, 2)])
def test_lost_output_is_told_once_and_is_a_failure(code: int, ends_with: int) -> None:
    done = call(["-c", PRINTING.format(code=code)], full())
    said = "fedsim: standard output: No space left on device; what was printed is lost\n"
    assert (done.returncode, done.stderr) == (ends_with, f"error 0\nerror 1\nerror 2\n{said}")


def test_every_command_has_such_output() -> None:
    done = call(["-m", "fedsim.cli", "--help"], full())
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_streams_that_a_caller_has_replaced_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from fedsim.output import lasting_output

    before = sys.stdout
    with lasting_output():
        assert sys.stdout is before
        print("here")
    assert capsys.readouterr().out == "here\n"


@pytest.mark.slow
def test_a_run_goes_on_when_its_reader_has_left(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\nrounds = 2\n[data]\nclients = 6\npartition = "iid"\n[model]\nname = "linear"\n[server]\ncohort = 3\n'
    )
    done = call(["-m", "fedsim.cli", "run", "tiny.toml", "--out", "a", "--workers", "1"], closed_pipe())
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("a", "model.safetensors").exists()
