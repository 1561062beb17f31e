"""`fedsim client`: what it refuses before it connects to anyone."""

import signal
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedsim.cli import app
from fedsim.deployment.keys import make_keys

INSECURE = ["--on", "localhost:1", "--insecure", "--partition", "0", "--of", "3"]
SAYINGS = [
    (["--on", "localhost:1"], "--keys: is missing; allowed: --keys DIR, or --insecure"),
    (["--on", "localhost", "--insecure"], "--on 'localhost': must be HOST:PORT"),
    (["--on", "10.0.0.1:1", "--insecure"], "--on '10.0.0.1:1': --insecure is for a server on this machine"),
    (["--on", "localhost:1", "--insecure"], "--partition and --of: are missing"),
    ([*INSECURE, "--partition", "3"], "--partition 3: must be below --of 3"),
    ([*INSECURE, "--keys", "keys/client-1"], "--keys: is missing"),
    (["--on", "localhost:1", "--keys", "nowhere"], "--keys: 'nowhere/ca.pem': No such file or directory"),
    (
        ["--on", "localhost:1", "--keys", "keys/client-1", "--partition", "0"],
        "--partition 0: the keys in 'keys/client-1' are client 1's of 2",
    ),
    (
        ["--on", "localhost:1", "--keys", "keys/client-1", "--of", "3"],
        "--of 3: the keys in 'keys/client-1' are client 1's of 2",
    ),
    (
        [*INSECURE, "--data", "mine.csv"],
        "--data 'mine.csv': is of no known kind; allowed: .npz, .parquet, .txt",
    ),
    ([*INSECURE, "--only", "none.toml"], "none.toml"),
]


@pytest.mark.parametrize(("options", "saying"), SAYINGS)
def test_bad_options_are_one_line(options: list[str], saying: str, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", 2, [], timedelta(days=1))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    result = CliRunner().invoke(app, ["client", "--state", "state", *options])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert saying in result.stderr
    assert not (tmp_path / "state").exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
