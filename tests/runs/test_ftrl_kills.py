"""DP-FTRL with secret noise and cohorts: after no kill does a client exceed its participations."""

import shutil
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim import Experiment, Refused, load_ledger
from fedsim.privacy.cohorts.separated import SeparatedCohorts
from fedsim.privacy.dp_fedavg.event import CohortEvent
from fedsim.privacy.dp_fedavg.server import DpFedAvgServer
from fedsim.privacy.dp_ftrl.server import DpFtrlServer
from fedsim.randomness import ServerDraws
from fedsim.streams import numpy_stream
from tests.support.disk import Disk, crashes
from tests.support.dying import PLACES, died, killed, participations, watch_draws

ROUNDS, SEPARATION, MOST, CLIENTS = 8, 2, 2, 12
TEXT = f"""
name = "counted"
rounds = {ROUNDS}
[data]
clients = {CLIENTS}
partition = "iid"
[model]
name = "linear"
[server]
cohort = 6
sampling = "b-min-sep"
[privacy]
noise = "os"
[privacy.dp-ftrl]
noise-multiplier = 0.7
delta = 1e-3
clip = 0.4
min-separation = {SEPARATION}
max-participations = {MOST}
[runtime]
engine = "sequential"
"""


def setting(*overrides: str) -> Experiment:
    """Return the experiment: a cohort of 6 is everybody whose turn it is; one of 4 is two in three of them."""
    return Experiment.from_toml(TEXT, overrides)


def forget_abandoned_rounds(patch: pytest.MonkeyPatch) -> None:
    """Restore the behaviour before cohorts were recorded: an abandoned round counts for no client."""
    patch.setattr(SeparatedCohorts, "abandon", lambda self, round_, clients: None)


def check(notes: Path, run: fedsim.Run, rounds: int = ROUNDS) -> None:
    """Check who took part in a run that is completed, and that its rows of noise were released once each."""
    counts, drawn = participations(notes)
    assert max(counts.values()) <= MOST
    assert drawn.keys() == set(range(1, rounds + 1))
    assert all(cohort == cohorts[0] for cohorts in drawn.values() for cohort in cohorts)  # one draw a round
    for client in counts:
        took_part = sorted(number for number, cohorts in drawn.items() if client in cohorts[0])
        assert all(later - earlier >= SEPARATION for earlier, later in pairwise(took_part))
    assert load_ledger(run.path)["round"].to_list() == list(range(1, rounds + 1))
    assert [row["round"] for row in run.rows] == list(range(1, rounds + 1))


@pytest.mark.slow
def test_a_kill_after_a_release_counts_its_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, notes = tmp_path / "run", tmp_path / "draws"
    killed(setting(), run, notes, "released", 3)  # a real one
    home = Path(fedsim.results.secret_state.default_home())
    shutil.copytree(run, tmp_path / "control")
    shutil.copytree(home, tmp_path / "control-home")
    shutil.copy(notes, tmp_path / "control-draws")

    (folder,) = home.iterdir()
    modes = {path.name: path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
    assert {mode for name, mode in modes.items() if name in (folder.name, "checkpoint")} == {0o700}
    assert {mode for name, mode in modes.items() if name not in (folder.name, "checkpoint")} == {0o600}
    assert modes.keys() >= {"key", "cohorts.jsonl", "last-round.safetensors"}
    key, used = (folder / "key").read_bytes(), []
    assert len(key) == 32

    release = DpFtrlServer.release

    def heard(self: DpFtrlServer, *arguments: Any) -> Any:
        used.append(self.key)
        return release(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DpFtrlServer, "release", heard)
        watch_draws(patch, notes)
        done = fedsim.resume(run)
    check(notes, done)
    assert [row["round"] for row in done.private_rows if row.get("abandoned")] == [3]
    assert (len(used), set(used)) == (ROUNDS - 3, {key})
    assert not folder.exists()

    # The control, from the same kill: who was in round 3 is forgotten, and takes part once too often.
    shutil.move(tmp_path / "control-home", home.with_name("control") / "runs")
    with monkeypatch.context() as patch:
        patch.setenv("FEDSIM_STATE_HOME", str(home.with_name("control")))
        forget_abandoned_rounds(patch)
        watch_draws(patch, tmp_path / "control-draws")
        fedsim.resume(tmp_path / "control")
    counts, _ = participations(tmp_path / "control-draws")
    assert max(counts.values()) == MOST + 1


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_kill_in_each_round_keeps_the_drawn_cohorts(place: str, tmp_path: Path) -> None:
    run, notes = tmp_path / "run", tmp_path / "draws"
    experiment = setting("server.cohort=4")
    for round_ in range(1, ROUNDS + 1):
        died(experiment, run, notes, place, round_)
    with pytest.MonkeyPatch.context() as patch:
        watch_draws(patch, notes)
        done = fedsim.resume(run)
    check(notes, done)
    abandoned = [row["round"] for row in done.private_rows if row.get("abandoned")]
    assert abandoned == ([] if place == "drawn" else list(range(1, ROUNDS + 1)))


@pytest.mark.parametrize("noted", [True, False])
def test_a_round_that_comes_again_has_its_cohort_and_no_second_draw(
    noted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coins = (numpy_stream(toss, "coins") for toss in count())
    monkeypatch.setattr(ServerDraws, "coins", lambda self, round_: next(coins))
    if not noted:  # the control
        monkeypatch.setattr(fedsim.results.RunDirectory, "cohorts", lambda self: {})
    run, notes = tmp_path / "run", tmp_path / "draws"
    died(setting("server.cohort=4"), run, notes, "drawn", 2)
    watch_draws(monkeypatch, notes)
    fedsim.resume(run)
    first, second = participations(notes)[1][2]
    assert (first == second) == noted


@pytest.mark.slow
def test_after_a_kill_between_any_two_writes_no_client_takes_part_too_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes, kills, experiment = Path("draws"), 0, setting("server.cohort=4", "rounds=5")
    watch_draws(monkeypatch, notes)
    for path in crashes(Disk(monkeypatch), experiment):
        check(notes, fedsim.resume(path), rounds=5)
        notes.unlink()
        kills += 1
    assert kills > 40


def test_without_the_checkpoint_it_begins_again_and_all_that_was_released_counts(tmp_path: Path) -> None:
    run, notes = tmp_path / "run", tmp_path / "draws"
    died(setting("server.cohort=4"), run, notes, "released", 5)
    (folder,) = Path(fedsim.results.secret_state.default_home()).iterdir()
    shutil.rmtree(folder / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        watch_draws(patch, notes)
        done = fedsim.resume(run)
    check(notes, done)
    assert [row["round"] for row in done.private_rows if row.get("abandoned")] == [1, 2, 3, 4, 5]


def test_resume_is_refused_if_a_cohort_is_not_recorded(tmp_path: Path) -> None:
    died(setting(), tmp_path / "run", tmp_path / "draws", "released", 3)
    (folder,) = Path(fedsim.results.secret_state.default_home()).iterdir()
    file = folder / "cohorts.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(
        Refused, match=r"^privacy.dp-ftrl: round 3 has begun, but its cohort was not recorded"
    ):
        fedsim.resume(tmp_path / "run")


# --- what else a release moves on -----------------------------------------------------------------------


def test_after_an_abandoned_round_clients_and_noise_have_the_same_adaptive_clip_norm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norm of an abandoned round is forgotten: what was released before it gives a norm as good."""
    text = TEXT[: TEXT.index("[privacy.dp-ftrl]")].replace("b-min-sep", "poisson") + (
        "[privacy.dp-fedavg]\nnoise-multiplier = 0.5\ndelta = 1e-3\nclip = 0.4\n"
        "[privacy.dp-fedavg.adaptive]\nquantile = 0.9\nrate = 0.5\n[runtime]\nengine = 'sequential'\n"
    )
    told: dict[int, float] = {}
    noised: dict[int, float] = {}
    prefetch, release = DpFedAvgServer.prefetch, DpFedAvgServer.release

    def heard(self: DpFedAvgServer, round_: int) -> None:
        told[round_] = self.instructions()["clip-norm"]
        prefetch(self, round_)

    def released(self: DpFedAvgServer, total: Any, round_: int, reported: Any) -> Any:
        done = release(self, total, round_, reported)
        assert isinstance(done.event, CohortEvent)
        noised[round_] = done.event.parts[0].sensitivity
        return done

    monkeypatch.setattr(DpFedAvgServer, "prefetch", heard)
    monkeypatch.setattr(DpFedAvgServer, "release", released)
    died(Experiment.from_toml(text), tmp_path / "run", tmp_path / "draws", "released", 3)
    before = dict(told)
    done = fedsim.resume(tmp_path / "run")
    assert [row["round"] for row in done.private_rows if row.get("abandoned")] == [3]
    assert told[4] == before[3] != told[5]
    assert load_ledger(done.path)["round"].to_list() == list(range(1, ROUNDS + 1))
    assert noised == pytest.approx(told, rel=1e-4)
