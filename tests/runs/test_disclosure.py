"""Whole runs with the operating system's noise: what they print and write, where, and their exports."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fedsim
from fedsim import Experiment, Refused, RunFailed
from fedsim.cli import app
from fedsim.compare import compare
from fedsim.data import prepare
from fedsim.optimizers.sgd import Sgd
from fedsim.privacy.cohorts.sampling import IndependentCohorts
from fedsim.privacy.dp_fedavg.server import DpFedAvgServer
from fedsim.privacy.dp_ftrl.server import DpFtrlServer
from fedsim.privacy.halves import Released
from fedsim.privacy.local_dp.client import LocalNoise
from fedsim.randomness import ServerDraws
from fedsim.results import RunDirectory
from fedsim.results.disclosure import COVERS, PUBLISHED, is_public
from fedsim.server.private_output import LOGGERS
from tests.support.runs import bits
from tests.support.stopping import change, fail_in, stopped

BASE = """
name = "told"
rounds = 3
[data]
clients = 40
partition = "iid"
[model]
name = "linear"
[client]
batch-size = 16
learning-rate = 0.1
[server]
cohort = 8
[faults]
dropout = 0.2
[privacy]
noise = "os"
[runtime]
engine = "sequential"
"""
DP_SGD = ("privacy.dp-sgd={noise-multiplier=1.0, delta=1e-5}", "server.sampling=poisson")
LOCAL_DP = ("privacy.local-dp={noise-multiplier=1.0, delta=1e-3, clip=0.5}",)
DP_FEDAVG = (
    "privacy.dp-fedavg={noise-multiplier=1.0, delta=1e-3, clip=0.5}",
    "privacy.dp-fedavg.release.train-loss={bound=5.0, noise=4.0}",
    "server.sampling=poisson",
)
DP_FTRL = (
    "privacy.dp-ftrl={noise-multiplier=1.0, delta=1e-3, clip=0.5, min-separation=2}",
    "server.sampling=b-min-sep",
)
SECAGG = (*DP_FEDAVG[:1], "privacy.secagg={dropout=0.5, minimum=2}")
IDEAL = ("privacy.secagg.mode=ideal",)
MECHANISMS = {
    "dp-sgd": DP_SGD,
    "local-dp": LOCAL_DP,
    "dp-fedavg": DP_FEDAVG,
    "dp-ftrl": DP_FTRL,
    "secagg": SECAGG,
}
each_mechanism = pytest.mark.parametrize("overrides", MECHANISMS.values(), ids=MECHANISMS)


def setting(*overrides: str) -> Experiment:
    return Experiment.from_toml(BASE, overrides)


def drawn_by(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Draw the secret cohorts of the next run from a seed of the test's."""
    coins = np.random.default_rng(seed)
    monkeypatch.setattr(ServerDraws, "coins", lambda self, round_: coins)


def contents(path: Path, where: str = "**/*") -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.glob(where) if f.is_file()}


def public_files(path: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(path).items() if name in PUBLISHED}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- cohorts ------------------------------------------------------------------------------------------------


def test_how_many_took_part_is_nowhere_but_in_the_private_files(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 40 clients, by coins of rate 0.2; the draw is the test's, for sizes that nothing else has."""
    sizes = iter((37, 34, 36))
    monkeypatch.setattr(IndependentCohorts, "draw", lambda *_: list(range(next(sizes))))
    Path("e.toml").write_text(setting(*DP_FEDAVG, "faults.dropout=0.0").to_toml())
    for name in LOGGERS:
        caplog.set_level(logging.DEBUG, logger=name)
    result = CliRunner().invoke(app, ["run", "e.toml", "--out", "run"])
    run = fedsim.load_run("run")
    assert (result.exit_code, run.status) == (0, "completed")
    assert [row["clients"] for row in run.private_rows] == [37, 34, 36]  # the control

    drawn = ("run-id", "started", "host", "versions")  # random digits, and the machine's
    manifest = {key: value for key, value in run.manifest.items() if key not in drawn}
    public = [result.stdout, result.stderr, caplog.text, json.dumps(manifest), *map(json.dumps, run.rows)]
    number = re.compile(r"(?<![\w.])(34|36|37)(?![\w.])")  # not digits of a hash
    assert number.search("37 clients, 0 failed")
    for text in public:
        assert not number.search(text)
        assert 'clients":' not in text.replace('"clients": 40', "")
    assert caplog.text == ""
    assert not re.search(r"clients|failed| s\b| left|\d s,", result.stdout)
    assert all(
        row.keys() >= {"accuracy", "epsilon-released-models", "released-train-loss"} for row in run.rows
    )
    assert not any(
        is_public("metrics.jsonl", key, ["dp-fedavg"]) for key in ("clients", "seconds", "failures")
    )


@each_mechanism
def test_rows_and_manifest_say_what_is_public_and_no_more(overrides: tuple[str, ...]) -> None:
    run = fedsim.run(setting(*overrides), "run")
    held_back = {"clients", "failures", "failure-reasons", "seconds"}
    for row, whole in zip(run.rows, run.private_rows, strict=True):
        assert row == {key: value for key, value in whole.items() if key in row}
        assert held_back - {"failure-reasons"} <= whole.keys()
        assert not held_back & row.keys()
        assert not any(key.startswith(("secagg", "train", "client")) for key in row)
    private = json.loads((run.path / "private" / "manifest.json").read_text())
    assert private["data-sha256"] == prepare(run.experiment).sha256
    assert private["wall-seconds"] > 0
    assert private["final"]["clients"] == run.private_rows[-1]["clients"]
    assert not {"data-sha256", "wall-seconds"} & run.manifest.keys()
    assert run.manifest["final"] == run.rows[-1]
    assert {path.name for path in run.path.iterdir()} >= {*PUBLISHED, "private"}
    assert not (run.path / "ledger.jsonl").exists()
    assert fedsim.load_ledger("run").height == len(run.ledger.read_text().splitlines()) > 0


@each_mechanism
def test_the_manifest_says_all_that_the_account_does(overrides: tuple[str, ...]) -> None:
    """The list of terms that may be public has not fallen behind: a seeded run's manifest is not filtered."""
    seeded, real = (
        fedsim.run(setting(*overrides, "rounds=1", f"privacy.noise={noise}"), noise)
        for noise in ("seeded", "os")
    )
    said = [{name: entry.keys() for name, entry in run.manifest["epsilon"].items()} for run in (seeded, real)]
    assert said[0] == said[1]
    assert seeded.manifest.keys() - real.manifest.keys() == {"data-sha256", "wall-seconds"}
    assert real.manifest.keys() <= seeded.manifest.keys()
    named = {cover.adversary for cover in COVERS if cover.mechanism in real.experiment.privacy.mechanisms}
    assert said[1].keys() == named


def test_the_private_folder_is_its_owners_whatever_the_umask() -> None:
    before = os.umask(0)
    try:
        run = fedsim.run(setting(*DP_SGD), "run")
        copied = fedsim.export(run, "export", private=True)
    finally:
        os.umask(before)
    for path in (run.path, copied.path):
        assert mode(path / "private") == 0o700
        assert {mode(file) for file in (path / "private").iterdir()} == {0o600}
        assert mode(path / "metrics.jsonl") == 0o666  # the control: the umask hides nothing
    assert {file.name for file in (run.path / "private").iterdir()} == {
        "metrics.jsonl",
        "ledger.jsonl",
        "manifest.json",
        "log.txt",
    }


def test_epsilon_so_far_is_the_plans_and_not_the_drawn_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clients of 40 take turns; each has spent less than the rows say."""
    turns = iter(([0], [1], [0], [1]))
    monkeypatch.setattr(IndependentCohorts, "draw", lambda *_: next(turns))
    four = ("rounds=4", "faults.dropout=0.0")
    run = fedsim.run(setting(*DP_SGD, *four, "privacy.dp-sgd.max-participations=3"), "dp-sgd")
    steps = run.rows[0]["dp-steps"]
    assert [row["dp-steps"] for row in run.rows] == [steps, 2 * steps, 3 * steps, 3 * steps]
    spent = [row["epsilon-known-cohort"] for row in run.rows]
    assert 0 < spent[0] < spent[1] < spent[2] == spent[3]
    known = run.manifest["epsilon"]["known-cohort"]
    assert known["spent"] == spent[3] == pytest.approx(known["epsilon"], rel=1e-9)

    turns = iter(([0], [1], [0], [1]))
    run = fedsim.run(setting(*LOCAL_DP, *four, "privacy.local-dp.max-participations=3"), "local-dp")
    assert [row["dp-steps"] for row in run.rows] == [1, 2, 3, 3]
    turns = iter(([0], [1], [0], [1]))
    seeded = fedsim.run(setting(*LOCAL_DP, *four, "privacy.noise=seeded"), "seeded")
    assert [row["dp-steps"] for row in seeded.rows] == [1, 1, 2, 2]  # the control: an odometer


# --- what is raised -----------------------------------------------------------------------------------------

SECRET = "918273645.25"  # of the data, as far as anybody can tell


def raising(*_: Any, **__: Any) -> Any:
    raise ValueError(f"gradient norm {SECRET} is too large")


@each_mechanism
def test_exceptions_of_clients_are_only_in_the_private_log(
    overrides: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("fedsim.clients.app.train", raising)
    told: list[str] = []
    said = []
    for noise in ("os", "seeded"):
        caplog.clear()
        experiment = setting(*overrides, f"privacy.noise={noise}", "rounds=2")
        try:
            fedsim.run(experiment, noise, Told(told))
        except RunFailed as failed:
            said.append(str(failed))
            told.append(str(failed))
        captured = capfd.readouterr()
        files = contents(Path(noise))
        hidden = {name: content for name, content in files.items() if name.startswith("private/")}
        public = b"".join(content for name, content in files.items() if name not in hidden)
        printed = f"{captured.out}{captured.err}{caplog.text}{' '.join(told)}"
        if noise == "os":
            assert SECRET not in printed
            assert "client " not in printed
            assert SECRET.encode() not in public
            assert SECRET.encode() in hidden.pop("private/log.txt")
            assert SECRET.encode() not in b"".join(hidden.values()), "not even the server hears it"
        else:
            assert SECRET in printed  # the control: a simulation tells its experimenter
    if not {"dp-fedavg", "dp-ftrl"}.intersection(
        experiment.privacy.mechanisms
    ):  # whose server releases in any case
        assert said[0] == "the run could not go on; private/log.txt in its directory says why"
        assert SECRET in said[1]
        error = json.loads(Path("os/private/manifest.json").read_text())["error"]
        assert re.fullmatch(
            r"round 1: all \d+ clients failed in training; the first, client \d+: \w.*", error
        )
        assert fedsim.load_run("os").manifest["error"] == said[0]


class Told:
    """Hears the rows, as a tracker and a progress display do."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def started(self, path: Path, rounds: int, done: int) -> None: ...

    def round_done(self, row: Any) -> None:
        self.told.append(json.dumps(row))

    def stopping(self) -> None: ...


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [DP_FEDAVG, SECAGG], ids=["dp-fedavg", "secagg"])
def test_worker_processes_keep_quiet_too(
    overrides: tuple[str, ...], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Their stderr is the terminal's. Clients raise and warn; the server, which evaluates, does not."""
    printed = {}
    changes = (
        "model.name=tests.support.models:telling",
        "rounds=1",
        "runtime.engine=local",
        "runtime.workers=1",
    )
    for noise in ("os", "seeded"):
        caplog.clear()
        fedsim.run(setting(*overrides, *changes, f"privacy.noise={noise}"), noise)
        captured = capfd.readouterr()
        printed[noise] = captured.out + captured.err + caplog.text
    for secret in ("norm 4711.25", "label 4712"):
        assert secret in printed["seeded"]  # the control
        assert secret not in printed["os"]
        assert secret.encode() not in b"".join(public_files(Path("os")).values())
        assert secret in Path("os/private/log.txt").read_text()


def test_what_the_server_raises_and_logs_is_private_and_what_may_be_public_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing() -> None:
        for name in ("fedsim.server.federation", "flwr", "fedsim.x", "fedsim.clients"):
            logging.getLogger(name).error("%s has seen %s", name, SECRET)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(f"overflow in {SECRET}", RuntimeWarning, stacklevel=1)
        raising()

    class Broken:
        def on_round(self, run: fedsim.Run, row: Any) -> None:
            raise ConnectionError("nobody answers")

        def on_end(self, run: fedsim.Run) -> None: ...

    fail_in(monkeypatch, "aggregation", 2, failing)
    for name in LOGGERS:
        caplog.set_level(logging.DEBUG, logger=name)
    with pytest.raises(RunFailed) as raised:
        fedsim.run(setting(*DP_FEDAVG), "run", trackers=[Broken()])
    assert str(raised.value) == "the run could not go on; private/log.txt in its directory says why"
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    log = Path("run/private/log.txt").read_text()
    for name in ("fedsim.server.federation", "flwr", "fedsim.x", "fedsim.clients"):
        assert f"{name} has seen {SECRET}" in log
    assert "Traceback" in log
    assert f"RuntimeWarning: overflow in {SECRET}" in log
    assert SECRET not in "".join(capfd.readouterr())
    assert [record.getMessage() for record in caplog.records] == [
        "Broken is told nothing more: ConnectionError: nobody answers"
    ]
    assert SECRET not in Path("run/manifest.json").read_text()
    assert logging.getLogger("server").propagate
    assert fedsim.load_run("run").status == "failed"


# --- going on -----------------------------------------------------------------------------------------------


def test_both_files_of_rows_are_cut_to_the_checkpoint_and_go_on() -> None:
    path = stopped(setting(*DP_SGD), "run", after=2)
    before = {name: (path / name).read_bytes() for name in ("metrics.jsonl", "private/metrics.jsonl")}
    for name in before:
        with (path / name).open("a") as file:
            file.write('{"round": 3, "accuracy": 0.0}\n{"rou')  # rows that no checkpoint holds
    run = fedsim.resume(path)
    for name, content in before.items():
        assert (path / name).read_bytes().startswith(content)
        assert mode(path / name) & 0o077 == (0 if "private" in name else 0o044)
    assert [row["round"] for row in run.rows] == [row["round"] for row in run.private_rows] == [1, 2, 3]
    assert run.manifest["final"] == run.rows[-1]
    private = json.loads((path / "private" / "manifest.json").read_text())
    assert private["final"].items() >= run.private_rows[-1].items()
    assert private["data-sha256"] == prepare(run.experiment).sha256


def test_a_run_that_goes_on_with_other_data_is_refused_without_their_fingerprints() -> None:
    path = stopped(setting(*LOCAL_DP), "run", after=1)
    sha256 = prepare(setting(*LOCAL_DP)).sha256
    change(path, "private/manifest.json", lambda tree: tree.update({"data-sha256": "0" * 64}))
    with pytest.raises(Refused, match="made with another data-sha256") as refused:
        fedsim.resume(path)
    assert sha256[:8] not in str(refused.value)
    assert "0" * 64 not in str(refused.value)
    (path / "private" / "manifest.json").unlink()
    with pytest.raises(Refused, match=r"private/manifest\.json: is not there"):
        fedsim.resume(path)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lambda path: os.truncate(path, 20),
            r"private/metrics\.jsonl: is not what the checkpoint was made with",
        ),
        (lambda path: path.unlink(), r"private/metrics\.jsonl: is not what the checkpoint was made with"),
    ],
)
def test_private_rows_that_are_damaged_are_refused(damage: Callable[[Path], None], line: str) -> None:
    path = stopped(setting(*LOCAL_DP), "run", after=2)
    damage(path / "private" / "metrics.jsonl")
    with pytest.raises(Refused, match=line):
        fedsim.resume(path)


def test_spent_privacy_counts_a_failed_round(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_in(monkeypatch, "evaluation", 2, raising)
    for overrides, name in ((DP_SGD, "known-cohort"), (LOCAL_DP, "server")):
        with pytest.raises(RunFailed):
            fedsim.run(setting(*overrides), name)
        run = fedsim.load_run(name)
        assert len(run.rows) == 1
        assert run.manifest["epsilon"][name]["spent"] > run.rows[-1][f"epsilon-{name}"]


# --- exports ------------------------------------------------------------------------------------------------


def fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each mechanism release the same value for every cohort instead of a noised sum, and record its event."""

    def fixed(values: Any) -> Any:
        return 0.01 * np.cos(np.arange(values.size)).reshape(values.shape).astype(values.dtype)

    central, correlated = DpFedAvgServer.release, DpFtrlServer.release
    local, descend = LocalNoise.release, Sgd.step

    def released(noised: Released) -> Released:
        mean = {name: fixed(array) for name, array in noised.mean.items()}
        return Released(mean, dict.fromkeys(noised.metrics, 1.25), noised.event)

    def locally(self: LocalNoise, update: Any, round_: int, client: int) -> Any:
        done = local(self, update, round_, client)
        for array in done.arrays.values():
            np.copyto(array, fixed(array))
        return done

    def step(self: Sgd) -> None:  # what DP-SGD has released is in the gradients
        for parameter in self.parameters:
            parameter.grad = torch.from_numpy(fixed(parameter.detach().numpy()))
        descend(self)

    monkeypatch.setattr(DpFedAvgServer, "release", lambda self, *rest: released(central(self, *rest)))
    monkeypatch.setattr(DpFtrlServer, "release", lambda self, *rest: released(correlated(self, *rest)))
    monkeypatch.setattr(LocalNoise, "release", locally)
    monkeypatch.setattr(Sgd, "step", step)


@each_mechanism
def test_runs_that_end_in_the_same_model_by_different_cohorts_have_equal_exports(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_noise(monkeypatch)
    runs, keys = [], []
    real = RunDirectory.noise_key

    def keeping(self: RunDirectory) -> bytes:
        keys.append(real(self))
        return keys[-1]

    monkeypatch.setattr(RunDirectory, "noise_key", keeping)
    for seed in (1, 2):
        drawn_by(monkeypatch, seed)
        runs.append(fedsim.run(setting(*overrides, f"runtime.workers={seed}"), f"run-{seed}"))
    assert runs[0].path.joinpath("model.safetensors").read_bytes() == (
        runs[1].path.joinpath("model.safetensors").read_bytes()
    )
    took_part = [[(row["clients"], row["failures"]) for row in run.private_rows] for run in runs]
    reasons = [[row.get("failure-reasons") for row in run.private_rows] for run in runs]
    assert took_part[0] != took_part[1] or reasons[0] != reasons[1]
    assert all(len(set(rounds)) > 0 for rounds in took_part)

    first, second = (contents(fedsim.export(run, f"export-{run.path.name}").path) for run in runs)
    assert first.keys() == {*PUBLISHED}
    assert first == second
    private = [contents(fedsim.export(run, f"whole-{run.path.name}", private=True).path) for run in runs]
    assert private[0] != private[1]  # the control
    assert private[0].keys() == private[1].keys() > first.keys()

    everything = b"".join(first.values())
    sha256 = prepare(runs[0].experiment).sha256
    assert sha256.encode() in private[0]["private/manifest.json"]  # the control: there is something to find
    searched = [
        sha256,
        *(key.hex() for key in keys if key),
        '"client": ',
        '"clients": ',
        "failure",
        "secagg-",
    ]
    for run in runs:
        searched += [run.manifest["run-id"], run.manifest["started"], str(run.path)]
    assert b'"clients": ' in private[0]["private/metrics.jsonl"]
    for text in searched:
        assert text.encode() not in everything, text
    assert not re.search(rb"client \d", everything)
    assert not any(key in everything for key in keys if key)
    assert len(keys) == len({*keys}) == (2 if runs[0].experiment.privacy.dp_ftrl is not None else 0)


def test_an_export_is_a_run_and_says_what_covers_it() -> None:
    run = fedsim.run(setting(*DP_FEDAVG), "run")
    exported = fedsim.export("run", "export")
    assert (exported.status, exported.rows, exported.accuracy) == ("completed", run.rows, run.accuracy)
    assert exported.experiment.privacy == run.experiment.privacy
    released = run.manifest["epsilon"]["released-models"]
    assert exported.manifest["covered-by"] == {
        "adversary": "released-models",
        "who": released["who"],
        "epsilon": released["epsilon"],
        "delta": 1e-3,
        "unit": "client",
        "relation": "zero-out",
    }
    assert exported.manifest["versions"] == run.manifest["versions"]
    gone = {"run-id", "started", "host", "commit", "wall-seconds", "data-sha256", "resumable", "modules"}
    assert not gone & exported.manifest.keys()
    frame = fedsim.load_runs(["run", "export"])
    assert frame["accuracy"].to_list() == [run.accuracy] * 2
    assert frame["wall-seconds"].to_list() == [None, None]


def test_runs_and_exports_are_compared_without_what_is_private() -> None:
    runs = [fedsim.run(setting(*SECAGG, f"seed={seed}", *IDEAL), f"run-{seed}") for seed in (0, 1)]
    exports = [fedsim.export(run, f"export-{run.path.name}") for run in runs]
    for paths in ([run.path for run in runs], [run.path for run in exports]):
        comparison = compare(paths)
        (group,) = comparison.groups
        assert [member.finals["accuracy"] for member in group.members] == [run.accuracy for run in runs]
        assert not {"seconds", "bytes", "clients", "train-loss"} & group.members[0].finals.keys()
        assert group.members[0].costs["released-models"].epsilon is not None
        with pytest.raises(Refused, match="--metric 'bytes': is in none of these runs"):
            compare(paths, metric="bytes")


def test_of_a_seeded_run_an_export_says_that_the_seed_is_in_it() -> None:
    run = fedsim.run(setting(*LOCAL_DP, "privacy.noise=seeded"), "run")
    exported = fedsim.export(run, "export")
    covered = exported.manifest["covered-by"]
    assert (covered["adversary"], covered["unit"], covered["relation"]) == ("server", "client", "replace-one")
    assert "the seed is in it" in covered["but"]
    everything = b"".join(contents(exported.path).values())
    for row in run.rows:
        assert repr(row["train-loss"]).encode() not in everything  # a loss without noise
    assert run.manifest["data-sha256"].encode() not in everything
    assert "seconds" in run.rows[0], "a seeded run stays as it was"
    with pytest.raises(Refused, match=r"--private: .* has no private/"):
        fedsim.export(run, "private", private=True)
    assert not Path("private").exists()


def test_of_a_run_without_noise_nothing_is_said_to_be_covered(tiny: Experiment) -> None:
    exported = fedsim.export(fedsim.run(tiny, "run"), "export")
    assert exported.manifest["covered-by"] == {
        "epsilon": None,
        "why": "nothing is noised, so nothing is covered",
    }
    assert [set(row) for row in exported.rows] == [{"round", "accuracy", "loss"}] * 3


def test_the_command_says_what_covers_the_folder_and_warns_of_what_is_private() -> None:
    fedsim.run(setting(*DP_FEDAVG), "run")
    done = CliRunner().invoke(app, ["export", "run", "export"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.fullmatch(
        r"export: covered by epsilon [\d.]+ against released-models \(client, zero-out, delta 0\.001\)\n",
        done.stdout,
    )
    done = CliRunner().invoke(app, ["export", "run", "whole", "--private", "--json"])
    assert json.loads(done.stdout)["covered-by"]["adversary"] == "released-models"
    assert done.stderr == (
        "fedsim: warning: no theorem covers private/, which is its owner's alone; don't publish 'whole'\n"
    )
    for arguments, line in (
        (["run", "export"], "export 'export': exists; a new folder is needed"),
        (["nowhere", "new"], "run 'nowhere': has no manifest.json; a run directory is needed"),
        (["export", "new", "--private"], "--private: run 'export' has no private/ledger.jsonl: its noise is seeded, "
         "or it is a copy or an export itself"),
    ):  # fmt: skip
        done = CliRunner().invoke(app, ["export", *arguments])
        assert (done.exit_code, done.stderr) == (2, f"fedsim: {line}\n")
    assert not Path("new").exists()
    assert not list(Path().glob(".fedsim-draft-*"))


def test_only_what_is_completed_is_exported() -> None:
    stopped(setting(*LOCAL_DP), "run", after=1)
    with pytest.raises(Refused, match=r"run 'run': is \w+; only a completed run can be exported"):
        fedsim.export("run", "export")


def test_a_protected_number_of_clients_is_not_published() -> None:
    run = fedsim.run(setting(*DP_FEDAVG), "run")

    def counted(tree: dict[str, Any]) -> None:
        tree["epsilon"]["released-models"]["relation"] = "add-or-remove-one"

    change(run.path, "manifest.json", counted)
    with pytest.raises(Refused, match=r"protects how many clients there are, and experiment\.toml says it"):
        fedsim.export(run, "export")


def test_seeded_runs_stay_as_they_are() -> None:
    run = fedsim.run(setting(*DP_SGD, "privacy.noise=seeded"), "run")
    assert {path.name for path in run.path.iterdir()} == {".lock", "checkpoint", "ledger.jsonl", *PUBLISHED}
    assert {"clients", "failures", "train-loss", "seconds"} <= run.rows[0].keys()
    assert {"data-sha256", "wall-seconds"} <= run.manifest.keys()
    with pytest.raises(Refused, match=r"has no private/metrics\.jsonl"):
        _ = run.private_rows
    assert bits(fedsim.resume(stopped(setting(*DP_SGD, "privacy.noise=seeded"), "cut", after=2))) == bits(run)
