"""Runs as data frames."""

import json
from pathlib import Path

import polars as pl
import pytest

import fedsim
from fedsim import Refused
from fedsim.results.frames import EPSILONS, PRIVACY, SAID
from fedsim.sweeps.run import make_plan
from fedsim.sweeps.state import State, SweepDirectory
from tests.conftest import experiment
from tests.support.stopping import change, stopped

CENTRAL = "privacy={dp-fedavg = {noise-multiplier = 1.0, delta = 1e-2, clip = 1.0}}"
LOCAL = "privacy={local-dp = {noise-multiplier = 1.0, delta = 1e-2, clip = 1.0}}"


def test_columns_are_there_whatever_the_runs_are() -> None:
    empty = fedsim.load_runs("nothing/*")
    fedsim.run(experiment(), "runs/plain")
    plain = fedsim.load_runs()
    fedsim.run(experiment(CENTRAL, "name=central"), "runs/central")
    fedsim.run(experiment(LOCAL, "name=local"), "runs/local")
    full = fedsim.load_runs()
    for frame in (empty, plain, full):
        assert set(SAID) | set(PRIVACY) | set(EPSILONS) | {"accuracy", "loss"} <= set(frame.columns)
    assert (
        {name: full.schema[name] for name in empty.columns}
        == empty.schema
        == {n: plain.schema[n] for n in empty.columns}
    )
    assert not {"task", "algorithm"} & set(full.columns)  # tables that nobody has
    assert full["name"].to_list() == ["central", "local", "tiny"]
    assert full["mechanism"].to_list() == ["dp-fedavg", "local-dp", "none"]
    assert full["privacy.dp-fedavg.clip"].to_list() == [1.0, None, None]
    central, local, none = full.rows(named=True)
    assert central["epsilon-released-models"] == fedsim.load_run("runs/central").last(
        "epsilon-released-models"
    )
    assert (central["epsilon-server"], central["relation"], central["unit"]) == (None, "zero-out", "client")
    assert local["epsilon-server"] == fedsim.load_run("runs/local").last("epsilon-server")
    assert [none[name] for name in (*EPSILONS, "unit", "delta", "noise-multiplier")] == [None] * 6
    assert (none["rounds-done"], none["rounds"], none["seed"], none["status"]) == (3, 3, 0, "completed")


def test_long_has_one_row_a_round() -> None:
    run = fedsim.run(experiment("server.evaluate-every=2"), "a")
    frame = fedsim.load_runs("a", long=True)
    assert frame["round"].to_list() == [1, 2, 3]
    assert frame["accuracy"].to_list() == [None, *(row["accuracy"] for row in run.rows[1:])]
    assert frame["path"].unique().to_list() == ["a"]


def test_the_ledger_has_one_row_an_event() -> None:
    fedsim.run(experiment(CENTRAL), "runs/central")
    fedsim.run(experiment(LOCAL, "server.cohort=3"), "runs/local")
    fedsim.run(experiment(), "runs/plain")
    frame = fedsim.load_ledger()
    assert frame["path"].to_list() == ["runs/central"] * 3 + ["runs/local"] * 9
    assert frame["noise-multiplier"].to_list() == [1.0] * 12
    assert frame.filter(pl.col("client").is_null())["round"].to_list() == [1, 2, 3]


def test_runs_that_have_not_ended_well_have_rows() -> None:
    path = stopped(experiment(), "runs/a", after=2)
    change(path, "manifest.json", lambda manifest: manifest.update(status="running"))  # as a kill leaves it
    (killed,) = fedsim.load_runs().rows(named=True)
    assert (killed["status"], killed["rounds-done"]) == ("killed", 2)
    assert killed["accuracy"] == json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])["accuracy"]
    change(path, "manifest.json", lambda manifest: manifest.update(status="failed", error="no space left"))
    (failed,) = fedsim.load_runs().rows(named=True)
    assert (failed["status"], failed["error"]) == ("failed", "no space left")


def test_a_sweep_is_all_its_runs_begun_or_not(tmp_path: Path) -> None:
    with SweepDirectory.create(
        tmp_path / "s", make_plan([experiment()], {"rounds": ("2", "3", "4")}, [], None)
    ) as s:
        s.note("tiny-rounds-4-s0", State.FAILED, "no noise reaches epsilon")
    fedsim.run(experiment("rounds=2"), "s/runs/tiny-rounds-2-s0")
    frame = fedsim.load_runs("s")
    assert frame.select("sweep", "arm", "point", "seed", "status", "rounds", "error").rows() == [
        ("tiny", "tiny", "rounds=2", 0, "completed", 2, None),
        ("tiny", "tiny", "rounds=3", 0, "waiting", None, None),
        ("tiny", "tiny", "rounds=4", 0, "failed", None, "no noise reaches epsilon"),
    ]
    assert (
        fedsim.load_runs("s/runs/*").rows() == frame[:1].select(fedsim.load_runs("s/runs/*").columns).rows()
    )
    assert len(fedsim.load_runs(["s", "s/runs/*", Path("s/runs/tiny-rounds-2-s0")])) == 3
    assert fedsim.load_runs("*")["path"].to_list() == frame["path"].to_list()
    assert fedsim.load_runs("s", long=True)["arm"].to_list() == ["tiny"] * 2


def test_a_path_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in ("folder", "nothing"):
        with pytest.raises(Refused) as refused:
            fedsim.load_runs(path)
        assert str(refused.value) == (
            f"runs {path!r}: is neither a run directory (manifest.json) nor a sweep's (sweep.json)"
        )
