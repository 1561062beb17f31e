"""Worker processes that are killed at random moments cost time, and no bits; with real noise, they cost the client."""

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
from fedsim.privacy.account import Account
from fedsim.privacy.events import Ledger
from fedsim.progress import Silent
from fedsim.runtime import AppSpec
from tests.support.dying_app import MARK, VICTIM
from tests.support.runs import CNN, LSTM, bits, events_of
from tests.support.stopping import failing_in_private
from tests.support.waiting import wait_for


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
        # Until it has been missed: else the next round's first job may go to a corpse.
        wait_for(lambda: victim not in children(), pause=0.01)


@pytest.mark.slow
@pytest.mark.skipif(not list(Path("/proc/self/task").glob("*/children")), reason="needs Linux's /proc")
@pytest.mark.parametrize(("text", "kills"), [(CNN, 1), (LSTM, 20)], ids=["cnn", "lstm"])
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


# --- where the noise is the operating system's ----------------------------------------------------------------

REAL = """
name = "real"
rounds = 2
[data]
clients = 5
partition = "iid"
[model]
name = "linear"
[client]
steps = 1
[server]
cohort = 5
[privacy]
noise = "os"
[privacy.local-dp]
epsilon = 3.0
delta = 1e-3
clip = 0.5
[runtime]
workers = 1
"""


def one_dies(monkeypatch: pytest.MonkeyPatch, **more: bool) -> None:
    """Let the victim's worker die in the first round, after its event is in the ledger; it has a job of its own."""

    def spec(*arguments: Any, **named: Any) -> AppSpec:
        return AppSpec(*arguments, **named | {"reference": "tests.support.dying_app:app"} | more)

    monkeypatch.setattr("fedsim.simulate.AppSpec", spec)


def releases_of(run: fedsim.Run, client: int) -> list[int]:
    return [event.round for event in events_of(run) if event.client == client]


@pytest.mark.slow
def test_a_client_whose_worker_dies_after_its_release_is_charged_once_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_dies(monkeypatch)
    run = fedsim.run(Experiment.from_toml(REAL), "run")
    assert Path(MARK).exists()
    assert [row["failures"] for row in run.private_rows] == [1, 0]
    assert run.manifest["status"] == "completed"
    assert releases_of(run, VICTIM) == [1, 2]
    said = run.manifest["epsilon"]["server"]
    assert said["spent"] <= said["epsilon"] <= 3.0


@pytest.mark.slow
def test_a_second_try_would_be_a_second_release_and_the_run_ends_before_the_budget_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_dies(monkeypatch, second_try=True)  # the control, as it was
    why = f"round 2: client {VICTIM} has 2 releases in the ledger, of 2 that are planned"
    with failing_in_private("run", why):
        fedsim.run(Experiment.from_toml(REAL), "run")
    run = fedsim.load_run("run")
    assert releases_of(run, VICTIM) == [1, 1]
    assert {event.round for event in events_of(run)} == {1}  # nobody was asked in the second
    said = run.manifest["epsilon"]["server"]
    assert said["spent"] <= said["epsilon"]
    # Unchecked, the run goes on, and past its budget.
    Path(MARK).unlink()
    monkeypatch.setattr(Account, "check_room", lambda *_: None)
    beyond = fedsim.run(Experiment.from_toml(REAL), "beyond").manifest["epsilon"]["server"]
    assert beyond["spent"] > beyond["epsilon"]


@pytest.mark.slow
def test_a_participation_that_died_with_its_worker_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    one_dies(monkeypatch)
    setting = Experiment.from_toml(REAL, ["rounds=3", "privacy.local-dp.max-participations=2"])
    # In the third, in which the victim's own count, which died too, would let it.
    with failing_in_private("run", "has taken part in 2 rounds, all that max-participations allows"):
        fedsim.run(setting, "run")
    run = fedsim.load_run("run")
    assert Ledger(events_of(run)).participations() == dict.fromkeys(range(5), 2)
    said = run.manifest["epsilon"]["server"]
    assert said["spent"] == said["epsilon"]
    # The control: it is asked, and takes part.
    Path(MARK).unlink()
    monkeypatch.setattr(Account, "exhausted", lambda *_: {})
    monkeypatch.setattr(Account, "check_room", lambda *_: None)
    monkeypatch.setattr(
        Account, "planned", lambda self, round_, clients: {c: self._plan.planned(round_, c) for c in clients}
    )
    beyond = fedsim.run(setting, "beyond")
    assert releases_of(beyond, VICTIM) == [1, 2, 3]
