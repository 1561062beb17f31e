"""Worker processes that are killed at random moments cost time, and no bits."""

import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim import Experiment
from tests.test_simulation import CNN, LSTM, bits


def children() -> list[int]:
    """Return the processes that this one has started, the oldest first."""
    task = Path(f"/proc/self/task/{os.getpid()}/children")
    return sorted(int(pid) for pid in task.read_text().split())


class Killer:
    """Kills the oldest worker once a round, some random time after the round before has ended."""

    def __init__(self, kills: int) -> None:
        self.left = kills
        self.killed = 0
        self.random = random.Random(0)

    def started(self, path: Path, rounds: int) -> None:
        """Kill in the first round."""
        self.kill_soon()

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Kill in the next."""
        self.kill_soon()

    def kill_soon(self) -> None:
        if self.left:
            self.left -= 1
            threading.Thread(target=self.kill, args=(self.random.uniform(0, 0.3),)).start()

    def kill(self, delay: float) -> None:
        time.sleep(delay)
        if workers := children():
            os.kill(workers[0], signal.SIGKILL)
            self.killed += 1


@pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="needs Linux's /proc"
)
@pytest.mark.parametrize(
    ("text", "kills"), [(CNN, 3), pytest.param(LSTM, 20, marks=pytest.mark.slow)], ids=["cnn", "lstm"]
)
def test_workers_that_are_killed_cost_no_bits(text: str, kills: int) -> None:
    rounds = f"rounds={kills + 1}"
    reference = bits(
        fedsim.run(Experiment.from_toml(text, [rounds, "runtime.engine=sequential"]), "sequential")
    )
    killer = Killer(kills)
    assert (
        bits(fedsim.run(Experiment.from_toml(text, [rounds, "runtime.workers=2"]), "local", killer))
        == reference
    )
    assert killer.killed >= kills - 1
