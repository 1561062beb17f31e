"""Values that a run directory never holds with `privacy.noise = "os"`: they would reveal the noise."""

import base64
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from typer.testing import CliRunner

import fedsim
from fedsim import Interrupted, Refused
from fedsim.cli import app
from fedsim.data import prepare
from fedsim.models import initial_model
from fedsim.privacy.cohorts.separated import SeparatedCohorts
from fedsim.privacy.dp_ftrl.server import DpFtrlServer
from fedsim.privacy.events import Noise
from fedsim.randomness import ServerDraws
from fedsim.results import secret_state
from fedsim.results.checkpoint import read_checkpoint
from fedsim.training import plan_of, training_of
from tests.conftest import experiment
from tests.runs.test_ftrl import COHORT, joined, setting
from tests.support.grids import Forgetful, run_over
from tests.support.runs import private_bits
from tests.support.stopping import Listener, change, stopped
from tests.support.tasks import task_of

FTRL = ("privacy.noise=os", "privacy.dp-ftrl.max-participations=2")
OTHERS = {
    "dp-sgd": ("privacy.dp-sgd.noise-multiplier=2.0", "privacy.dp-sgd.delta=1e-5"),
    "dp-fedavg": (
        "privacy.dp-fedavg.noise-multiplier=0.5",
        "privacy.dp-fedavg.clip=1.0",
        "privacy.dp-fedavg.delta=1e-3",
        "server.sampling=poisson",
    ),
    "local-dp": (
        "privacy.local-dp.noise-multiplier=2.0",
        "privacy.local-dp.clip=1.0",
        "privacy.local-dp.delta=1e-5",
        "server.weighting=uniform",
    ),
}


@pytest.fixture
def home() -> Path:
    return secret_state.default_home()


class Spy:
    """Hears what a run of DP-FTRL must not tell.

    Attributes:
        secrets: By what they are, in any form that they might be found in.
        sums: Of the rounds, before the noise.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.secrets: dict[str, set[bytes]] = {
            "key": set(),
            "noise": set(),
            "history": set(),
            "cohort": set(),
        }
        self.sums: list[NDArray[np.float64]] = []
        state, release = DpFtrlServer.state, DpFtrlServer.release
        history, draw = SeparatedCohorts.state, SeparatedCohorts.draw

        def heard(name: str, arrays: Mapping[str, Any]) -> None:
            forms = [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
            self.secrets[name] |= {form[:64] for form in forms if any(form[:64]) and len(form) >= 64}

        def stated(server: DpFtrlServer) -> dict[str, Any]:
            whole, key = state(server), server.key
            texts = (key.hex().encode(), base64.b64encode(key), json.dumps(list(key)).encode())
            self.secrets["key"] |= {key, *texts}
            heard("noise", whole["noise"])
            return whole

        def kept(sampling: SeparatedCohorts) -> dict[str, Any]:
            whole = history(sampling)
            heard("history", whole)
            return whole

        def drawn(sampling: SeparatedCohorts, round_: int, clients: int) -> list[int]:
            cohort = draw(sampling, round_, clients)
            if len(cohort) > 2:
                self.secrets["cohort"] |= {json.dumps(cohort).encode(), np.array(cohort).tobytes()}
            return cohort

        def released(server: DpFtrlServer, total: Any, *rest: Any) -> Any:
            self.sums.append(joined(total.values()))
            return release(server, total, *rest)

        patch.setattr(DpFtrlServer, "state", stated)
        patch.setattr(DpFtrlServer, "release", released)
        patch.setattr(SeparatedCohorts, "state", kept)
        patch.setattr(SeparatedCohorts, "draw", drawn)

    def found_in(self, folder: Path) -> set[str]:
        """Return which secrets are in the bytes of a folder's files; a client's state is one, whatever it says."""
        contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
        assert contents
        found = {
            name for name, forms in self.secrets.items() for form in forms if any(form in c for c in contents)
        }
        return found | ({"states"} if any(c.startswith(b"SQLite format 3") for c in contents) else set())


def noise_taken_off(run: Path) -> NDArray[np.float64] | None:
    """Return the sum over all rounds of the clipped updates, by a run directory alone; None where that has no key."""
    checkpoint = read_checkpoint(run)
    if checkpoint is None or "key" not in checkpoint.state["mechanism"]:
        return None
    experiment = fedsim.load_run(run).experiment
    data = prepare(experiment)
    before = initial_model(experiment, task_of(experiment)).state_dict()  # which follows from the seed
    weights = load_file(run / "model.safetensors")
    shapes = {name: weights[name].shape for name in before}
    plan = plan_of(experiment, training_of(experiment, data.training_sizes(), shapes))
    again = plan.server(ServerDraws(experiment))
    again.key = checkpoint.state["mechanism"]["key"].tobytes()
    zeros = {name: np.zeros(shape) for name, shape in shapes.items()}
    total = joined(weights[name] for name in before) - joined(before.values())
    for round_ in range(1, experiment.rounds + 1):
        mean = again.release(zeros, round_, {}).mean
        total -= joined(mean[name] for name in before)
    return total * COHORT


def as_it_was(patch: pytest.MonkeyPatch) -> None:
    """Move the secret state into the run directory, with the key, as before there were secret folders."""
    state = DpFtrlServer.state

    def with_key(self: DpFtrlServer) -> dict[str, Any]:
        return {**state(self), "key": np.frombuffer(self.key, np.uint8)}

    patch.setattr(DpFtrlServer, "state", with_key)
    patch.setattr("fedsim.results.secret_state.state_of", lambda run, *_: run)


def test_a_finished_run_holds_nothing_that_takes_the_noise_off(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        spy = Spy(patch)
        during: list[set[str]] = []
        run = fedsim.run(setting(*FTRL), "run", Listener(3, lambda: during.append(spy.found_in(home))))
    (found,) = during  # the search does find them where they are
    assert found >= {"key", "noise", "history", "cohort"}
    assert spy.found_in(run.path) == set()
    assert not (run.path / "checkpoint").exists()
    assert noise_taken_off(run.path) is None
    assert list(home.iterdir()) == []


def test_where_it_was_before_the_noise_could_be_taken_off(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    with monkeypatch.context() as patch:
        as_it_was(patch)
        spy = Spy(patch)
        run = fedsim.run(setting(*FTRL), "run")
    assert spy.found_in(run.path) >= {"key", "noise", "history"}
    total = noise_taken_off(run.path)
    assert total is not None
    truth = np.sum(spy.sums, axis=0)
    assert np.linalg.norm(truth) > 1
    np.testing.assert_allclose(total, truth, atol=1e-5)
    assert not home.exists()


@pytest.mark.parametrize("mechanism", [*OTHERS, "dp-ftrl"])
def test_while_it_may_go_on_its_state_is_outside_and_then_nowhere(mechanism: str, home: Path) -> None:
    one = setting(*FTRL) if mechanism == "dp-ftrl" else experiment(*OTHERS[mechanism], "privacy.noise=os")
    run = stopped(one, "run", after=2)
    (folder,) = home.iterdir()
    assert folder.name == fedsim.load_run(run).manifest["run-id"]
    assert (folder / "run").read_text() == f"{run.absolute()}\n"
    assert read_checkpoint(folder).round == 2  # type: ignore[union-attr]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not (run / "checkpoint").exists()
    assert fedsim.resume(run).status == "completed"
    assert list(home.iterdir()) == []


def test_interrupted_and_failed_runs_keep_their_state(home: Path) -> None:
    def full() -> None:
        raise fedsim.RunFailed("no space left")

    with pytest.raises(fedsim.RunFailed):
        fedsim.run(setting(*FTRL), "run", Listener(2, full))
    assert (fedsim.load_run("run").status, len(list(home.iterdir()))) == ("failed", 1)

    class Stopping(Listener):
        def started(self, path: Path, rounds: int, done: int) -> None:
            (path / "stop").touch()

    with pytest.raises(Interrupted):
        fedsim.resume("run", Stopping())
    assert (fedsim.load_run("run").status, len(list(home.iterdir()))) == ("interrupted", 1)
    assert fedsim.resume("run").status == "completed"
    assert list(home.iterdir()) == []


def contents(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_without_its_state_a_run_does_not_go_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped(setting(*FTRL), "run", after=2)
    before = contents(run)
    monkeypatch.setenv("FEDSIM_STATE_HOME", str(home.with_name("elsewhere")))  # as on another machine
    result = CliRunner().invoke(app, ["resume", "run"])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    where = home.with_name("elsewhere") / "runs" / json.loads(before["run/manifest.json"])["run-id"]
    assert result.stderr == (
        f"fedsim: run 'run': its secret state is not at '{where}': with privacy.noise = 'os' a run can be "
        "resumed only on the machine that it began on, with the same FEDSIM_STATE_HOME\n"
    )
    assert contents(run) == before
    assert not where.parent.exists()


def test_a_damaged_checkpoint_is_named_by_its_place(home: Path) -> None:
    run = stopped(setting(*FTRL), "run", after=2)
    (folder,) = home.iterdir()
    (folder / "checkpoint" / "last-round.safetensors").write_bytes(b"damaged")
    with pytest.raises(Refused) as refused:
        fedsim.resume(run)
    line = str(refused.value)
    assert line.startswith(
        f"run '{run.absolute()}': in '{folder}': checkpoint/last-round.safetensors: is damaged ("
    )
    assert line.endswith("; without the folder checkpoint the run begins again at round 1")


def test_a_copy_of_a_deployed_run_is_said_to_be_one(home: Path) -> None:
    run = stopped(setting(*FTRL), "run", after=2)
    shutil.rmtree(home)
    change(run, "manifest.json", lambda m: m.update(deployment={"run": "ftrl-1", "address": "host:1"}))
    with pytest.raises(
        Refused, match="is the copy of a run at host:1; fedsim resume ftrl-1 --on host:1 goes on"
    ):
        fedsim.resume(run)


def test_with_seeded_noise_all_is_in_the_run_directory(home: Path) -> None:
    reference = private_bits(fedsim.run(setting("privacy.dp-ftrl.max-participations=2"), "whole"))
    run = stopped(setting("privacy.dp-ftrl.max-participations=2"), "run", after=2)
    assert {path.name for path in (run / "checkpoint").iterdir()} <= {
        "last-round.safetensors",
        "clients.sqlite",
    }
    assert not (run / "cohorts.jsonl").exists()
    assert private_bits(fedsim.resume(run)) == reference
    assert not home.exists()


def test_runs_that_cannot_be_resumed_keep_no_secrets(home: Path) -> None:
    run = fedsim.run(
        experiment(
            *OTHERS["dp-sgd"], "privacy.noise=os", "server.strategy=tests.support.strategies:Averaging"
        ),
        "run",
    )
    assert run.manifest["resumable"] is False
    assert run.manifest["noise"] == Noise.SYSTEM
    assert not home.exists()
    assert {path.name for path in run.path.iterdir()} >= {"manifest.json", "model.safetensors"}
    assert not (run.path / "checkpoint").exists()


@pytest.mark.parametrize("mechanism", [*OTHERS, "dp-ftrl"])
def test_a_grid_that_keeps_no_states_makes_a_run_without_secrets(mechanism: str, home: Path) -> None:
    one = setting(*FTRL) if mechanism == "dp-ftrl" else experiment(*OTHERS[mechanism], "privacy.noise=os")
    run = run_over(Forgetful, one, "run")
    assert run.manifest["resumable"] is False
    assert run.manifest["noise"] == Noise.SYSTEM
    assert not home.exists()
    assert {path.name for path in run.path.iterdir()} >= {"manifest.json", "model.safetensors"}
    assert not (run.path / "checkpoint").exists()
