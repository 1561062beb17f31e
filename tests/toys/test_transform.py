"""A user's own transform, named in the experiment file: applied, on both engines, resumed, with its own stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedsim
from fedsim import Experiment, Refused, RunFailed
from fedsim.models import initial_model
from tests.support.runs import bits
from tests.support.stopping import stopped
from tests.support.tasks import task_of
from tests.toys import own_transform

BASE = """
rounds = 4
[data]
clients = 6
partition = "iid"
[model]
name = "linear"
[server]
cohort = 3
[runtime]
engine = "sequential"
"""
OWN = BASE + own_transform.__doc__.partition("\n\n")[2]


def changed(setting: Experiment) -> np.ndarray:
    """Return what a run of one round changes in the model."""
    model = initial_model(setting, task_of(setting))
    after = load_file(fedsim.run(setting, "one").path / "model.safetensors")
    return np.concatenate([(after[n] - t.numpy()).ravel() for n, t in model.state_dict().items()])


def test_the_mean_of_one_client_is_what_it_returns() -> None:
    sent = changed(Experiment.from_toml(OWN, ["rounds=1", "server.cohort=1"]))
    for block in np.array_split(sent, 4):
        sizes = np.abs(block[np.abs(block) > 1e-6])  # a pixel that is black in all examples has no gradient
        assert sizes.max() - sizes.min() < 1e-6 < 1e-4 < sizes.min()
    assert len({round(float(np.abs(block).max()), 5) for block in np.array_split(sent, 4)}) == 4


@pytest.mark.slow
def test_on_both_engines_and_resumed() -> None:
    two = [f'transforms=[{{name="{own_transform.__name__}:{name}"}}]' for name in ("Signs", "Blurred")]
    both = Experiment.from_toml(OWN, [two[0][:-1] + ", " + two[1].partition("[")[2]])
    assert [section.name.partition(":")[2] for section in both.transforms or ()] == ["Signs", "Blurred"]
    run = fedsim.run(both, "sequential")
    assert bits(fedsim.run(Experiment.from_toml(both.to_toml(), ["runtime.engine=local"]), "local")) == bits(
        run
    )
    stopped(both, "cut", after=2)
    assert bits(fedsim.resume("cut")) == bits(run)
    assert bits(run) != bits(fedsim.run(Experiment.from_toml(BASE, [two[0]]), "unblurred"))
    assert "tests" in run.manifest["modules"]
    assert both.own_code == {
        "transforms.0.name": "tests.toys.own_transform:Signs",
        "transforms.1.name": "tests.toys.own_transform:Blurred",
    }


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ('{name="nowhere:x"}', "transforms.0.name = 'nowhere:x': 'nowhere:x' can't be loaded"),
        ('{name="tests.toys.own_transform:Signs", block=2}', "Signs.__init__() got an unexpected keyword"),
        (
            '{name="tests.toys.own_transform:Signs", blocks=0}',
            "own_transform:Signs': blocks = 0: must be at least 1",
        ),
        (
            '{name="builtins:dict"}',
            "'builtins:dict': is the class dict; a fedsim.transforms.Transform is needed: a subclass",
        ),
        (
            '{name="tests.toys.own_transform:Wrong", what="dtype"}',
            "own_transform:Wrong': Wrong.apply() returned int32 of shape (650,); float32 of shape (650,) is needed",
        ),
        (
            '{name="tests.toys.own_transform:Wrong", what="shape"}',
            "returned float32 of shape (649,); float32",
        ),
        (
            '{name="tests.toys.own_transform:Wrong", what="none"}',
            "Wrong.apply() returned NoneType; float32 of",
        ),
        (
            '{name="tests.toys.own_transform:Wrong", what="?"}',
            "transforms.0.name = 'tests.toys.own_transform:Wrong': KeyError: '?'",
        ),
    ],
)
def test_a_transform_that_is_none_is_refused_in_one_line(table: str, line: str) -> None:
    with pytest.raises(Refused) as raised:
        fedsim.run(Experiment.from_toml(BASE, [f"transforms=[{table}]"]), "run")
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not Path("run").exists()


def test_a_transform_that_returns_nan_fails_its_clients() -> None:
    with pytest.raises(RunFailed, match=r"NaN|not finite|nan"):
        fedsim.run(
            Experiment.from_toml(BASE, ['transforms=[{name="tests.toys.own_transform:Wrong", what="nan"}]']),
            "run",
        )
