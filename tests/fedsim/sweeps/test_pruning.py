"""Pruning: which settings compete, at which rungs, and which continue; all computed by hand."""

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import Experiment, Refused
from fedsim.cli.sweep_view import decided
from fedsim.sweeps.plan import Plan
from fedsim.sweeps.planned_run import PlannedRun
from fedsim.sweeps.points import grid_of
from fedsim.sweeps.pruning import Bracket, Pruning, Result, Setting, brackets_of, standing
from fedsim.sweeps.run import make_plan
from fedsim.tasks.metric import Column
from tests.conftest import experiment

LEARNING = "client.learning-rate"


def private(noise: str = "epsilon") -> Experiment:
    """Return an experiment with noise of 4."""
    return experiment(
        "rounds=9", "name=dp", f"privacy={{dp-fedavg = {{delta = 1e-2, clip = 1.0, {noise} = 4.0}}}}"
    )


def planned(
    *settings: Experiment, seeds: int = 1, grid: Mapping[str, list[Any]], **pruning: Any
) -> list[Bracket]:
    plan = make_plan(settings, grid_of(grid, "grid"), [], seeds, prune=Pruning(**pruning))
    assert plan.pruning is not None
    return brackets_of(plan.runs, plan.pruning)


def shown(brackets: list[Bracket]) -> dict[str, list[str]]:
    return {bracket.label: [setting.label for setting in bracket.settings] for bracket in brackets}


def test_a_score_that_is_not_finite_is_the_worst() -> None:
    accuracy, loss = Column("accuracy"), Column("loss", lower_is_better=True)
    result = Result([{"round": 1, "accuracy": 0.5, "loss": 2.0}, {"round": 2, "accuracy": 0.4, "loss": None}])
    assert [result.score(2, accuracy), result.score(1, loss), result.score(2, loss)] == [0.4, -2.0, -math.inf]


# --- who competes ------------------------------------------------------------------------------------------


def test_settings_compete_within_their_arm_and_seeds_are_one_setting() -> None:
    none = experiment("rounds=9", "name=none")
    brackets = planned(none, private(), seeds=2, grid={LEARNING: [0.1, 0.2]})
    assert shown(brackets) == {
        "none": ["client.learning-rate=0.1", "client.learning-rate=0.2"],
        "dp": ["client.learning-rate=0.1", "client.learning-rate=0.2"],
    }
    assert [run.seed for run in brackets[0].settings[1].runs] == [0, 1]


def test_epsilons_never_compete_and_clip_norms_do() -> None:
    grid = {"privacy.dp-fedavg.epsilon": [1.0, 8.0], "privacy.dp-fedavg.clip": [0.1, 1.0]}
    assert shown(planned(private(), grid=grid)) == {
        f"dp, privacy.dp-fedavg.epsilon={epsilon}": [
            "privacy.dp-fedavg.clip=0.1",
            "privacy.dp-fedavg.clip=1.0",
        ]
        for epsilon in (1.0, 8.0)
    }


def test_with_a_noise_multiplier_what_epsilon_follows_from_is_given() -> None:
    grid: dict[str, list[Any]] = {"server.cohort": [4, 6], LEARNING: [0.1, 0.2]}
    noisy = private("noise-multiplier")
    assert list(shown(planned(noisy, grid=grid))) == ["dp, server.cohort=4", "dp, server.cohort=6"]
    calibrated = planned(private(), grid=grid)
    assert [len(bracket.settings) for bracket in calibrated] == [4]


def test_data_and_faults_and_what_the_user_says_is_given() -> None:
    none = experiment("rounds=9")
    grid: dict[str, list[Any]] = {
        "data.clients": [12, 14],
        "faults.dropout": [0.0, 0.1],
        LEARNING: [0.1, 0.2],
    }
    assert [len(bracket.settings) for bracket in planned(none, grid=grid)] == [2] * 4
    grid = {"server.strategy": ["fedavg", "fedadam"], LEARNING: [0.1, 0.2]}
    assert [len(bracket.settings) for bracket in planned(none, grid=grid)] == [4]
    assert list(shown(planned(none, grid=grid, within=("server.strategy",)))) == [
        "tiny, server.strategy=fedavg",
        "tiny, server.strategy=fedadam",
    ]


def test_seeds_of_a_grid_are_seeds() -> None:
    grid: dict[str, list[Any]] = {"seed": [3, 4], LEARNING: [0.1, 0.2], "data.clients": [12]}
    (bracket,) = planned(experiment("rounds=9"), grid=grid)
    assert [len(setting.runs) for setting in bracket.settings] == [2, 2]


def test_a_setting_alone_runs_to_its_end() -> None:
    grid = grid_of({"data.clients": [12, 14], LEARNING: [0.1, 0.2]}, "grid")
    runs = make_plan([experiment("rounds=9")], grid, [], 1).runs
    both, lone = brackets_of(runs[:3], Pruning())
    assert (both.rungs, lone.rungs) == ((1, 3), ())
    assert (names(standing(lone, {}, Pruning()).next), standing(lone, {}, Pruning()).until) == (
        [runs[2].name],
        None,
    )


# --- rungs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounds", "pruning", "rungs"),
    [
        (36, {}, (4, 12)),
        (9, {}, (1, 3)),
        (10, {}, (2, 6)),
        (3, {}, (1,)),
        (30, {"factor": 2}, (8, 16)),
        (30, {"after": 5}, (5, 15)),
        (30, {"after": 29}, (29,)),
    ],
)
def test_rungs_are_a_factor_apart(rounds: int, pruning: dict[str, Any], rungs: tuple[int, ...]) -> None:
    (bracket,) = planned(experiment(f"rounds={rounds}"), grid={LEARNING: [0.1, 0.2]}, **pruning)
    assert bracket.rungs == rungs


def test_the_first_rung_waits_for_the_first_score() -> None:
    (bracket,) = planned(experiment("rounds=30", "server.evaluate-every=10"), grid={LEARNING: [0.1, 0.2]})
    assert bracket.rungs == (10,)


@pytest.mark.parametrize(
    ("pruning", "said"),
    [
        ({"factor": 1}, "prune factor = 1: must be at least 2"),
        ({"after": 0}, "prune after = 0: must be at least 1"),
        ({"after": 9}, "--prune: tiny: the first rung, after round 9, must be before the last, 9"),
        ({"metric": "f1"}, "prune metric = 'f1': allowed: accuracy, loss"),
        ({"within": ["rounds"]}, "prune within = 'rounds': is not varied; allowed: client.learning-rate"),
        ({"after": 2}, "--prune: tiny: the first rung, after round 2, comes before the first score, after round 3"),
    ],
)  # fmt: skip
def test_pruning_that_can_not_be(pruning: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused) as refused:
        planned(experiment("rounds=9", "server.evaluate-every=3"), grid={LEARNING: [0.1, 0.2]}, **pruning)
    assert str(refused.value).startswith(said)


def test_there_must_be_settings_that_compete() -> None:
    for grid in ({}, {"data.clients": [12, 14]}, {"seed": [1, 2]}):
        with pytest.raises(Refused, match="--prune: no two settings compete"):
            planned(experiment("rounds=9"), grid=grid)  # type: ignore[arg-type]


def test_a_sweep_file_says_how(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('name = "base"\nrounds = 9\n')
    text = '[sweep]\nconfig = "base.toml"\ngrid = {"client.learning-rate" = [0.1, 0.2]}\n[sweep.prune]\n%s\n'
    text += '[[sweep.arms]]\nname = "a"\n'
    (tmp_path / "s.toml").write_text(text % "factor = 2\nafter = 3")
    assert make_plan(["s.toml"], {}, [], None).pruning == Pruning(factor=2, after=3, metric="accuracy")
    assert make_plan(["s.toml"], {}, [], None, prune=Pruning()).pruning == Pruning(metric="accuracy")
    (tmp_path / "s.toml").write_text(text % "factors = 2")
    with pytest.raises(Refused, match=r"sweep\.prune\.factors = 2: is no key here; allowed: after, factor"):
        make_plan(["s.toml"], {}, [], None)


# --- decisions ---------------------------------------------------------------------------------------------


def bracket_of(count: int, seeds: int = 1, rounds: int = 9, rungs: tuple[int, ...] = (1, 3)) -> Bracket:
    """Return a bracket of settings "0", "1", ... with runs "0-s0", "0-s1", ..."""
    setting = experiment(f"rounds={rounds}")
    return Bracket(
        "arm",
        tuple(
            Setting(
                str(place),
                tuple(PlannedRun(f"{place}-s{seed}", "arm", {}, seed, setting, "") for seed in range(seeds)),
            )
            for place in range(count)
        ),
        rounds,
        rungs,
    )


def rows(*accuracies: float) -> list[dict[str, Any]]:
    return [{"round": r, "accuracy": a, "loss": 1 - a} for r, a in enumerate(accuracies, start=1)]


def names(runs: tuple[PlannedRun, ...]) -> list[str]:
    return [run.name for run in runs]


def test_a_third_goes_on_from_each_rung() -> None:
    bracket, results = bracket_of(9), {}
    found = standing(bracket, results, Pruning())
    assert (len(found.next), found.until, found.decisions) == (9, 1, ())
    results = {f"{place}-s0": Result(rows(place / 10)) for place in range(8)}
    found = standing(bracket, results, Pruning())  # all wait for the last
    assert (names(found.next), found.until, found.decisions) == (["8-s0"], 1, ())
    results["8-s0"] = Result(rows(0.0))
    found = standing(bracket, results, Pruning())
    assert (names(found.next), found.until) == (["7-s0", "6-s0", "5-s0"], 3)
    (first,) = found.decisions
    assert [setting.label for setting, _ in first.ranking] == ["7", "6", "5", "4", "3", "2", "1", "0", "8"]
    assert first.reason(3) == "after round 1 of 9: place 4 of 9 by accuracy, and 3 go on"
    results |= {"7-s0": Result(rows(0.7, 0, 0.1)), "6-s0": Result(rows(0.6, 0, 0.2)), "5-s0": Result(rows(0.5, 0, 0.3))}  # fmt: skip
    found = standing(bracket, results, Pruning())
    assert (names(found.next), found.until, len(found.decisions)) == (["5-s0"], None, 2)
    results["5-s0"] = Result(rows(0.5, 0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3), over=True)
    assert standing(bracket, results, Pruning()).next == ()


def test_the_mean_over_seeds_decides_and_of_equals_the_first() -> None:
    bracket = bracket_of(3, seeds=2, rungs=(1,))
    scores = {"0": (0.9, 0.1), "1": (0.25, 0.75), "2": (0.5, 0.5)}
    results = {
        f"{name}-s{seed}": Result(rows(score))
        for name, both in scores.items()
        for seed, score in enumerate(both)
    }
    found = standing(bracket, results, Pruning())
    assert [score for _, score in found.decisions[0].ranking] == [0.5, 0.5, 0.5]
    assert names(found.next) == ["0-s0", "0-s1"]
    results["2-s1"] = Result(rows(0.6))
    assert names(standing(bracket, results, Pruning()).next) == ["2-s0", "2-s1"]


def test_less_loss_is_better() -> None:
    bracket = bracket_of(3, rungs=(1,))
    results = {f"{place}-s0": Result([{"round": 1, "accuracy": 0.5, "loss": loss}]) for place, loss in enumerate([2.0, 1.0, math.nan])}  # fmt: skip
    found = standing(bracket, results, Pruning(metric="loss"))
    assert names(found.next) == ["1-s0"]
    assert [score for _, score in found.decisions[0].ranking] == [1.0, 2.0, math.inf]


def test_a_setting_with_a_failed_run_is_last_and_never_continues() -> None:
    bracket = bracket_of(3, seeds=2, rungs=(2,))
    results = {f"{place}-s{seed}": Result(rows(0.1, 0.1)) for place in range(3) for seed in range(2)}
    results["0-s1"] = Result(rows(0.9), failed=True)
    assert names(standing(bracket, results, Pruning()).next) == ["1-s0", "1-s1"]
    # After the rung it is too late to be last; the other seed goes to its end.
    results["0-s1"] = Result(rows(0.9, 0.9, 0.9), failed=True)
    assert names(standing(bracket, results, Pruning()).next) == ["0-s0"]
    everyone = {name: Result(failed=True) for name in results}
    found = standing(bracket, everyone, Pruning())
    assert (found.next, found.decisions[0].kept) == ((), 0)


def test_shorter_runs_compete_by_their_last_score() -> None:
    bracket = bracket_of(2, rungs=(3,))
    results = {"0-s0": Result(rows(0.1, 0.6), over=True), "1-s0": Result(rows(0.1, 0.2, 0.5, 0.9))}
    (decision,) = standing(bracket, results, Pruning()).decisions
    assert [score for _, score in decision.ranking] == [0.6, 0.5]


def test_a_killed_run_makes_its_last_round_whole_before_it_counts() -> None:
    bracket = bracket_of(2, rungs=(2,))
    results = {"0-s0": Result(rows(0.1, 0.6)), "1-s0": Result(rows(0.1, 0.2), written=False)}
    assert names(standing(bracket, results, Pruning()).next) == ["1-s0"]


def test_a_decision_is_said_in_a_line() -> None:
    bracket = bracket_of(12, rungs=(1,))
    results = {f"{place}-s0": Result(rows(place / 100)) for place in range(12)}
    (decision,) = standing(bracket, results, Pruning()).decisions
    assert decided(decision) == (
        "arm, round 1: 4 of 12 settings go on: 11 (11.00%), 10 (10.00%), 9 (9.00%) and 1 more, ahead of 7 (7.00%)"
    )
    failed = dict.fromkeys(results, Result(failed=True))
    (decision,) = standing(bracket, failed, Pruning()).decisions
    assert decided(decision) == "arm, round 1: 0 of 12 settings go on"


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 5), min_size=9, max_size=9), min_size=2, max_size=12),
    st.integers(2, 4),
    st.randoms(use_true_random=False),
)
def test_pruning_does_not_depend_on_the_order_of_completion(
    scores: list[list[int]], factor: int, chance: random.Random
) -> None:
    """Runs make a round each in any order, as any number of workers and kills would have it."""
    bracket, pruning = bracket_of(len(scores)), Pruning(factor=factor)
    accuracies = {f"{place}-s0": rows(*(s / 5 for s in each)) for place, each in enumerate(scores)}

    def played(chance: random.Random | None) -> dict[str, int]:
        results: dict[str, Result] = {}
        while (found := standing(bracket, results, pruning)).next:
            run = chance.choice(found.next) if chance else found.next[0]
            done = len(results[run.name].rows) + 1 if run.name in results else 1
            assert done <= (found.until or 9)
            results[run.name] = Result(accuracies[run.name][:done], over=done == 9)
        return {name: len(result.rows) for name, result in results.items()}

    assert played(chance) == played(None)


def test_a_plan_with_pruning_comes_back_from_its_file(tmp_path: Path) -> None:
    import json

    from fedsim.sweeps.state import SweepDirectory, plan_of

    prune = Pruning(factor=2, after=2, within=("server.cohort",))
    grid = grid_of({LEARNING: [0.1, 0.2], "server.cohort": [4, 5]}, "grid")
    plan: Plan = make_plan([experiment("rounds=9")], grid, [], 2, prune=prune)
    with SweepDirectory.create(tmp_path / "s", plan):
        pass
    assert plan_of(json.loads((tmp_path / "s" / "sweep.json").read_text())) == plan
    with pytest.raises(Refused, match="holds another sweep"):
        SweepDirectory.create(
            tmp_path / "s", make_plan([experiment("rounds=9")], grid, [], 2, prune=Pruning(factor=3))
        )
