"""A run that the machine keeps from going on: one line, its whole rounds safe, and `resume` goes on with the same bits."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim import Experiment
from tests.conftest import experiment
from tests.support.disk import MOST_STEPS, Disk
from tests.support.runs import bits, private_bits
from tests.support.stopping import Listener

PRIVATE = ("rounds=2", "privacy.dp-sgd.noise-multiplier=2.0", "privacy.dp-sgd.delta=1e-5")


def no_space() -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("stride", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_from_any_write_on(
    private: bool, stride: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    setting, bits_of = (experiment(*PRIVATE), private_bits) if private else (experiment("rounds=2"), bits)
    if not private:
        request.getfixturevalue("drifting")  # clients whose state matters; they release nothing
    reference = bits_of(fedsim.run(setting, "whole"))
    with monkeypatch.context() as patch:
        disk = Disk(patch, no_space)
        for steps in range(stride // 2, MOST_STEPS, stride):
            path = Path(f"full-{steps}")
            disk.left = steps
            try:
                fedsim.run(setting, path)
                break
            except (fedsim.Refused, fedsim.RunFailed) as error:
                said, was_refused = str(error), isinstance(error, fedsim.Refused)
            disk.left = -1
            assert "No space left on device" in said
            assert "\n" not in said
            assert was_refused or "whole rounds are safe" in said
            if not path.exists():
                assert was_refused
            elif fedsim.load_run(path).status != "completed":
                assert bits_of(fedsim.resume(path)) == reference
    assert steps > 15


def test_with_real_noise_a_full_disk_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = experiment(*PRIVATE, "privacy.noise=os")
    with monkeypatch.context() as patch:
        disk = Disk(patch, no_space)

        def fill() -> None:
            disk.left = 0

        with pytest.raises(fedsim.RunFailed, match="No space left on device"):
            fedsim.run(setting, "a", Listener(1, fill))
    assert [row["round"] for row in fedsim.resume("a").rows] == [1, 2]


def test_a_run_directory_that_is_removed(tiny: Experiment) -> None:
    with pytest.raises(
        fedsim.RunFailed, match=r"run '.*/a': its directory was removed while the run went on$"
    ):
        fedsim.run(tiny, "a", Listener(1, lambda: shutil.rmtree("a")))
    assert not Path("a").exists()


@pytest.mark.usefixtures("drifting")
def test_a_full_disk_under_the_clients_states(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = bits(fedsim.run(tiny, "whole"))

    def shrink() -> None:
        """Let SQLite have no page more than it has."""
        from fedsim.results.checkpoint import ClientStates

        real = ClientStates._open

        def full(self: Any) -> Any:
            database = real(self)
            database.execute("PRAGMA max_page_count = 1")
            database.execute("CREATE TABLE IF NOT EXISTS filler (it BLOB)")
            return database

        patch.setattr(ClientStates, "_open", full)

    with monkeypatch.context() as patch:
        shrink()
        with pytest.raises(fedsim.RunFailed, match=r"full.* whole rounds are safe|No space left"):
            fedsim.run(tiny, "a")
    assert bits(fedsim.resume("a")) == reference
