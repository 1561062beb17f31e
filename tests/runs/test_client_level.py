"""Whole runs with DP-FedAvg: clipping, sums, noise and releases; their bits, their ledger, kills, bad input."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray
from safetensors.numpy import load_file

import fedsim
from fedsim import Experiment, Refused
from fedsim.arrays import record_of, values_of
from fedsim.clients.mods import protect_mod
from fedsim.messages import VECTOR
from fedsim.privacy.account import Account
from fedsim.privacy.arithmetic import SHARE
from fedsim.privacy.clipping import Clipped
from fedsim.privacy.dp_fedavg import client as clip
from fedsim.privacy.dp_fedavg.accounting import CohortMechanism, released_models
from fedsim.privacy.dp_fedavg.gaussian import SHIFTED_BIT
from fedsim.privacy.dp_fedavg.server import DpFedAvgServer
from fedsim.privacy.events import Sampling
from fedsim.results import RunDirectory
from fedsim.runtime.spec import acting_as
from fedsim.streams import noise_stream, numpy_stream
from tests.support.runs import events_of
from tests.support.stopping import Killed, fail_in, failing_in_private, stopped
from tests.support.tasks import task_of

DIGITS = """
name = "clients"
rounds = 4
[data]
clients = 30
partition = "iid"
[model]
name = "linear"
[client]
batch-size = 16
learning-rate = 0.2
[server]
cohort = 6
sampling = "poisson"
evaluate-every = 2
[privacy.dp-fedavg]
noise-multiplier = 0.8
delta = 1e-3
clip = 0.05
[runtime]
engine = "sequential"
"""
ADAPTIVE = ("privacy.dp-fedavg.adaptive.quantile=0.5", "privacy.dp-fedavg.adaptive.bit-noise=2.0")
RELEASE = (
    "privacy.dp-fedavg.release.train-loss.bound=5.0",
    "privacy.dp-fedavg.release.train-loss.noise=2.0",
)
SECAGG = (
    "privacy.secagg.mode='ideal'",
    "privacy.secagg.minimum=2",
    "server.sampling='fixed'",
    "privacy.secagg.dropout=0.0",
)


def digits(*overrides: str) -> Experiment:
    return Experiment.from_toml(DIGITS, overrides)


def test_each_round_is_an_event_and_epsilon_follows_from_them() -> None:
    run = fedsim.run(digits(), "run")
    assert [event.round for event in events_of(run)] == [1, 2, 3, 4]
    for event in events_of(run):
        assert (event.unit, event.sampling, event.clients, event.cohort) == ("client", "poisson", 30, 6)
        assert (event.noise_multiplier, event.parts[0].sensitivity, event.denominator) == (0.8, 0.05, 6.0)
    release = CohortMechanism(noise_multiplier=0.8, rate=0.2, clients=30)
    for row in run.rows[1::2]:
        said = released_models(release, row["round"], 1e-3).epsilon
        assert said is not None
        assert row["epsilon-released-models"] == pytest.approx(said.best, rel=0.05)
        assert row["epsilon-known-cohort"] > row["epsilon-released-models"]
        assert (row["unit"], row["relation"], row["dp-steps"]) == ("client", "zero-out", row["round"])
    said = released_models(release, 4, 1e-3).epsilon
    assert said is not None
    assert run.manifest["epsilon"]["released-models"]["epsilon"] == said.best
    assert run.manifest["epsilon"]["server"]["epsilon"] == "infinite"


class Recorder:
    """Keeps what the server's half of a run's mechanism is given and returns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.totals: list[dict[str, Any]] = []
        self.means: list[dict[str, Any]] = []
        self.clips: list[float] = []
        real = DpFedAvgServer.release

        def release(server: DpFedAvgServer, total: Any, round_: int, reported: dict[str, float]) -> Any:
            self.clips.append(server.clip)
            self.totals.append({name: np.array(array) for name, array in total.items()})
            noised = real(server, total, round_, reported)
            self.means.append(noised.mean)
            return noised

        monkeypatch.setattr(DpFedAvgServer, "release", release)


def test_what_is_released_is_the_noised_sum_over_the_expected_cohort(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    run = fedsim.run(digits("rounds=2"), "run")
    for round_, (total, mean, row) in enumerate(
        zip(recorder.totals, recorder.means, run.rows, strict=True), 1
    ):
        norm = np.sqrt(sum(float((array**2).sum()) for array in total.values()))
        assert 0 < norm <= 0.05 * row["clients"] * (1 + 1e-12)
        stream = noise_stream(0, "dp-fedavg-noise", round_=round_)
        for name in sorted(total):
            noise = 0.8 * 0.05 * stream.standard_normal(total[name].size).reshape(total[name].shape)
            # The noise is made for a sum that was rounded to the grid; each number is, to within a millionth of 0.05.
            expected = (total[name] + (1 + SHARE) * noise) / 6
            np.testing.assert_allclose(mean[name], expected, atol=1e-8)


def test_the_model_is_the_last_one_plus_the_means(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    run = fedsim.run(digits("rounds=2"), "run")
    from fedsim.models import initial_model

    experiment = digits("rounds=2")
    start = initial_model(experiment, task_of(experiment)).state_dict()
    for name, tensor in run.model().state_dict().items():
        array = tensor.numpy()
        expected = start[name].numpy().astype(np.float32)
        for mean in recorder.means:
            expected = (expected + mean[name]).astype(np.float32)
        np.testing.assert_allclose(array, expected, atol=1e-6)


def test_one_client_moves_the_released_sum_by_at_most_the_clip_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cohorts, with one client's data made useless: the sums differ by one clipped update."""
    recorder = Recorder(monkeypatch)
    fedsim.run(digits("rounds=1"), "with")
    monkeypatch.setattr("fedsim.clients.mods.faults.fault_of", _drops_out)
    fedsim.run(digits("rounds=1", "faults.dropout=0.5"), "without")
    first, second = recorder.totals
    moved = np.sqrt(sum(float(((first[name] - second[name]) ** 2).sum()) for name in first))
    assert 0 < moved <= 0.05


def _drops_out(faults: Any, seed: int, round_: int, client: int, *rest: Any) -> Any:
    from fedsim.clients.mods.faults import Fault
    from fedsim.privacy.cohorts.sampling import draw

    victim = draw("poisson", 6, 30, numpy_stream(seed, "cohort", round_=round_))[0]
    return Fault.DROPOUT if client == victim else Fault.NONE


def test_an_empty_cohort_releases_noise_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    run = fedsim.run(digits("server.cohort=1", "data.clients=60", "rounds=6"), "run")
    empty = [row["round"] for row in run.rows if row["clients"] == 0]
    assert empty
    assert len(events_of(run)) == 6
    for round_ in empty:
        assert all(not total.any() for total in recorder.totals[round_ - 1].values())
        assert any(mean.any() for mean in recorder.means[round_ - 1].values())


def test_noise_of_the_operating_system_is_charged_before_it_is_used_and_never_drawn_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overrides = ("privacy.noise='os'",)
    with monkeypatch.context() as patch:
        fail_in(patch, "evaluation", 2)
        with pytest.raises(Killed):
            fedsim.run(digits(*overrides), "killed")
    assert [event.round for event in events_of(fedsim.load_run("killed"))] == [1, 2]
    run = fedsim.resume("killed")
    assert [event.round for event in events_of(run)] == [1, 2, 3, 4]
    assert [row.get("abandoned", False) for row in run.private_rows] == [False, True, False, False]
    assert "train-loss" not in run.private_rows[2]


@pytest.mark.parametrize("overrides", [(), (*ADAPTIVE, *RELEASE)], ids=["fixed", "adaptive"])
def test_a_round_that_was_begun_and_abandoned_is_charged_as_planned(
    monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    """What a server process does with secure aggregation: a round that clients have begun is never repeated."""
    setting = digits("privacy.noise='os'", *overrides)
    whole = events_of(fedsim.run(setting, "whole"))
    path = stopped(setting, "killed", after=2)
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "begun", 3)  # and its sum was not released
        run = fedsim.resume(path)
    assert [row.get("abandoned", False) for row in run.private_rows] == [False, False, True, False]
    events = events_of(run)
    assert [event.round for event in events] == [1, 2, 3, 4]
    assert {event.terms() for event in events} == {event.terms() for event in whole}
    assert [event.noise_multiplier for event in events] == [event.noise_multiplier for event in whole]
    assert run.manifest["epsilon"] == fedsim.load_run("whole").manifest["epsilon"]


def test_adaptive_clipping_moves_towards_the_quantile(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    overrides = ("rounds=25", "server.cohort=30", "server.sampling='fixed'", "privacy.dp-fedavg.clip=10.0")
    fedsim.run(digits(*ADAPTIVE, *overrides, "server.evaluate-every=25"), "run")
    assert recorder.clips[0] == 10.0
    assert recorder.clips[-1] < 2.0
    assert all(
        later < sooner * 1.3 for sooner, later in zip(recorder.clips, recorder.clips[1:], strict=False)
    )


@pytest.mark.parametrize("start", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.slow
def test_adaptive_clipping_ends_at_the_quantile_of_the_norms(
    start: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, norms = Recorder(monkeypatch), list[float]()
    real = clip.clip_jointly

    def measured(update: dict[str, NDArray[Any]], norm: float, **how: Any) -> Clipped:
        norms.append(float(np.linalg.norm(update[clip.UPDATE])))
        return real(update, norm, **how)

    monkeypatch.setattr(clip, "clip_jointly", measured)
    everyone = ("rounds=120", "server.cohort=30", "server.sampling='fixed'", "server.evaluate-every=120")
    fedsim.run(digits(*ADAPTIVE, *everyone, f"privacy.dp-fedavg.clip={start}"), "run")
    assert recorder.clips[0] == start
    last = (
        20  # rounds: over them the noise of the bits, whose share of clients is off by 2 / 30, averages out
    )
    median = np.median(norms[-30 * last :])
    assert np.exp(np.mean(np.log(recorder.clips[-last:]))) == pytest.approx(median, rel=0.1)


def test_truncated_cohorts_are_accounted_as_such() -> None:
    run = fedsim.run(digits("server.sampling='truncated-poisson'", "server.max-cohort=8", "rounds=2"), "run")
    (event, _) = events_of(run)
    assert (event.sampling, event.max_cohort) == (Sampling.TRUNCATED_POISSON, 8)
    assert all(row["clients"] <= 8 for row in run.rows)
    assert run.manifest["epsilon"]["released-models"]["rdp"] is None


def test_a_hypothetical_population_stands_beside_the_simulations_epsilon_and_not_instead() -> None:
    overrides = ("privacy.dp-fedavg.population=900", "privacy.dp-fedavg.population-cohort=60")
    said = fedsim.run(digits(*overrides, "rounds=1"), "run").manifest["epsilon"]
    assert said["population"]["epsilon"] < said["released-models"]["epsilon"]
    assert said["population"]["noise-multiplier"] == pytest.approx(8.0)
    assert "says nothing of the simulated clients" in said["population"]["who"]


# --- where the number of clients is protected -----------------------------------------------------------------


ADDED = ("privacy.dp-fedavg.relation='add-or-remove-one'", "privacy.dp-fedavg.rate=0.2")


def test_no_output_depends_on_a_protected_number_of_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told(*overrides: str) -> Any:
        run = fedsim.run(digits(*overrides, "rounds=2"), f"told-{len(list(Path().iterdir()))}")
        private = [{k: v for k, v in row.items() if k in COLUMNS} for row in run.rows]
        return (run.path / "ledger.jsonl").read_text(), run.manifest["epsilon"], private

    assert told(*ADDED) == told(*ADDED, "data.clients=29") == told(*ADDED, "data.clients=4")
    assert told() != told("data.clients=29")  # the control: under zero-out it is public
    event = events_of(fedsim.run(digits(*ADDED), "run"))[0]
    assert (event.clients, event.rate, event.cohort, event.denominator) == (None, 0.2, 6, 6.0)
    # A mean over the declared cohort, of clients drawn at the declared rate.
    recorder = Recorder(monkeypatch)
    run = fedsim.run(digits(*ADDED, "data.clients=4", "privacy.dp-fedavg.noise-multiplier=1e-9"), "few")
    assert sum(row["clients"] for row in run.rows) > 0
    for total, mean in zip(recorder.totals, recorder.means, strict=True):
        for name, array in total.items():
            np.testing.assert_allclose(mean[name], array / 6, atol=1e-9)


COLUMNS = {
    "epsilon-released-models",
    "epsilon-known-cohort",
    "noise-multiplier",
    "sampling-rate",
    "dp-steps",
    "delta",
    "relation",
}


# --- nothing goes on past its budget --------------------------------------------------------------------------


def test_a_ledger_that_has_the_whole_plan_already_ends_the_run_before_anybody_is_asked() -> None:
    path = stopped(digits("privacy.noise='os'"), "run")
    file = path / "private" / "ledger.jsonl"
    file.write_text(file.read_text() * 2)  # both rounds twice: four, as are planned
    before = file.read_bytes()
    with failing_in_private(path, "round 3: the ledger has 4 rounds, of 4 that are planned"):
        fedsim.resume(path)
    assert file.read_bytes() == before
    said = fedsim.load_run(path).manifest["epsilon"]["released-models"]
    assert said["spent"] == said["epsilon"]


def test_a_ledger_that_is_full_by_the_time_of_a_release_ends_the_run_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, collected = Account.note_reported, count(1)

    def reported(account: Account, events: Any) -> None:
        if next(collected) == 3:  # while clients train, somebody writes
            for event in list(account.ledger):
                account.note_released(event)
        real(account, events)

    monkeypatch.setattr(Account, "note_reported", reported)
    recorder = Recorder(monkeypatch)
    with pytest.raises(fedsim.RunFailed, match="round 3: the ledger has 4 rounds, of 4"):
        fedsim.run(digits(), "run")
    assert len(recorder.means) == 2


# --- under secure aggregation -----------------------------------------------------------------------------------


def test_rounds_without_a_sum_are_spent_too() -> None:
    lossy = ("faults.dropout=0.6", "privacy.secagg.dropout=0.5", "server.evaluate-every=1", "rounds=6")
    run = fedsim.run(digits(*SECAGG[:3], *lossy), "run")
    sums = [event.round for event in events_of(run)]
    assert 0 < len(sums) < 6  # the control: the ledger has fewer, of which `spent` was made
    assert [row["dp-steps"] for row in run.rows] == [1, 2, 3, 4, 5, 6]
    for said in (run.manifest["epsilon"][name] for name in ("released-models", "known-cohort")):
        assert said["spent"] == said["epsilon"]
    # In clear a round releases whoever is there, and all of them are in the ledger.
    clear = fedsim.run(digits("faults.dropout=1.0", "rounds=3", "server.sampling='fixed'"), "clear")
    assert [event.round for event in events_of(clear)] == [1, 2, 3]
    assert clear.manifest["epsilon"]["released-models"]["spent"] == pytest.approx(
        clear.manifest["epsilon"]["released-models"]["epsilon"]
    )


def test_the_adaptive_clip_norm_stays_within_the_range_of_the_coordinates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grows = (
        *ADAPTIVE,
        "privacy.dp-fedavg.clip=1e-3",
        "privacy.dp-fedavg.adaptive.rate=3.0",
        "privacy.dp-fedavg.noise-multiplier=0.1",
    )
    recorder = Recorder(monkeypatch)
    run = fedsim.run(digits(*grows, *SECAGG, "privacy.secagg.clip=2e-3"), "bounded")
    assert recorder.clips == [1e-3, 2e-3, 2e-3, 2e-3]
    assert [row["secagg-clipped"] for row in run.rows] == [0.0] * 4
    recorder.clips.clear()
    fedsim.run(digits(*grows, "server.sampling='fixed'"), "free")
    assert recorder.clips[-1] > 2e-3  # the control


# --- metrics that are released -----------------------------------------------------------------------------------


def test_a_metric_costs_no_epsilon_and_is_the_noised_mean_of_what_clients_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = (
        "rounds=6",
        "server.cohort=1",
        "data.clients=60",
        "server.evaluate-every=6",
    )  # some cohorts are empty
    plain, recorder = fedsim.run(digits(*more), "plain"), Recorder(monkeypatch)
    run = fedsim.run(digits(*RELEASE, *more), "run")
    assert run.manifest["epsilon"] == plain.manifest["epsilon"]
    assert any(row["clients"] == 0 for row in run.rows)
    for row, event, total, mean in zip(
        run.rows, events_of(run), recorder.totals, recorder.means, strict=True
    ):
        stream = noise_stream(0, "dp-fedavg-noise", round_=row["round"])
        update, metric = event.parts
        for name in sorted(total):
            noise = stream.standard_normal(total[name].size).reshape(total[name].shape)
            # z_update by hand: 0.8^-2 = 1.5625, less 2^-2, is 1.3125 = 0.8728716^-2
            np.testing.assert_allclose(
                mean[name], total[name] + 0.8728716 * 0.05 * noise, rtol=1e-5, atol=1e-8
            )
        terms = row["clients"] * (row.get("train-loss", 2.5) - 2.5)
        released = 2.5 + terms + (1 + SHARE) * 2.0 * 2.5 * stream.standard_normal()
        assert row["released-train-loss"] == pytest.approx(released, abs=1e-5)
        assert (metric.name, metric.sensitivity, metric.noise_multiplier) == ("train-loss", 2.5, 2.0)
        assert (update.sensitivity, update.noise_multiplier) == (0.05, pytest.approx(0.8728716))


def test_with_real_noise_rows_have_only_released_losses_of_clients() -> None:
    more = ("privacy.noise='os'", "privacy.dp-fedavg.release.num-examples={bound=100.0, noise=1000.0}")
    run = fedsim.run(digits(*ADAPTIVE, *RELEASE, *more, "rounds=2"), "run")
    for row in run.private_rows:
        said = {name for name in row if "loss" in name or "examples" in name or "shifted" in name}
        assert said - {"loss"} == {"released-train-loss", "released-num-examples"}
    for event in events_of(run):
        assert [part.name for part in event.parts] == ["update", "below-clip", "num-examples", "train-loss"]
        assert event.noise == "os"
        assert event.noise_multiplier == pytest.approx(0.8, rel=1e-12)


def test_secure_aggregation_releases_the_same_within_rounding() -> None:
    fixed, secagg = (
        digits(*RELEASE, "server.sampling='fixed'", "rounds=2"),
        digits(*RELEASE, *SECAGG, "rounds=2"),
    )
    plain, secure = fedsim.run(fixed, "plain"), fedsim.run(secagg, "secure")
    values = [[row["released-train-loss"] for row in run.rows] for run in (plain, secure)]
    assert values[0][0] == pytest.approx(
        values[1][0], abs=2**-20
    )  # the mean of six that are each off by less
    assert values[0][1] == pytest.approx(values[1][1], abs=0.01)  # from then on the models differ
    assert values[0] != values[1]
    parts = [events_of(run)[0].parts[1] for run in (plain, secure)]
    assert parts[0] == parts[1]  # half of 5 is on the grid


# --- the client ------------------------------------------------------------------------------------------------


def clipped(
    update: float, norm: float = 1.0, loss: float = 0.5, overrides: tuple[str, ...] = ()
) -> RecordDict:
    """Return what a client answers whose training adds a number to each of four weights."""
    experiment = digits(*overrides)
    from flwr.app import Context, Message

    model = {"weight": np.zeros((2, 2), np.float32)}
    context = Context(
        run_id=1,
        node_id=1,
        node_config={"partition-id": 0},
        state=RecordDict(),
        run_config=experiment.to_run_config(),
    )  # type: ignore[arg-type]
    config = ConfigRecord({"server-round": 1, "clip-norm": norm, "clip-bit": True})

    def app(message: Message, context: Context) -> Message:
        arrays = record_of({"weight": model["weight"] + np.float32(update)})
        metrics = MetricRecord({"num-examples": 42, "train-loss": loss})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    with acting_as(1):
        message = Message(RecordDict({"arrays": record_of(model), "config": config}), 1, "train")
        return protect_mod(message, context, app).content


@pytest.mark.parametrize(
    ("update", "sent", "bit"),
    [
        (0.0, 0.0, 0.5),
        (0.25, 0.25, 0.5),
        (10.0, 0.5, -0.5),
        (1e30, 0.5, -0.5),
        (np.nan, 0.0, 0.0),
        (np.inf, 0.0, 0.0),
    ],
)
def test_the_client_sends_a_clipped_difference_that_weighs_one(
    update: float, sent: float, bit: float
) -> None:
    content = clipped(update)
    (arrays,) = content.array_records.values()
    assert isinstance(arrays, ArrayRecord)
    assert list(content.array_records) == [VECTOR]
    np.testing.assert_allclose(values_of(arrays[VECTOR]), np.full(4, sent), rtol=1e-6)
    assert dict(content.metric_records["metrics"]) == {"num-examples": 1, "train-loss": 0.5, SHIFTED_BIT: bit}


def test_a_model_of_several_precisions_keeps_them() -> None:
    run = fedsim.run(digits("model.name=tests.support.models:mixed", "rounds=2"), "run")
    assert [row["failures"] for row in run.rows] == [0, 0]
    weights = load_file(run.path / "model.safetensors")
    assert {name: array.dtype for name, array in weights.items()} == {
        "layer.weight": np.float32,
        "layer.bias": np.float32,
        "shift": np.float64,
    }
    assert weights["shift"].any()


@pytest.mark.parametrize(
    ("loss", "term"),
    [(0.5, -2.0), (7.0, 2.5), (-1e300, -2.5), (np.inf, 2.5), (-np.inf, -2.5), (np.nan, 0.0)],
)
def test_the_client_sends_a_released_metric_within_its_bound(loss: float, term: float) -> None:
    said = clipped(np.nan, loss=loss, overrides=(*RELEASE, "privacy.noise='os'")).metric_records["metrics"]
    assert dict(said) == {"num-examples": 1, SHIFTED_BIT: 0.0, "shifted-train-loss": term}


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("server.weighting='examples'",), "server.weighting = 'examples': one client could weigh as much"),
        (
            ("server.strategy='krum'", "server.sampling='fixed'"),
            "server.strategy = 'krum': needs each client's update",
        ),
        (("server.strategy='fedmedian'",), "server.strategy = 'fedmedian': needs each client's update"),
        (
            ("privacy.dp-fedavg.delta=0.05",),
            "privacy.dp-fedavg.delta = 0.05: must be below 1 / clients = 1 / 30",
        ),
        (
            ("privacy.dp-fedavg.clip=0.0",),
            "privacy.dp-fedavg.clip = 0.0: must be greater than or equal to 0.000000000001",
        ),
        (
            ("privacy.dp-fedavg.adaptive.bit-noise=0.3",),
            "below 0.6, the joint one of the released metrics (below-clip: 0.6)",
        ),
        (
            ("privacy.dp-fedavg.release.train-loss={bound=5.0, noise=0.8}",),
            "noise multiplier = 0.8: must be above 0 and below 0.8, the joint one of the released metrics "
            "(train-loss: 0.8)",
        ),
        (
            (*ADAPTIVE, "privacy.dp-fedavg.release.train-loss={bound=5.0, noise=0.81}"),
            "below 0.793886, the joint one of the released metrics (below-clip: 4, train-loss: 0.81)",
        ),
        (
            ("privacy.dp-fedavg.release.accuracy.bound=1.0",),
            "privacy.dp-fedavg.release.accuracy = a table: is no key here; allowed: num-examples, train-loss",
        ),
        (
            ("privacy.dp-fedavg.release.train-loss.bound=0.0",),
            "privacy.dp-fedavg.release.train-loss.bound = 0.0: must be greater than",
        ),
        (
            ("privacy.dp-fedavg.release.train-loss.noise=1.0",),
            "privacy.dp-fedavg.release.train-loss.bound is missing",
        ),
        (
            ("privacy.dp-fedavg.population=10",),
            "privacy.dp-fedavg.population = 10: goes with population-cohort",
        ),
        (("server.max-cohort=8",), "server.max-cohort = 8: is for sampling = 'truncated-poisson'"),
        (
            ("server.sampling='truncated-poisson'", "server.max-cohort=3"),
            "server.max-cohort = 3: must be at least the cohort, 6",
        ),
        (
            ADDED[:1],
            "privacy.dp-fedavg.relation = 'add-or-remove-one': needs a declared rate",
        ),
        (ADDED[1:], "privacy.dp-fedavg.rate = 0.2: is for relation = 'add-or-remove-one'"),
        (
            (ADDED[0], "privacy.dp-fedavg.rate=1.5"),
            "privacy.dp-fedavg.rate = 1.5: must be less than or equal to 1",
        ),
        (
            (*ADDED, "server.sampling='fixed'"),
            "server.sampling = 'fixed': its distribution depends on the number of clients, which privacy.dp-fedavg.relation",
        ),
        (
            (*ADDED, "server.sampling='truncated-poisson'"),
            "server.sampling = 'truncated-poisson': its distribution depends",
        ),
        (
            (*ADDED, *SECAGG),
            "privacy.secagg = 'a table': has no theorem with privacy.dp-fedavg.relation = 'add-or-remove-one'",
        ),
        (
            (*ADDED, "privacy.dp-fedavg.delta=0.034"),
            "privacy.dp-fedavg.delta = 0.034: must be below privacy.dp-fedavg.rate / server.cohort = 0.03333",
        ),
        (
            (*SECAGG, "privacy.secagg.clip=0.04"),
            "privacy.secagg.clip = 0.04: must be at least privacy.dp-fedavg.clip = 0.05",
        ),
    ],
)
def test_parameters_without_a_guarantee_are_refused(overrides: tuple[str, ...], line: str) -> None:
    with pytest.raises(Refused) as refused:
        fedsim.run(digits(*overrides), "refused")
    assert line in str(refused.value)
    assert not Path("refused").exists()


def test_unset_weights_become_the_same_for_all_and_stay_so_in_the_file() -> None:
    experiment = digits(*RELEASE)
    assert experiment.server.weighting == "uniform"
    assert Experiment.from_toml(experiment.to_toml()) == experiment
    assert json.dumps(digits(*RELEASE).to_run_config()) == json.dumps(experiment.to_run_config())
