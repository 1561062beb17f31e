"""A run killed between any two of its writes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedsim
from fedsim import Experiment
from fedsim.results.checkpoint import read_checkpoint
from tests.conftest import experiment
from tests.support.disk import MOST_STEPS, Disk, crashes
from tests.support.runs import bits, events_of, private_bits
from tests.support.stopping import Killed


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    with monkeypatch.context() as patch:
        yield Disk(patch)


def go_on_with(setting: Experiment, path: Path) -> None:
    """Do what a user does after a kill."""
    if path.exists():
        fedsim.resume(path)
    else:
        fedsim.run(setting, path)


@pytest.mark.usefixtures("drifting")
def test_a_kill_between_any_two_writes_loses_at_most_a_round(disk: Disk) -> None:
    setting = experiment("rounds=2", "server.strategy=fedadam")
    reference = bits(fedsim.run(setting, "whole"))
    killed_in = set()
    for steps in range(MOST_STEPS):
        path = Path(f"killed-{steps}")
        disk.left = steps
        try:
            fedsim.run(setting, path)
            break
        except Killed:
            disk.left = -1
        if path.exists():
            status = fedsim.load_run(path).status
            rows = len(fedsim.load_run(path).rows)
            found = read_checkpoint(path)
            assert (found.round if found else 0) in (rows, rows - 1)
            killed_in.add((status, rows))
        if not path.exists() or status != "completed":
            go_on_with(setting, path)
        assert bits(fedsim.load_run(path)) == reference
    assert 25 < steps < MOST_STEPS - 1  # every write of a run was the first that did not happen
    assert killed_in >= {("killed", 0), ("killed", 1), ("killed", 2), ("completed", 2)}
    assert not list(Path().glob(".fedsim-draft-*"))


PRIVATE = ("rounds=2", "privacy.dp-sgd.noise-multiplier=2.0", "privacy.dp-sgd.delta=1e-5")


@pytest.mark.slow
def test_with_seeded_noise_a_kill_between_any_two_writes_changes_nothing(disk: Disk) -> None:
    setting = experiment(*PRIVATE)
    reference = private_bits(fedsim.run(setting, "whole"))
    kills = 0
    for path in crashes(disk, setting):
        assert private_bits(fedsim.resume(path)) == reference
        kills += 1
    assert kills > 15


@pytest.mark.slow
def test_with_real_noise_no_event_is_lost_and_no_round_is_run_twice(disk: Disk) -> None:
    setting = experiment(*PRIVATE, "privacy.noise=os")
    abandoned = set()
    for path in crashes(disk, setting):
        before = fedsim.load_run(path).ledger.read_bytes()
        run = fedsim.resume(path)
        assert run.ledger.read_bytes().startswith(before)
        participations = [(event.round, event.client) for event in events_of(run)]
        assert len(participations) == len(set(participations))
        rows = {row["round"]: row for row in run.private_rows}
        assert rows.keys() == {1, 2}
        assert [row["round"] for row in run.rows] == [1, 2]
        abandoned |= {round_ for round_, row in rows.items() if row.get("abandoned")}
        assert run.manifest["epsilon"]["known-cohort"]["spent"] == rows[2]["epsilon-known-cohort"] > 0
    assert abandoned == {1, 2}


@pytest.mark.parametrize("steps", [14, 17, 23])
@pytest.mark.usefixtures("drifting")
def test_kill_after_kill(disk: Disk, steps: int) -> None:
    setting = experiment("rounds=6", "server.strategy=fedavgm")
    reference = bits(fedsim.run(setting, "whole"))
    kills = 0
    while kills < 100:
        disk.left = steps
        try:
            go_on_with(setting, Path("a"))
            break
        except Killed:
            kills += 1
    disk.left = -1
    assert 2 <= kills < 100
    assert bits(fedsim.load_run("a")) == reference


def test_a_draft_that_a_kill_has_left_is_swept(tiny: Experiment) -> None:
    old, young = (Path("runs") / f".fedsim-draft-{age}" for age in ("old", "young"))
    for draft in (old, young):
        draft.mkdir(parents=True)
        (draft / "experiment.toml").touch()
    os.utime(old, (1, 1))
    fedsim.run(tiny)
    assert (old.exists(), young.exists()) == (False, True)
    assert len(fedsim.load_runs()) == 1
