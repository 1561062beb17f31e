import pytest

import fedsim
from fedsim import Refused
from tests.conftest import experiment
from tests.support.runs import bits

OWN = "server.schedule=tests.toys.own_schedule:OverSelection"


@pytest.mark.slow
def test_a_schedule_of_ones_own_runs_on_every_engine() -> None:
    setting = (OWN, "server.cohort=4", "server.schedule-options.factor=1.5")
    run = fedsim.run(experiment(*setting), "run")
    assert [(row["clients"], row["failures"]) for row in run.rows] == [(4, 2)] * 3
    assert set(run.rows[0]["failure-reasons"][0].split(": ")[1:]) == {"was too slow"}
    assert bits(
        fedsim.run(experiment(*setting, "runtime.engine=local", "runtime.workers=2"), "local")
    ) == bits(run)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["server.schedule-options.speed=2"], "got an unexpected keyword argument 'speed'"),
        (
            ["server.schedule=tests.toys.own_sampling:TakingTurns"],
            "TakingTurns': is the class TakingTurns; a fedsim.server.schedules.Schedule is needed: a subclass",
        ),
        (["server.schedule=builtins:dict"], "dict"),
    ],
)
def test_a_reference_that_is_no_schedule_is_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(Refused) as refused:
        fedsim.run(
            experiment(*dict.fromkeys([*([OWN] if "options" in overrides[0] else []), *overrides])), "run"
        )
    assert str(refused.value).startswith("server.schedule = ")
    assert line in str(refused.value)
