"""Plans: the runs of a request, and refusals before a run."""

from pathlib import Path
from typing import Any

import pytest

from fedsim import Experiment, Refused
from fedsim.sweeps.plan import Plan, is_sweep_file
from fedsim.sweeps.points import Search, parse_grid
from fedsim.sweeps.run import make_plan
from fedsim.sweeps.state import SweepDirectory, plan_of
from tests.conftest import CONFIGS, experiment


@pytest.fixture(autouse=True)
def _config(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text('name = "tiny"\nseed = 5\nrounds = 3\n[data]\nclients = 12\n')


def planned(
    *configs: Any, grid: tuple[str, ...] = (), sets: tuple[str, ...] = (), seeds: int | None = None
) -> Plan:
    return make_plan(configs, parse_grid(grid), sets, seeds)


def test_every_point_has_every_seed() -> None:
    plan = planned("tiny.toml", grid=("rounds=1,2", "client.learning-rate=0.1"), seeds=2)
    assert [run.name for run in plan.runs] == [
        "tiny-rounds-1-learning-rate-0.1-s5",
        "tiny-rounds-1-learning-rate-0.1-s6",
        "tiny-rounds-2-learning-rate-0.1-s5",
        "tiny-rounds-2-learning-rate-0.1-s6",
    ]
    assert [(run.experiment.rounds, run.experiment.seed) for run in plan.runs] == [
        (1, 5),
        (1, 6),
        (2, 5),
        (2, 6),
    ]
    assert plan.runs[3].point == {"rounds": 2, "client.learning-rate": 0.1}


def test_a_run_is_the_experiment_that_the_command_line_would_run() -> None:
    (run,) = planned("tiny.toml", sets=("server.strategy=fedadam", "seed=9"), grid=("rounds=2",)).runs
    overrides = ["server.strategy=fedadam", "seed=9", "rounds=2"]
    assert run.experiment == Experiment.load("tiny.toml", overrides)
    (_, second) = planned("tiny.toml", sets=("seed=9",), seeds=2).runs
    assert second.experiment == Experiment.load("tiny.toml", ["seed=10"])


def test_names_fit_a_folder_and_are_each_runs_own() -> None:
    plan = planned("tiny.toml", grid=("server.cohort=1,2", "model.name=a_b:c,a:b_c"))
    names = [run.name for run in plan.runs]
    assert names[:2] == ["tiny-cohort-1-name-a_b_c-s5", "tiny-cohort-1-name-a_b_c-s5-2"]
    assert len(set(names)) == 4


def test_a_sweep_file_names_arms(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "s.toml").write_text("""
        [sweep]
        seeds = 2
        config = "../tiny.toml"
        set = ["rounds=4"]
        [sweep.grid]
        "client.learning-rate" = [0.1, 0.2]
        [[sweep.arms]]
        name = "plain"
        [[sweep.arms]]
        name = "private"
        set = ["privacy.dp-fedavg={delta = 1e-2, clip = 1.0}", "rounds=5"]
        grid = {"privacy.dp-fedavg.epsilon" = [1, 2.5], "client.learning-rate" = [0.3]}
    """)
    plan = planned("below/s.toml")
    assert (plan.name, plan.seeds, len(plan.runs)) == ("s", 2, 4 + 4)
    assert plan.runs[-1].name == "private-learning-rate-0.3-epsilon-2.5-s6"
    private = plan.runs[-1].experiment.privacy.dp_fedavg
    assert private is not None
    assert (private.epsilon, private.clip, plan.runs[-1].experiment.rounds) == (2.5, 1.0, 5)
    # What the command says goes for all arms, and before what they say.
    quick = planned("below/s.toml", sets=("rounds=1",), grid=("client.learning-rate=0.5",), seeds=1)
    assert [run.name for run in quick.runs] == [
        "plain-learning-rate-0.5-s5", "private-learning-rate-0.5-epsilon-1-s5", "private-learning-rate-0.5-epsilon-2.5-s5",
    ]  # fmt: skip
    assert {run.experiment.rounds for run in quick.runs} == {1}


def test_experiments_of_python_are_arms() -> None:
    setting = experiment("rounds=2")
    (run,) = planned(setting).runs
    assert run.experiment == setting
    private = experiment(
        "name=private", "privacy={dp-fedavg = {noise-multiplier = 1.0, delta = 1e-2, clip = 1.0}}"
    )
    plan = planned(setting, private, grid=("data.partition=iid,dirichlet",))
    assert plan.name == "tiny-private"
    assert [run.name for run in plan.runs] == [
        "tiny-partition-iid-s0", "tiny-partition-dirichlet-s0", "private-partition-iid-s0", "private-partition-dirichlet-s0",
    ]  # fmt: skip


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    search = Search.of(2, ["client.learning-rate=0.1:1"])
    plan = make_plan(["tiny.toml"], parse_grid(["data.partition=iid,dirichlet"]), ["rounds=2"], 2, search)
    with SweepDirectory.create(tmp_path / "s", plan):
        pass
    import json

    assert plan_of(json.loads((tmp_path / "s" / "sweep.json").read_text())) == plan


REFUSALS = {
    "a key": (("client.learning-rates=1",), {}, "arm 'tiny': client.learning-rates = 1: is no key here; allowed: "),
    "a value": (("client.learning-rate=1,-1",), {}, "arm 'tiny': client.learning-rate = -1: must be greater than 0"),
    "together": (("server.cohort=5,50",), {}, "arm 'tiny': server.cohort = 50: must be at most data.clients = 12"),
    "seeds": ((), {"seeds": 0}, "seeds = 0: must be at least 1"),
    "seeds twice": (("seed=1,2",), {"seeds": 2}, "arm 'tiny': seeds = 2 can't stand beside a grid of seed; "),
    "many": (("rounds=1,2",), {"seeds": 101}, "202 runs: more than 200; --yes (in Python, most=...) allows them"),
    "set and grid": (("rounds=1,2",), {"sets": ("rounds=3",)}, "arm 'tiny': override rounds: is given twice, as 3 and 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_invalid_plans_are_refused_at_once(case: str, tmp_path: Path) -> None:
    grid, more, complaint = REFUSALS[case]
    with pytest.raises(Refused) as refused:
        planned("tiny.toml", grid=grid, **more)  # type: ignore[arg-type]
    assert str(refused.value).startswith(complaint)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_arms_have_names_of_their_own() -> None:
    with pytest.raises(Refused, match="arm 'tiny': 2 have this name; each needs its own"):
        planned("tiny.toml", "tiny.toml")


ARM = '[[sweep.arms]]\nname = "x"\n'
FILES = {
    "key": ("[sweep]\nseedss = 2", "sweep.seedss = 2: is no key here; allowed: arms, config, grid, name, prune, seeds, set"),
    "other table": ("a = 1\n[sweep]", "sweep file 's.toml': a is no key here; allowed: sweep"),
    "no arms": ('[sweep]\nname = "s"', "sweep.arms: is empty; one arm or more are needed"),
    "no table": ("[[sweep]]", "sweep: must be a table"),
    "arm no table": ("[sweep]\narms = [1]", "sweep.arms[1]: must be a table"),
    "no config": (ARM, "arm 'x': has no config; it or [sweep] must name an experiment file"),
    "missing config": (f'{ARM}config = "no.toml"', "experiment file 'no.toml': No such file or directory; "),
    "arm's key": (f"{ARM}sets = []", "sweep.arms[1].sets = []: is no key here; allowed: config, grid, name, set"),
    "grid": (f'{ARM}config = "tiny.toml"\ngrid = {{rounds = 3}}', "arm 'x': grid rounds = 3: must be a list of values"),
    "empty grid": (f'{ARM}config = "tiny.toml"\ngrid = {{rounds = []}}', "arm 'x': grid rounds: is empty; "),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_sweep_files_that_are_none(case: str, tmp_path: Path) -> None:
    text, complaint = FILES[case]
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(Refused) as refused:
        planned("s.toml")
    assert str(refused.value).startswith(complaint)


def test_a_sweep_file_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(f'{ARM}config = "tiny.toml"')
    with pytest.raises(
        Refused, match=r"sweep file 's\.toml': names its arms itself, so it must be the only file"
    ):
        planned("tiny.toml", "s.toml")


def test_the_longest_runs_come_first(tmp_path: Path) -> None:
    plan = planned("tiny.toml", grid=("rounds=1,3,2", "client.epochs=1,2"))
    with SweepDirectory.create(tmp_path / "s", plan) as directory:
        work = [run.experiment.rounds * run.experiment.client.epochs for run in directory.todo()]
    assert work == [6, 4, 3, 2, 2, 1]


def test_every_shipped_sweep_can_be_planned() -> None:
    sweeps = [path for path in CONFIGS.glob("*.toml") if is_sweep_file(path)]
    assert CONFIGS / "compare.toml" in sweeps
    for path in sweeps:
        plan = planned(path)
        assert (plan.name, len(plan.runs) > 1) == (path.stem, True)
