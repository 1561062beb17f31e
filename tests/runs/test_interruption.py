"""SIGINT, SIGTERM and SIGHUP: the round is completed, and the run can be resumed."""

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim import Experiment, Interrupted
from tests.conftest import experiment
from tests.support.runs import bits
from tests.support.stopping import Listener, signal_myself

pytestmark = pytest.mark.usefixtures("sigint")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_after_the_round(tiny: Experiment, number: signal.Signals) -> None:
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    reference = bits(fedsim.run(tiny, "whole"))
    listener = Listener(2, signal_myself(number))
    said = f"interrupted after round 2 of 3; fedsim resume {Path('a').absolute()} goes on"
    with pytest.raises(Interrupted, match=said):
        fedsim.run(tiny, "a", listener)
    assert listener.heard[1:] == [1, 2, "stopping"]
    assert {s: signal.getsignal(s) for s in before} == before
    run = fedsim.load_run("a")
    assert (run.status, run.manifest["error"], len(run.rows)) == ("interrupted", said, 2)
    assert bits(fedsim.resume("a")) == reference


def test_a_second_signal_ends_at_once(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.interruption.TOGETHER", 0.0)
    twice = signal_myself(signal.SIGTERM, signal.SIGINT)
    reference = bits(fedsim.run(tiny, "whole"))
    with pytest.raises(KeyboardInterrupt):
        fedsim.run(tiny, "a", Listener(1, twice))
    assert (fedsim.load_run("a").status, fedsim.load_run("a").manifest["error"]) == ("interrupted",) * 2
    assert bits(fedsim.resume("a")) == reference


def test_signals_that_come_together_are_one(tiny: Experiment) -> None:
    thrice = signal_myself(signal.SIGTERM, signal.SIGINT, signal.SIGTERM)
    with pytest.raises(Interrupted, match="after round 1 of 3"):
        fedsim.run(tiny, "a", Listener(1, thrice))


def test_a_signal_before_the_first_round_ends_at_once() -> None:
    with pytest.raises(Interrupted, match="interrupted before the first round"):
        fedsim.run(experiment("model.name=tests.support.models:interrupting"), "a")
    assert not Path("a").exists()


def test_a_signal_in_the_last_round_lets_the_run_complete_and_is_heard(tiny: Experiment) -> None:
    with pytest.raises(Interrupted, match="interrupted in its last round; the run is completed"):
        fedsim.run(tiny, "a", Listener(3, signal_myself(signal.SIGINT)))
    assert fedsim.load_run("a").status == "completed"


def test_an_ignored_signal_stays_ignored(tiny: Experiment) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = fedsim.run(tiny, "a", Listener(1, signal_myself(signal.SIGINT)))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.status == "completed"


def test_in_another_thread_the_handlers_are_left_alone(tiny: Experiment) -> None:
    handlers: list[Any] = []
    listener = Listener(1, lambda: handlers.append(signal.getsignal(signal.SIGTERM)))
    thread = threading.Thread(target=fedsim.run, args=(tiny, "a", listener))
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
    assert fedsim.load_run("a").status == "completed"
