"""Whole runs with DP-FTRL: releases, costs, cohorts, kills and refusals."""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord
from numpy.typing import NDArray

import fedsim
from fedsim import Experiment, Refused
from fedsim.arrays import values_of
from fedsim.mechanisms import event_of
from fedsim.models import initial_model
from fedsim.privacy.arithmetic import SHARE
from fedsim.privacy.cohorts.separated import SeparatedCohorts
from fedsim.privacy.dp_ftrl.accounting import Groups, epsilon_amplified, epsilon_gaussian
from fedsim.privacy.dp_ftrl.event import MatrixEvent
from fedsim.privacy.dp_ftrl.server import DpFtrlServer
from fedsim.privacy.events import Noise
from fedsim.server.evaluation import Evaluation
from fedsim.streams import noise_stream
from tests.support.runs import private_bits
from tests.support.stopping import fail_in, failing_in_private, stopped
from tests.support.tasks import task_of

BASE = """
name = "ftrl"
seed = 3
rounds = 7
[data]
clients = 24
partition = "iid"
[model]
name = "linear"
[client]
learning-rate = 0.1
[server]
cohort = 6
sampling = "b-min-sep"
evaluate-every = 2
[privacy.dp-ftrl]
noise-multiplier = 0.7
delta = 1e-3
clip = 0.4
min-separation = 3
[runtime]
engine = "sequential"
"""
ROUNDS, SEPARATION, COHORT, CLIENTS, CLIP, NOISE, DELTA = 7, 3, 6, 24, 0.4, 0.7, 1e-3


def setting(*overrides: str) -> Experiment:
    return Experiment.from_toml(BASE, overrides)


def events_of(run: fedsim.Run) -> list[MatrixEvent]:
    events = [MatrixEvent.loads(line) for line in run.ledger.read_text().splitlines()]
    assert events == [event_of(event.to_json()) for event in events]
    return events


# --- what is released ---------------------------------------------------------------------------------------


def dense(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return C, in full, of its first column."""
    rows = len(column)
    return np.array([[column[i - j] if i >= j else 0.0 for j in range(rows)] for i in range(rows)])


def of_bands(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([parameters, np.zeros(ROUNDS - len(parameters))])


def of_buffers(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    decays, scales = np.split(parameters, 2)
    return np.array([1.0] + [float(np.sum(scales * decays**power)) for power in range(ROUNDS - 1)])


def of_square_root(_: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([math.comb(2 * i, i) / 4**i for i in range(ROUNDS)])


def most_of_a_client(matrix: NDArray[np.float64]) -> float:
    """Return the largest norm of C x over all patterns that the separation leaves, by trying them all."""
    patterns: list[list[int]] = [[]]
    for row in range(ROUNDS):
        patterns += [[*rows, row] for rows in patterns if not rows or row - rows[-1] >= SEPARATION]
    return max(float(np.linalg.norm(matrix[:, rows].sum(axis=1))) for rows in patterns)


MECHANISMS: list[tuple[str, list[str], Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = [
    ("banded", [], of_bands),
    ("banded", ["privacy.dp-ftrl.bands=1"], of_bands),
    ("blt", ["privacy.dp-ftrl.buffers=2"], of_buffers),
    ("sqrt-toeplitz", [], of_square_root),
]


def joined(arrays: Iterable[Any]) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(array).reshape(-1) for array in arrays], dtype=np.float64)


@pytest.mark.parametrize(("mechanism", "more", "column_of"), MECHANISMS)
def test_a_round_releases_its_sum_with_its_row_of_the_noise(
    mechanism: str, more: list[str], column_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = setting(f"privacy.dp-ftrl.mechanism={mechanism}", "server.evaluate-every=1", *more)
    sums: list[NDArray[np.float64]] = []
    models = [joined(initial_model(experiment, task_of(experiment)).state_dict().values())]
    release, scores = DpFtrlServer.release, Evaluation.scores

    def heard(self: DpFtrlServer, total: Any, round_: int, reported: dict[str, float]) -> Any:
        assert reported == {}
        sums.append(joined(total.values()))
        return release(self, total, round_, reported)

    def kept(self: Evaluation, round_: int, arrays: ArrayRecord, *rest: Any) -> Any:
        assert all(values_of(array).dtype == np.float32 for array in arrays.values())
        models.append(joined(map(values_of, arrays.values())))
        return scores(self, round_, arrays, *rest)

    monkeypatch.setattr(DpFtrlServer, "release", heard)
    monkeypatch.setattr(Evaluation, "scores", kept)
    run = fedsim.run(experiment, "run")

    said = run.manifest["epsilon"]["known-cohort"]
    matrix = dense(column_of(np.array(said["parameters"])))
    sensitivity = most_of_a_client(matrix)
    assert said["sensitivity"] == pytest.approx(sensitivity, rel=1e-12)
    normals = np.array(
        [
            noise_stream(3, "dp-ftrl-noise", round_=t).standard_normal(len(sums[0]))
            for t in range(1, ROUNDS + 1)
        ]
    )
    noise = NOISE * sensitivity * (1 + SHARE) * CLIP * np.linalg.solve(matrix, normals)  # on the grid
    for t, total in enumerate(sums):
        assert 0 < np.linalg.norm(total) <= CLIP * run.rows[t]["clients"]
        moved = models[t + 1] - models[t]
        np.testing.assert_allclose(moved, (total + noise[t]) / COHORT, atol=2e-7)

    for t, event in enumerate(events_of(run)):
        assert (event.round, event.rounds, event.strategy) == (t + 1, ROUNDS, said["mechanism"])
        assert (event.sum_sensitivity, event.denominator, event.relation) == (CLIP, COHORT, "zero-out")
        assert event.sensitivity == pytest.approx(sensitivity * CLIP)
        assert event.noise_multiplier == pytest.approx(NOISE)
    assert len(sums) == len(events_of(run)) == len(models) - 1 == ROUNDS


# --- what it costs ------------------------------------------------------------------------------------------


def test_epsilon_is_that_of_one_gaussian_and_with_secret_cohorts_of_groups() -> None:
    run = fedsim.run(setting(), "run")
    said = run.manifest["epsilon"]
    assert said["server"]["epsilon"] == "infinite"
    assert said["known-cohort"]["epsilon"] == pytest.approx(epsilon_gaussian(NOISE, DELTA).best, rel=1e-9)
    parameters = np.array(said["known-cohort"]["parameters"])
    once = float(np.linalg.norm(parameters))
    by_one = NOISE * said["known-cohort"]["sensitivity"] / once
    groups = Groups(count=SEPARATION, rounds=ROUNDS, client_rate=COHORT / CLIENTS)
    amplified = said["released-models"]
    assert amplified["noise-multiplier"] == pytest.approx(by_one)
    assert amplified["epsilon"] == pytest.approx(epsilon_amplified(by_one, groups, DELTA).best, rel=1e-9)
    assert (amplified["client-rate"], amplified["group-rate"]) == (0.25, 0.75)
    last = run.rows[-1]
    for name in ("known-cohort", "released-models"):
        assert said[name]["spent"] == said[name]["epsilon"] == last[f"epsilon-{name}"]
    spent = [row["epsilon-known-cohort"] for row in run.rows if "epsilon-known-cohort" in row]
    first_two = np.linalg.norm(parameters[:2])  # of one participation in the first of two rounds
    assert spent[0] == pytest.approx(
        epsilon_gaussian(NOISE * said["known-cohort"]["sensitivity"] / first_two, DELTA).best
    )
    assert spent == sorted(spent)


def test_the_noise_is_the_least_for_an_epsilon_against_released_models() -> None:
    text = BASE.replace("noise-multiplier = 0.7", "epsilon = 3.0\nadversary = 'released-models'")
    run = fedsim.run(Experiment.from_toml(text, ["rounds=6"]), "run")
    said = run.manifest["epsilon"]["released-models"]
    assert 2.98 < said["epsilon"] <= 3.0
    assert run.rows[-1]["noise-multiplier"] == pytest.approx(said["noise-multiplier"])


def test_given_noise_against_released_models_is_over_one_participation() -> None:
    given = fedsim.run(setting("privacy.dp-ftrl.adversary=released-models"), "run").manifest["epsilon"]
    assert given["released-models"]["noise-multiplier"] == pytest.approx(NOISE)
    known = given["known-cohort"]
    once = np.linalg.norm(known["parameters"])
    assert known["noise-multiplier"] == pytest.approx(NOISE * once / known["sensitivity"])


@pytest.mark.parametrize("more", ["mechanism=blt", "max-participations=2"])
def test_without_a_theorem_for_secret_cohorts_the_bound_for_known_cohorts_is_used(more: str) -> None:
    said = fedsim.run(setting(f"privacy.dp-ftrl.{more}"), "run").manifest["epsilon"]
    assert said["released-models"]["epsilon"] == said["known-cohort"]["epsilon"]
    assert "secret ones have a theorem for banded noise" in said["released-models"]["why"]


def test_sums_that_are_rounded_are_more_sensitive() -> None:
    run = fedsim.run(setting("privacy.secagg.mode=ideal", "privacy.secagg.minimum=2", "rounds=3"), "run")
    (sensitivity,) = {event.sum_sensitivity for event in events_of(run)}
    assert CLIP < sensitivity < 1.01 * CLIP


def test_a_range_of_coordinates_that_would_cut_clipped_updates_is_refused() -> None:
    secagg = "privacy.secagg.mode=ideal", "privacy.secagg.minimum=2"
    line = f"privacy.secagg.clip = {CLIP / 2}: must be at least privacy.dp-ftrl.clip = {CLIP}"
    with pytest.raises(Refused, match=line):
        setting(*secagg, f"privacy.secagg.clip={CLIP / 2}")
    setting(*secagg, f"privacy.secagg.clip={CLIP}")


def test_a_ledger_that_has_a_row_twice_ends_the_run_before_anybody_is_asked() -> None:
    path = stopped(setting("privacy.noise=os"), "run")
    file = path / "private" / "ledger.jsonl"
    file.write_text(file.read_text() + file.read_text().splitlines(keepends=True)[0])
    before = file.read_bytes()
    with failing_in_private(path, "ledger.jsonl: a row of the noise was released twice"):
        fedsim.resume(path)
    assert file.read_bytes() == before


# --- who takes part -----------------------------------------------------------------------------------------


def cohorts_of(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    cohorts: list[list[int]] = []
    draw = SeparatedCohorts.draw

    def heard(self: SeparatedCohorts, round_: int, clients: int) -> list[int]:
        cohorts.append(draw(self, round_, clients))
        return cohorts[-1]

    monkeypatch.setattr(SeparatedCohorts, "draw", heard)
    fedsim.run(experiment, "run")
    return cohorts


def test_no_client_takes_part_twice_within_the_separation(monkeypatch: pytest.MonkeyPatch) -> None:
    cohorts = cohorts_of(setting("rounds=12"), monkeypatch)
    rounds = {c: [t for t, cohort in enumerate(cohorts) if c in cohort] for c in range(CLIENTS)}
    gaps = [later - earlier for ts in rounds.values() for earlier, later in pairwise(ts)]
    assert min(gaps) == SEPARATION
    assert 0.6 * COHORT < np.mean([len(cohort) for cohort in cohorts]) < 1.4 * COHORT


def test_spent_clients_are_not_drawn_and_empty_rounds_are_noised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cohorts = cohorts_of(
        setting("rounds=12", "privacy.dp-ftrl.max-participations=1", "server.cohort=8"), monkeypatch
    )
    drawn = [client for cohort in cohorts for client in cohort]
    assert len(set(drawn)) == len(drawn)
    assert [] in cohorts
    run = fedsim.load_run("run")
    assert [event.round for event in events_of(run)] == list(range(1, 13))
    assert {event.participations for event in events_of(run)} == {1}


def test_cohorts_that_break_the_separation_release_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.privacy.cohorts.separated.draw_separated", lambda *_: [0, 5])
    with pytest.raises(
        fedsim.RunFailed, match=r"privacy.dp-ftrl: round 2: client 0 took part in round 1, and .* 3 or more"
    ):
        fedsim.run(setting(), "run")
    assert [event.round for event in events_of(fedsim.load_run("run"))] == [1]


def test_the_history_holds_after_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    path = stopped(setting(), "run", after=1)
    with monkeypatch.context() as patch:
        patch.setattr("fedsim.privacy.cohorts.separated.draw_separated", lambda *_: list(range(CLIENTS)))
        with pytest.raises(fedsim.RunFailed, match=r"round 2: client \d+ took part in round 1"):
            fedsim.resume(path)


# --- kills --------------------------------------------------------------------------------------------------


def test_noise_of_the_operating_system_is_drawn_once_and_a_round_cut_short_is_abandoned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(Exception):
        pass

    def dies() -> None:
        raise Killed

    experiment = setting("privacy.noise=os")
    with monkeypatch.context() as patch:
        fail_in(patch, "evaluation", 4, dies)
        with pytest.raises(fedsim.RunFailed):
            fedsim.run(experiment, "killed")
    run = fedsim.resume("killed")
    assert [event.round for event in events_of(run)] == list(range(1, ROUNDS + 1))
    assert {event.noise for event in events_of(run)} == {Noise.SYSTEM}
    assert [row["round"] for row in run.private_rows if row.get("abandoned")] == [4]
    other = fedsim.run(experiment, "other")
    assert private_bits(other) != private_bits(run)


# --- what is refused ----------------------------------------------------------------------------------------

FTRL = "privacy.dp-ftrl."
REFUSED = [
    (["server.sampling=poisson"], "server.sampling = 'poisson': lets a client take part in rounds"),
    (["server.sampling=fixed"], "allowed with privacy.dp-ftrl: b-min-sep"),
    (["server.weighting=examples"], "server.weighting = 'examples': one client could weigh"),
    (["server.strategy=qfedavg"], "server.strategy = 'qfedavg': needs each client's update"),
    ([FTRL + "bands=4"], "privacy.dp-ftrl.bands = 4: must be at most min-separation, 3"),
    ([FTRL + "buffers=2"], "privacy.dp-ftrl.buffers = 2: is for mechanism = 'blt', not 'banded'"),
    ([FTRL + "mechanism=blt", FTRL + "bands=2"], "privacy.dp-ftrl.bands = 2: is for mechanism = 'banded'"),
    ([FTRL + "mechanism=tree"], "privacy.dp-ftrl.mechanism = 'tree': must be 'banded', 'blt' or"),
    (
        [FTRL + "mechanism=blt", FTRL + "adversary=released-models"],
        "privacy.dp-ftrl.adversary = 'released-models': needs mechanism = 'banded', not 'blt'",
    ),
    (
        [FTRL + "adversary=released-models", FTRL + "max-participations=1"],
        "privacy.dp-ftrl.max-participations = 1: a client that stops",
    ),
    ([FTRL + "min-separation=5"], "privacy.dp-ftrl.min-separation = 5: 5 groups of 6 clients need more than"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "line"), REFUSED)
def test_parameters_without_a_guarantee_are_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(Refused) as refused:
        setting(*overrides)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_separation_needs_noise_that_it_is_for() -> None:
    with pytest.raises(
        Refused, match=r"server.sampling = 'b-min-sep': is for privacy.dp-ftrl, with its min-separation"
    ):
        Experiment.from_toml("[server]\nsampling = 'b-min-sep'")
