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
from fedsim.progress import Silent
from tests.test_simulation import CNN, LSTM, bits


def children() -> list[int]:
    """Return the processes that this one's threads have started, the oldest first."""
    lists = Path("/proc/self/task").glob("*/children")
    return sorted(int(pid) for children in lists for pid in children.read_text().split())


def is_worker(pid: int) -> bool:
    """Say whether a child is an engine's worker: other tests of this process leave children of other kinds."""
    try:
        return b"fedsim.runtime.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


class Killer(Silent):
    """Kills the oldest worker once a round, some random time after the round before has ended."""

    def __init__(self, kills: int) -> None:
        self.left = kills
        self.killed = 0
        self.random = random.Random(0)

    def started(self, path: Path, rounds: int, done: int) -> None:
        """Kill in the first round."""
        self.kill_soon()

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Kill in the next, but not before the kill of this one: a client that is lost twice has failed."""
        self.thread.join()
        if self.left:
            self.kill_soon()

    def kill_soon(self) -> None:
        self.left -= 1
        self.thread = threading.Thread(target=self.kill, args=(self.random.uniform(0, 0.3),))
        self.thread.start()

    def kill(self, delay: float) -> None:
        time.sleep(delay)
        victim = next(filter(is_worker, children()))
        os.kill(victim, signal.SIGKILL)
        self.killed += 1
        while (
            victim in children()
        ):  # until it has been missed: else the next round's first job may go to a corpse
            time.sleep(0.01)


@pytest.mark.skipif(not list(Path("/proc/self/task").glob("*/children")), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("text", "kills"), [(CNN, 2), pytest.param(LSTM, 20, marks=pytest.mark.slow)], ids=["cnn", "lstm"]
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
    assert killer.killed == kills
