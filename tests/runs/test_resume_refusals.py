"""Runs that can't be resumed: one clear line, exit code 2, nothing changed; and the lock of a running run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedsim
from fedsim import Experiment, Refused
from fedsim.cli import app
from fedsim.results.checkpoint import ClientStates
from fedsim.results.lock import Lock
from tests.conftest import experiment
from tests.support.stopping import Killed, Listener, change, die, rewrite, stopped


def replace(path: Path, name: str, old: str, new: str) -> None:
    text = (path / name).read_text()
    assert old in text
    (path / name).write_text(text.replace(old, new))


def damage(path: Path) -> None:
    file = path / "checkpoint" / "last-round.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")


def complete(path: Path) -> None:
    fedsim.resume(path)


def other_states(path: Path) -> None:
    states = ClientStates(path)
    states.keep(1, {0: b"state"})
    states.close()


LOCKS: list[Lock] = []

REFUSALS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no directory": (shutil.rmtree, "has no manifest.json; a run directory is needed"),
    "another directory": (lambda p: (p / "manifest.json").unlink(), "has no manifest.json; a run directory is needed"),
    "no manifest": (lambda p: (p / "manifest.json").write_text("{"), "a/manifest.json': is damaged (JSONDecodeError: "),
    "an old run": (lambda p: change(p, "manifest.json", lambda m: m.pop("run-id")), "a version of fedsim that kept no checkpoints"),
    "completed": (complete, "is completed; only a run that was killed, interrupted or failed can be resumed"),
    "held": (lambda p: LOCKS.append(Lock(p)), f"process {os.getpid()} is writing it; one at a time"),
    "the experiment changed": (lambda p: replace(p, "experiment.toml", "cohort = 4", "cohort = 5"), "experiment.toml has changed since the run began; only [runtime] may change"),
    "the experiment broken": (lambda p: (p / "experiment.toml").write_text("rounds = "), "experiment.toml has changed since the run began"),
    "the experiment gone": (lambda p: (p / "experiment.toml").unlink(), "experiment.toml has changed since the run began"),
    "other data": (
        lambda p: (change(p, "manifest.json", lambda m: m.update({"data-sha256": "0" * 64})), rewrite(p, data_sha256="0" * 64)),
        f"the data has changed since the run began: data-sha256 was {'0' * 64} and is ",
    ),
    "another run's checkpoint": (lambda p: rewrite(p, run_id="ab"), "checkpoint: belongs to run ab, and this is run "),
    "another experiment's checkpoint": (lambda p: rewrite(p, experiment_sha256="ab"), "checkpoint: was made with experiment-sha256 ab, not "),
    "other data's checkpoint": (lambda p: rewrite(p, data_sha256="ab"), "checkpoint: was made with data-sha256 ab, not "),
    "a damaged checkpoint": (damage, "checkpoint/last-round.safetensors: is damaged (its hash is another); without the folder checkpoint the run begins again at round 1"),
    "metrics too short": (lambda p: os.truncate(p / "metrics.jsonl", 20), "metrics.jsonl: has 20 bytes; the checkpoint was made at "),
    "metrics gone": (lambda p: (p / "metrics.jsonl").unlink(), "metrics.jsonl: has 0 bytes; the checkpoint was made at "),
    "metrics changed": (lambda p: replace(p, "metrics.jsonl", "}\n", "}}"), "metrics.jsonl: was changed; its first "),
    "a damaged database": (lambda p: (p / "checkpoint" / "clients.sqlite").write_text("none" * 99), "checkpoint/clients.sqlite: is damaged (file is not a database); without the folder"),
    "other clients' states": (other_states, "checkpoint: the clients' states are not those of round 2; without"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "saying"), REFUSALS.values(), ids=REFUSALS)
def test_a_run_that_can_not_go_on(tiny: Experiment, spoil: Callable[[Path], Any], saying: str) -> None:
    path = stopped(tiny, "a")
    spoil(path)
    before = contents(path)
    try:
        result = CliRunner().invoke(app, ["resume", "a"])
    finally:
        while LOCKS:
            LOCKS.pop().release()
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert saying in result.stderr
    assert result.stderr.startswith("fedsim: run '")
    assert contents(path) == before


def contents(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_stale_checkpoint_with_newer_client_states(tiny: Experiment, drifting: None) -> None:
    path = stopped(tiny, "a", after=1)
    old = (path / "checkpoint" / "last-round.safetensors").read_bytes()
    with pytest.raises(Killed):
        fedsim.resume(path, Listener(2, die))
    reference = (path / "checkpoint" / "last-round.safetensors").read_bytes()
    (path / "checkpoint" / "last-round.safetensors").write_bytes(old)
    # A round later the states of round 1 are still there; the run goes on from it.
    assert fedsim.resume(path).status == "completed"
    path = stopped(tiny, "b", after=3)
    (path / "checkpoint" / "last-round.safetensors").write_bytes(reference)
    with pytest.raises(Refused, match="checkpoint: belongs to run"):
        fedsim.resume(path)


# --- status and lock -----------------------------------------------------------------------------------


def test_a_runs_status() -> None:
    statuses = []
    setting = experiment()
    listener = Listener(2, lambda: statuses.append(fedsim.load_run("a").status))
    fedsim.run(setting, "a", listener)
    assert statuses == ["running"]
    assert fedsim.load_run("a").status == "completed"
    change(Path("a"), "manifest.json", lambda manifest: manifest.update(status="running"))
    assert fedsim.load_run("a").status == "killed"
    assert fedsim.load_runs("a")["status"].to_list() == ["killed"]
    assert json.loads(Path("a/manifest.json").read_text())["status"] == "running"  # looking writes nothing
    lock = Lock(Path("a"))
    assert fedsim.load_run("a").status == "running"
    lock.release()
    Path("a/.lock").unlink()  # as in a copy that left it out: no one can say
    assert fedsim.load_run("a").status == "running"


def test_a_run_in_this_process_holds_its_directory(tiny: Experiment) -> None:
    refused: list[str] = []

    def try_it() -> None:
        with pytest.raises(Refused) as info:
            fedsim.resume("a")
        refused.append(str(info.value))

    fedsim.run(tiny, "a", Listener(1, try_it))
    assert refused == [
        f"run {str(Path('a').absolute())!r}: process {os.getpid()} is writing it; one at a time"
    ]
