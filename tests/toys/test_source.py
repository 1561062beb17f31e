"""A user's own data source, named in the experiment file, is dealt, trained on and resumed like fedsim's."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import fedsim
from fedsim import Experiment, Refused
from fedsim.data import prepare
from tests.support.runs import bits
from tests.support.stopping import stopped
from tests.toys import own_source

OWN = """
rounds = 8
[data]
source = "tests.toys.own_source:sides"
points = 200
slope = 2.0
clients = 4
partition = "dirichlet"
alpha = 5.0
[model]
name = "linear"
[client]
learning-rate = 0.5
epochs = 5
[server]
cohort = 4
"""


def test_the_options_of_the_source_and_of_the_partition_stand_in_one_table() -> None:
    section = Experiment.from_toml(OWN).data
    assert section.pick(section.source_entry).model_dump() == {"points": 200, "slope": 2.0}
    assert section.pick(section.partition_entry).model_dump()["alpha"] == 5.0
    assert Experiment.from_toml(Experiment.from_toml(OWN).to_toml()) == Experiment.from_toml(OWN)


@pytest.mark.slow
def test_a_source_of_ones_own_on_both_engines_and_resumed() -> None:
    run = fedsim.run(Experiment.from_toml(OWN, ["runtime.engine=sequential"]), "sequential")
    assert run.rows[-1]["accuracy"] > 0.9
    assert bits(fedsim.run(Experiment.from_toml(OWN), "local")) == bits(run)
    stopped(Experiment.from_toml(OWN, ["runtime.engine=sequential"]), "cut", after=3)
    assert bits(fedsim.resume("cut")) == bits(run)
    assert "tests" in run.manifest["modules"]


def test_its_users_are_the_clients_of_a_natural_partition() -> None:
    data = prepare(Experiment.from_toml(OWN, ["data.partition=natural"]))
    assert data.names == ("a", "b", "c", "d")
    assert data.training_sizes().tolist() == [50] * 4


def test_a_module_that_was_changed_is_loaded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file, text = tmp_path / "edited_source.py", Path(own_source.__file__).read_text()
    file.write_text(text)
    experiment = Experiment.from_toml(OWN, ["data.source=edited_source:sides"])
    before = prepare(experiment)
    assert prepare(experiment) is before
    file.write_text(text.replace("x[:, 1] >", "x[:, 1] <="))
    monkeypatch.delitem(sys.modules, "edited_source")
    importlib.invalidate_caches()
    after = prepare(experiment)
    assert after.sha256 != before.sha256
    assert (after.test.y == 1 - before.test.y).all()


@pytest.mark.parametrize(
    ("source", "saying"),
    [
        ("nowhere:sides", "data.source = 'nowhere:sides'"),
        ("tests.toys.own_source:none", "data.source = 'tests.toys.own_source:none'"),
        ("tests.toys.own_source:np", "data.source = 'tests.toys.own_source:np'"),
        ("builtins:len", "data.source = 'builtins:len'"),
        (
            "builtins:print",
            "data.source = 'builtins:print': is a builtin_function_or_method; a fedsim.data.raw.Raw is needed",
        ),
    ],
)
def test_a_source_that_is_none_is_refused_in_one_line(source: str, saying: str) -> None:
    with pytest.raises(Refused, match=saying) as raised:
        fedsim.run(Experiment.from_toml(OWN, [f"data.source={source}"]), "run")
    assert "\n" not in str(raised.value)
    assert not Path("run").exists()
