"""Whole runs with local client-level privacy: what leaves a client, its ledger, its epsilon, kills, refusals."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy import stats

import fedsim
from fedsim import Experiment, Refused
from fedsim.layout import difference
from fedsim.mechanisms import loads
from fedsim.models import initial_model
from fedsim.privacy.events import Ledger
from fedsim.privacy.local_dp import accounting as local
from fedsim.privacy.local_dp.plan import LocalDpPlan
from fedsim.runtime import AppSpec, SequentialGrid
from tests.support.grids import run_over
from tests.support.runs import events_of, private_bits
from tests.support.stopping import Killed, fail_in, failing_in_private, stopped
from tests.support.tasks import task_of

DIGITS = """
name = "local"
rounds = 4
[data]
clients = 6
partition = "linear"
[model]
name = "linear"
[server]
cohort = 3
evaluate-every = 2
[privacy.local-dp]
noise-multiplier = 0.8
delta = 1e-3
clip = 0.5
[runtime]
engine = "sequential"
"""
LAPLACE = DIGITS.replace("delta = 1e-3", 'law = "laplace"')


def digits(*overrides: str) -> Experiment:
    return Experiment.from_toml(DIGITS, overrides)


class Eavesdropper(SequentialGrid):
    """A Grid that notes how far each client's reply is from the model that it was sent, and what else it says."""

    send_and_fold = None  # type: ignore[assignment]
    updates: list[NDArray[np.float32]] = []  # noqa: RUF012
    metrics: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(self, spec: AppSpec) -> None:
        super().__init__(spec)
        self._sent: dict[str, ArrayRecord] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        requests = list(messages)
        ids = list(super().push_messages(requests))
        self._sent |= {m.metadata.message_id: m.content.array_records["arrays"] for m in requests}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            sent = self._sent[reply.metadata.reply_to_message_id]
            self.updates.append(np.array(difference(reply.content.array_records["arrays"], sent)))
            self.metrics.append(dict(reply.content.metric_records["metrics"]))
        return replies


@pytest.fixture
def heard() -> Iterator[type[Eavesdropper]]:
    Eavesdropper.updates.clear()
    Eavesdropper.metrics.clear()
    yield Eavesdropper
    Eavesdropper.updates.clear()
    Eavesdropper.metrics.clear()


# --- what leaves a client -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "law"), [(DIGITS, stats.norm), (LAPLACE, stats.laplace)], ids=["gauss", "laplace"]
)
def test_each_update_leaves_with_the_noise_that_its_event_says(
    text: str, law: Any, heard: type[Eavesdropper]
) -> None:
    still = ["client.learning-rate=1e-9", "rounds=2"]  # what is left of the update is the noise
    run = run_over(heard, Experiment.from_toml(text, still), "run")
    events = events_of(run)
    assert len(events) == len(heard.updates) == 6
    assert {event.sensitivity for event in events} == {
        1.0
    }  # twice the clip norm: one is replaced by any other
    pairs = zip(heard.updates, events, strict=True)
    noise = np.concatenate([u / (e.sensitivity * e.noise_multiplier) for u, e in pairs])
    assert stats.kstest(noise, law.cdf).pvalue > 1e-3
    assert stats.kstest(noise, law(scale=0.5).cdf).pvalue < 1e-9  # made for the clip norm, not twice that
    correlations = np.corrcoef(heard.updates)[np.triu_indices(6, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(heard.updates[0].size)  # each has noise of its own


@pytest.mark.parametrize(("text", "order"), [(DIGITS, 2), (LAPLACE, 1)], ids=["gauss", "laplace"])
def test_an_update_is_clipped_before_its_noise(text: str, order: int, heard: type[Eavesdropper]) -> None:
    far = ["client.learning-rate=10", "rounds=1", "privacy.local-dp.noise-multiplier=1e-7"]
    run_over(heard, Experiment.from_toml(text, far), "run")
    norms = [float(np.linalg.norm(update.astype(np.float64), order)) for update in heard.updates]
    assert norms == pytest.approx([0.5] * 3, rel=1e-3)


def test_the_next_model_is_this_one_and_the_mean_of_the_noised_updates(heard: type[Eavesdropper]) -> None:
    setting = digits("rounds=1")
    before = initial_model(setting, task_of(setting)).state_dict()
    run = run_over(heard, setting, "run")
    after = load_file(run.path / "model.safetensors")
    moved = np.concatenate([(after[name] - before[name].numpy()).reshape(-1) for name in before])
    np.testing.assert_allclose(moved, np.mean(heard.updates, axis=0), atol=1e-5)


def test_a_reply_says_nothing_without_noise_where_the_noise_is_real(heard: type[Eavesdropper]) -> None:
    run_over(heard, digits("privacy.noise=os", "rounds=1"), "run")
    assert heard.metrics == [{"num-examples": 1}] * 3
    heard.metrics.clear()
    run_over(heard, digits("rounds=1"), "seeded")
    assert [sorted(said) for said in heard.metrics] == [["num-examples", "train-loss"]] * 3


def test_nan_becomes_zero_and_leaves_as_noise(heard: type[Eavesdropper]) -> None:
    run = run_over(heard, digits("faults.nan=1.0", "rounds=1"), "run")
    assert run.rows[0]["failures"] == 0
    assert stats.kstest(np.concatenate(heard.updates) / 0.8, stats.norm.cdf).pvalue > 1e-3


def test_a_client_ignores_noise_settings_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    text = DIGITS.replace("noise-multiplier = 0.8", "epsilon = 2.0")
    setting = Experiment.from_toml(text, ["rounds=1"])
    reference = private_bits(fedsim.run(setting, "run"))
    lies = {"noise-multiplier": 1e-9, "clip-norm": 1e9}
    monkeypatch.setattr(LocalDpPlan, "instructions", lambda self: lies)
    assert private_bits(fedsim.run(setting, "lied-to")) == reference


# --- the account --------------------------------------------------------------------------------------------


def test_the_ledger_says_what_was_done_and_epsilon_follows_from_it() -> None:
    run = fedsim.run(digits(), "run")
    events = events_of(run)
    assert [event.round for event in events] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert {(e.noise_multiplier, e.law, e.noise, e.unit) for e in events} == {
        (0.8, "gaussian", "seeded", "client")
    }
    assert ["epsilon-server" in row for row in run.rows] == [False, True, False, True]
    for row in run.rows[1::2]:
        most = max(Ledger(e for e in events if e.round <= row["round"]).participations().values())
        assert row["epsilon-server"] == local.epsilon_of(0.8, most, 1e-3).best
        assert (row["dp-steps"], row["sampling-rate"]) == (most, 1.0)
        assert (row["delta"], row["unit"], row["relation"]) == (1e-3, "client", "replace-one")
    said = run.manifest["epsilon"]["server"]
    whole = local.epsilon_of(0.8, 4, 1e-3)
    assert (said["epsilon"], said["pld"], said["rdp"]) == (whole.best, whole.pld, whole.rdp)
    assert said["spent"] == run.rows[-1]["epsilon-server"] <= said["epsilon"]
    assert (said["participations"], said["clip"], said["relation"]) == (4, 0.5, "replace-one")


def test_coins_for_cohorts_amplify_nothing() -> None:
    fixed, coins = (
        fedsim.run(digits(f"server.sampling={sampling}", "rounds=2"), sampling)
        for sampling in ("fixed", "poisson")
    )
    assert fixed.manifest["epsilon"]["server"]["epsilon"] == local.epsilon_of(0.8, 2, 1e-3).best
    assert coins.manifest["epsilon"]["server"]["epsilon"] == local.epsilon_of(0.8, 2, 1e-3).best


def test_epsilon_is_composed_over_the_participations_that_a_client_may_have() -> None:
    text = DIGITS.replace("noise-multiplier = 0.8", "epsilon = 3.0")
    setting = Experiment.from_toml(text, ["privacy.local-dp.max-participations=2", "rounds=2"])
    run = fedsim.run(setting, "run")
    said = run.manifest["epsilon"]["server"]
    assert 2.999 < said["epsilon"] <= 3.0
    assert {e.noise_multiplier for e in events_of(run)} == {local.noise_for(3.0, 2, 1e-3)}


def test_laplace_noise_has_no_delta_and_adds_up() -> None:
    text = LAPLACE.replace("noise-multiplier = 0.8", "epsilon = 3.0")
    run = fedsim.run(Experiment.from_toml(text, ["server.cohort=6"]), "run")
    said = run.manifest["epsilon"]["server"]
    assert (said["epsilon"], said["spent"], said["delta"]) == (pytest.approx(3.0), pytest.approx(3.0), 0.0)
    assert {e.noise_multiplier for e in events_of(run)} == {4 / 3}
    assert run.rows[1]["epsilon-server"] == pytest.approx(1.5)


# --- what was cut short -------------------------------------------------------------------------------------


def test_with_the_systems_noise_a_round_that_was_cut_short_is_paid_for_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting = digits("privacy.noise=os", "server.cohort=6", "privacy.local-dp.max-participations=1")

    with monkeypatch.context() as patch:
        fail_in(patch, "aggregation", 1)  # the clients have answered
        with pytest.raises(Killed):
            fedsim.run(setting, "run")
    before = fedsim.load_run("run").ledger.read_bytes()
    assert len(before.splitlines()) == 6
    with pytest.raises(fedsim.RunFailed, match=r"private/log.txt in its directory says why"):
        fedsim.resume("run")
    assert "has taken part in 1 rounds" in (Path("run") / "private" / "log.txt").read_text()
    assert fedsim.load_run("run").ledger.read_bytes() == before


def test_a_ledger_that_has_all_of_a_clients_releases_ends_the_run_before_anybody_is_asked() -> None:
    path = stopped(digits("privacy.noise=os", "server.cohort=6"), "run")
    file = path / "private" / "ledger.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    mine = [line for line in lines if loads(line).client == 2]  # type: ignore[union-attr]
    file.write_text("".join(lines + mine))  # its two rounds twice: the four that are planned
    before = file.read_bytes()
    with failing_in_private(path, "round 3: client 2 has 4 releases in the ledger, of 4 that are"):
        fedsim.resume(path)
    assert file.read_bytes() == before
    said = fedsim.load_run(path).manifest["epsilon"]["server"]
    assert said["spent"] == said["epsilon"]


def test_the_systems_event_is_on_the_disk_before_the_value_leaves() -> None:
    on_disk: list[int] = []

    class Watching(SequentialGrid):
        send_and_fold = None  # type: ignore[assignment]

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            for reply in super().pull_messages(message_ids):
                on_disk.append(len(fedsim.load_run("run").ledger.read_text().splitlines()))
                yield reply

    run = run_over(Watching, digits("privacy.noise=os", "rounds=1"), "run")
    assert len(on_disk) == 3
    assert all(count >= nth for nth, count in enumerate(on_disk, 1))
    assert {event.noise for event in events_of(run)} == {"os"}
    assert len(events_of(run)) == 3


# --- what it stands beside ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedmedian", "krum"])
def test_whatever_is_made_of_noised_updates_costs_nothing_more(strategy: str) -> None:
    run = fedsim.run(digits(f"server.strategy={strategy}", "rounds=2"), "run")
    assert len(events_of(run)) == 6
    assert run.manifest["epsilon"]["server"]["epsilon"] == local.epsilon_of(0.8, 2, 1e-3).best


def test_under_secure_aggregation_clients_send_no_events_and_all_are_charged() -> None:
    setting = digits("privacy.secagg.mode=real", "privacy.secagg.clip=8", "rounds=2", "faults.dropout=0.2")
    run = fedsim.run(setting, "run")
    planned = events_of(run)
    assert {(e.noise_multiplier, e.sensitivity, e.law) for e in planned} == {(0.8, 1.0, "gaussian")}
    uploaded = sum(row["clients"] - row["failures"] for row in run.rows)
    assert uploaded <= len(planned) <= sum(row["clients"] for row in run.rows)
    assert "secure-aggregation" in run.manifest


def test_under_secure_aggregation_refused_rounds_are_not_charged() -> None:
    overrides = "privacy.secagg.mode=ideal", "server.cohort=6", "privacy.local-dp.max-participations=1"
    run = fedsim.run(digits(*overrides, "rounds=2"), "run")
    assert [row["failures"] for row in run.rows] == [0, 6]
    assert [event.round for event in events_of(run)] == [1] * 6


def test_the_sum_under_secure_aggregation_is_of_the_same_noised_updates() -> None:
    plain = fedsim.run(digits("rounds=1"), "plain")
    summed = fedsim.run(digits("rounds=1", "privacy.secagg.clip=8", "privacy.secagg.input-bits=24"), "summed")
    one, other = (load_file(run.path / "model.safetensors") for run in (plain, summed))
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=1e-5)
    assert (plain.path / "ledger.jsonl").read_bytes() == (summed.path / "ledger.jsonl").read_bytes()


def test_weights_that_are_not_set_are_the_same_for_all() -> None:
    assert digits().server.weighting == "uniform"


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["server.weighting=examples"], r"server.weighting = 'examples': clients would send their numbers"),
        (["server.strategy=qfedavg"], r"server.strategy = 'qfedavg': uses its clients' losses"),
        (["privacy.local-dp.clip=0"], r"privacy.local-dp.clip = 0: must be greater than or equal to 0.000000000001"),
        (["privacy.local-dp.law=cauchy"], r"privacy.local-dp.law = 'cauchy'"),
        (["privacy.local-dp.law=laplace"], r"privacy.local-dp.delta = 0.001: is for law = 'gaussian'"),
        (["privacy.local-dp.max-participations=0"], r"max-participations = 0: must be greater than or equal"),
        (["privacy.noise=os", "runtime.engine=ray"], r"privacy.noise = 'os': needs the clients' ledger"),
        (
            ["privacy.noise=os", "server.client-evaluation=cohort", "data.held-out=0.2"],
            r"server.client-evaluation = 'cohort': asks for losses of clients",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused_before_anything_runs(overrides: list[str], line: str) -> None:
    with pytest.raises(Refused, match=line):
        digits(*overrides)


@pytest.mark.parametrize(
    ("old", "line"),
    [("noise-multiplier = 0.8\n", "epsilon = None: this or noise"), ("delta = 1e-3\n", "delta = None: must")],
)
def test_missing_keys_are_named(old: str, line: str) -> None:
    with pytest.raises(Refused, match=f"privacy.local-dp.{line}"):
        Experiment.from_toml(DIGITS.replace(old, ""))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("privacy.local-dp.delta=0.5", r"delta = 0.5: must be below 1 /"),
    ],
)
def test_refusals_that_need_data_or_model_come_before_the_first_round(override: str, line: str) -> None:
    with pytest.raises(Refused, match=line):
        fedsim.run(digits(override), "run")
    assert not Path("run").exists()
