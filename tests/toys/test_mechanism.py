"""A user's own privacy mechanism in whole runs: on every engine, resumed, under secure aggregation, and refused."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedsim
from fedsim import Experiment, Refused
from fedsim.mechanisms import UnknownEvent, event_of
from fedsim.privacy.events import Ledger, Unit
from fedsim.privacy.mechanism import Mechanism
from fedsim.randomness import ServerDraws
from fedsim.results.frames import load_ledger
from fedsim.training import plan_of, training_of
from tests.support.stopping import stopped
from tests.toys.mechanism import LaplaceEvent, LaplaceSettings

TOY = "tests.toys.mechanism:LaplaceSums"
TEXT = f"""
name = "toy"
rounds = 4
[data]
clients = 8
partition = "iid"
[model]
name = "linear"
[client]
epochs = 1
[server]
cohort = 4
[privacy.own]
use = "{TOY}"
epsilon = 1e6
clip = 0.5
[runtime]
engine = "sequential"
"""
IDEAL = ("privacy.secagg={mode = 'ideal', minimum = 2}",)


class Unfinished(Mechanism[LaplaceSettings]):
    unit = Unit.CLIENT
    Settings = LaplaceSettings


def setting(*overrides: str) -> Experiment:
    return Experiment.from_toml(TEXT, overrides)


def bits(run: fedsim.Run) -> tuple[bytes, list[dict[str, Any]], str]:
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in run.rows]
    return (run.path / "model.safetensors").read_bytes(), rows, run.ledger.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), IDEAL], ids=["clear", "ideal"])
def test_engines_and_resumed_runs_have_the_same_bits(more: tuple[str, ...]) -> None:
    whole = fedsim.run(setting(*more), "whole")
    reference = bits(whole)
    assert bits(fedsim.run(setting(*more, "runtime.engine=local", "runtime.workers=2"), "two")) == reference
    assert bits(fedsim.resume(stopped(setting(*more), "parts"))) == reference
    assert bits(fedsim.run(setting(*more, "seed=1"), "seed"))[0] != reference[0]
    assert [row["epsilon-known-cohort"] for row in whole.rows] == [2.5e5, 5e5, 7.5e5, 1e6]
    events = [json.loads(line) for line in reference[2].splitlines()]
    assert [(event["mechanism"], event["round"]) for event in events] == [
        ("toy-laplace", n) for n in (1, 2, 3, 4)
    ]
    said = whole.manifest["epsilon"]["known-cohort"]
    assert (said["epsilon"], said["spent"]) == (1e6, 1e6)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), IDEAL, ("privacy.noise=os",)], ids=["clear", "ideal", "os"])
def test_clients_may_release_by_themselves(more: tuple[str, ...]) -> None:
    """Their events come with their replies, are charged ahead under secure aggregation, or are noted where they are."""
    setting_ = setting(*more, "privacy.own.use=tests.toys.client_mechanism:LocalLaplace")
    whole, resumed = fedsim.run(setting_, "whole"), fedsim.resume(stopped(setting_, "parts"))
    if not more or more == IDEAL:
        workers = Experiment.from_toml(setting_.to_toml(), ["runtime.engine=local", "runtime.workers=2"])
        assert bits(whole) == bits(resumed) == bits(fedsim.run(workers, "two"))
    for run in (whole, resumed):
        lines = [json.loads(line) for line in run.ledger.read_text().splitlines()]
        assert Counter(line["round"] for line in lines) == {1: 4, 2: 4, 3: 4, 4: 4}
        assert {line["mechanism"] for line in lines} == {"toy-local-laplace"}
        most = max(Counter(line["client"] for line in lines).values())
        assert run.rows[-1]["epsilon-server"] == 1e6 * most


def test_the_noise_has_the_scale_that_is_accounted_for() -> None:
    """Of clients whose updates are next to nothing, what moves the model is the noise."""
    few = ("rounds=1", "privacy.own.clip=1e-9")
    run = fedsim.run(setting(*few, "privacy.own.epsilon=0.5"), "noise")
    before = fedsim.run(setting(*few, "privacy.own.epsilon=1e9"), "none")
    ends = [load_file(r.path / "model.safetensors") for r in (run, before)]
    moved = np.concatenate([(ends[0][name].astype(float) - ends[1][name]).ravel() for name in ends[0]])
    scale = math.sqrt(moved.size) * 1e-9 / 0.5 / 4
    assert moved.size == 650
    assert 0.85 < np.abs(moved).mean() / scale < 1.15


def test_its_events_load_by_the_reference_that_the_manifest_has() -> None:
    run = fedsim.run(setting("rounds=2"), "run")
    assert run.manifest["mechanism"] == TOY
    assert run.manifest["modules"] == {"tests": str(Path(__file__).parents[2])}
    lines = [json.loads(line) for line in run.ledger.read_text().splitlines()]
    assert all(isinstance(event_of(line, TOY), LaplaceEvent) for line in lines)
    assert [event_of(line, TOY).to_json() for line in lines] == lines
    with pytest.raises(UnknownEvent, match="no mechanism 'toy-laplace' releases events; known: dp-sgd"):
        event_of(lines[0])
    frame = fedsim.load_runs(run.path)
    assert frame["mechanism"].to_list() == [TOY]
    assert frame["epsilon-known-cohort"].to_list() == [1e6]
    known = load_ledger(run.path).to_dicts()
    manifest = run.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(TOY, "no_such_module:Lost"))
    raw = load_ledger(run.path).to_dicts()
    assert raw == known
    assert [row["epsilon"] for row in raw] == [5e5, 5e5]


def test_an_experiment_says_it_and_reads_it_again() -> None:
    made = setting()
    assert made.server.weighting == "uniform"
    assert Experiment.from_toml(made.to_toml()) == made
    assert (
        Experiment.from_dict({"privacy": {"own": {"use": TOY, "epsilon": 1.0, "clip": 1.0}}}).privacy.own
        is not None
    )
    text = made.to_toml()
    assert f'[privacy.own]\nuse = "{TOY}"\nepsilon = 1000000.0\nclip = 0.5\n' in text


def test_with_real_noise_what_its_theorems_cover_is_public() -> None:
    run = fedsim.run(setting("privacy.noise=os", "rounds=2"), "run")
    assert {"epsilon-known-cohort", "unit", "relation", "accuracy"} <= set(run.rows[0])
    assert "train-loss" not in run.rows[0]
    assert run.manifest["mechanism"] == TOY
    entry = run.manifest["epsilon"]["known-cohort"]
    assert entry["epsilon"] == 1e6
    assert "secret" not in entry  # a key that the list of what may be public doesn't have
    exported = fedsim.export(run, "out")
    assert (exported.path / "manifest.json").read_text().count(TOY) == 1


@pytest.mark.parametrize(
    ("overrides", "saying"),
    [
        (("privacy.own={epsilon = 1.0}",), "privacy.own.use = None: must be \"module:Class\""),
        (("privacy.own.use=Laplace",), "privacy.own.use = 'Laplace': must be \"module:Class\""),
        (("privacy.own.use=no_such:X",), "privacy.own.use = 'no_such:X': 'no_such:X' can't be loaded"),
        (("privacy.own.use=builtins:dict",), "privacy.own.use = 'builtins:dict': a subclass of fedsim.privacy.mechanism"),
        (("privacy.own.use=fedsim.privacy.mechanism:Mechanism",), "privacy.own.use = 'fedsim.privacy.mechanism:Mechanism': has no Settings"),
        (("privacy.own.use=tests.toys.test_mechanism:Unfinished",), "privacy.own.use = 'tests.toys.test_mechanism:Unfinished': lacks client, plan"),
        (("privacy.own.sigma=1.0",), "privacy.own.sigma = 1.0: is no key here; allowed: clip, epsilon, use"),
        (("privacy.own.clip=0.0",), "privacy.own.clip = 0.0: must be greater than 0"),
        (("privacy.own={use = '" + TOY + "', clip = 1.0}",), "privacy.own.epsilon = None: must be set"),
        (("privacy.own=3",), "privacy.own = 3: must be a table"),
        (("server.weighting=examples",), "server.weighting = 'examples': one client could weigh as much"),
        (("server.strategy=krum", "server.cohort=5"), "server.strategy = 'krum': needs each client's update"),
        (("privacy.secagg={clip = 0.1}",), "privacy.secagg.clip = 0.1: must be at least privacy.own.clip = 0.5"),
        (("server.sampling=b-min-sep",), "server.sampling = 'b-min-sep': is for privacy.dp-ftrl"),
        (("privacy.local-dp={epsilon = 1.0, delta = 1e-5, clip = 1.0}",), "privacy.own = 'a table': can't stand beside local-dp: two client-level mechanisms"),
    ],
)  # fmt: skip
def test_refusals(overrides: tuple[str, ...], saying: str) -> None:
    with pytest.raises(Refused) as caught:
        setting(*overrides)
    assert saying in str(caught.value)


def test_a_run_does_not_go_past_its_epsilon() -> None:
    shapes: dict[str, tuple[int, ...]] = {"weight": (3, 2)}
    plan = plan_of(setting(), training_of(setting(), np.full(8, 10), shapes))
    half = plan.server(ServerDraws(setting()))
    events = [half.release({"weight": np.zeros((3, 2))}, round_, {}).event for round_ in range(1, 5)]
    plan.check_room(Ledger(events[:3]), 4, [])
    with pytest.raises(ValueError, match="the ledger has 4 rounds, and epsilon is spent"):
        plan.check_room(Ledger(events), 5, [])
