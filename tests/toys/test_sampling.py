"""A user's own cohort sampling, named in the experiment file: on both engines, resumed, refused without a guarantee."""

from __future__ import annotations

import json

import pytest

import fedsim
from fedsim import Experiment, Refused, RunFailed
from tests.support.runs import bits
from tests.support.stopping import stopped

OWN = """
rounds = 5
[data]
clients = 9
partition = "iid"
[model]
name = "linear"
[server]
cohort = 2
sampling = "tests.toys.own_sampling:TakingTurns"
sampling-options = { stride = 2 }
[runtime]
engine = "sequential"
"""
DP_SGD = "privacy.dp-sgd={noise-multiplier=1.0, delta=1e-5}"
LOCAL_DP = "privacy.local-dp={noise-multiplier=1.0, delta=1e-3, clip=0.5}"
DP_FEDAVG = "privacy.dp-fedavg={noise-multiplier=1.0, delta=1e-3, clip=0.5}"
DP_FTRL = "privacy.dp-ftrl={noise-multiplier=1.0, delta=1e-3, clip=0.5, min-separation=2}"


@pytest.mark.slow
def test_clients_take_turns_on_both_engines_and_after_a_resume() -> None:
    run = fedsim.run(Experiment.from_toml(OWN, [DP_SGD]), "sequential")
    drawn = [json.loads(line)["client"] for line in run.ledger.read_text().splitlines()]
    first = sorted(drawn[:2])
    start = next(s for s in range(9) if sorted([s, (s + 2) % 9]) == first)
    turns = [(start + 2 * k) % 9 for k in range(10)]
    assert [sorted(drawn[k : k + 2]) for k in range(0, 10, 2)] == [
        sorted(turns[k : k + 2]) for k in range(0, 10, 2)
    ]
    assert bits(fedsim.run(Experiment.from_toml(OWN, [DP_SGD, "runtime.engine=local"]), "local")) == bits(run)
    stopped(Experiment.from_toml(OWN, [DP_SGD]), "cut", after=3)
    assert bits(fedsim.resume("cut")) == bits(run)


@pytest.mark.parametrize("overrides", [(LOCAL_DP,), ("privacy.secagg.mode=ideal", "server.cohort=4")])
def test_guarantees_that_hold_for_any_cohorts_stay(overrides: tuple[str, ...]) -> None:
    run = fedsim.run(Experiment.from_toml(OWN, [*overrides, "rounds=2"]), "run")
    assert run.status == "completed"


@pytest.mark.parametrize("mechanism", [DP_FEDAVG, DP_FTRL])
def test_a_mechanism_whose_epsilon_depends_on_the_law_of_the_cohorts_refuses(mechanism: str) -> None:
    with pytest.raises(
        Refused, match=r"^server.sampling = 'tests.*TakingTurns': no guarantee is known for it"
    ):
        Experiment.from_toml(OWN, [mechanism])


def test_dp_sgd_against_released_models_refuses() -> None:
    with pytest.raises(Refused, match=r"needs server\.sampling = 'poisson', not 'own'"):
        Experiment.from_toml(OWN, [DP_SGD, "privacy.dp-sgd.adversary=released-models"])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "server.sampling=sometimes",
            "server.sampling = 'sometimes': there is no such name; allowed: fixed, poisson, ",
        ),
        (
            "server.sampling=fixed",
            "server.sampling-options = 'a table': is for a sampling of your own, not 'fixed'",
        ),
        ("server.sampling=nowhere:x", "server.sampling = 'nowhere:x': 'nowhere:x' can't be loaded"),
        (
            "server.sampling-options.stripe=3",
            "TakingTurns': TakingTurns.__init__() got an unexpected keyword",
        ),
        (
            "server.sampling=builtins:dict",
            "server.sampling = 'builtins:dict': is the class dict; a fedsim.privacy.cohorts.sampling.CohortSampling is needed",
        ),
    ],
)
def test_a_sampling_that_is_none_is_refused_in_one_line(override: str, line: str) -> None:
    with pytest.raises(Refused) as raised:
        fedsim.run(Experiment.from_toml(OWN, [override]), "run")
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("drawn", "saying"),
    [
        ("[1, 1]", "drew a client twice"),
        ("[8, 9]", "drew 9; clients from 0 to 8"),
        ("[-1, 3]", "drew -1; clients"),
        ("5", "TypeError"),
    ],
)
def test_a_cohort_that_is_none_ends_the_run(drawn: str, saying: str) -> None:
    wrong = ["server.sampling=tests.toys.own_sampling:Wrong", f"server.sampling-options={{drawn={drawn}}}"]
    with pytest.raises(RunFailed, match=rf"round 1: server.sampling = .*Wrong.*{saying}"):
        fedsim.run(Experiment.from_toml(OWN, wrong), "run")
