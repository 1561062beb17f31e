"""Whole runs with secure aggregation: real as ideal, all engines alike, what the server receives, faults, kills."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from safetensors.numpy import load_file
from scipy import stats

import fedsim
import fedsim.clients.mods.secagg
from fedsim import Experiment
from fedsim.arrays import values_of
from fedsim.clients.mods.faults import Fault, fault_of, stage_of_fault
from fedsim.data import prepare
from fedsim.privacy.cohorts.sampling import draw
from fedsim.privacy.dp_sgd.release import DpSgdEvent
from fedsim.privacy.events import Ledger
from fedsim.privacy.secagg.spec import Stage
from fedsim.runtime import AppSpec, SequentialGrid
from fedsim.secagg.messages import RECORD, REFUSED, record_of_stage
from fedsim.secagg.setup import policy_of
from fedsim.server import checkpoint
from fedsim.server.aggregation.secure_grid import SecureGrid
from fedsim.streams import numpy_stream
from tests.conftest import CONFIGS
from tests.support.grids import run_over
from tests.support.planted import found, planted
from tests.support.runs import bits, events_of, open_bits, private_bits
from tests.support.stopping import Killed, fail_in, stopped

ROOT = Path(__file__).parents[2]
TINY = """
name = "tiny"
rounds = 4
[data]
clients = 14
partition = "dirichlet"
[model]
name = "linear"
[server]
cohort = 10
[privacy.secagg]
dropout = 0.5
[faults]
dropout = 0.2
[runtime]
engine = "sequential"
"""
MALICIOUS = ("privacy.secagg.adversary=malicious-server", "privacy.secagg.dropout=0.3")
REGULAR = (
    "privacy.secagg.graph=k-regular",
    "privacy.secagg.corrupt=0.0",
    "privacy.secagg.dropout=0.2",
    "data.clients=40",
    "server.cohort=30",
    "faults.dropout=0.1",
    "rounds=2",
)
IDEAL = "privacy.secagg.mode=ideal"


def tiny(*overrides: str) -> Experiment:
    return Experiment.from_toml(TINY, overrides)


# --- real and ideal, engines, strategies -------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [(), MALICIOUS, REGULAR, (*REGULAR, *MALICIOUS, "privacy.secagg.dropout=0.2")],
    ids=["semi-honest", "malicious", "k-regular", "k-regular malicious"],
)
def test_real_is_ideal_to_the_bit_and_rounds_lose_clients_at_every_stage(overrides: tuple[str, ...]) -> None:
    unique = {override.partition("=")[0]: override for override in overrides}.values()
    real = fedsim.run(tiny(*unique), "real")
    ideal = fedsim.run(tiny(*unique, IDEAL), "ideal")
    assert open_bits(real) == open_bits(ideal)
    assert sum(row["failures"] for row in real.rows) > 0
    assert sum(row["clients"] for row in real.rows) > 0
    assert real.rows[0]["secagg-bytes-up"] > ideal.rows[0]["secagg-bytes-up"]


def test_another_seed_gives_other_bits() -> None:
    assert open_bits(fedsim.run(tiny("rounds=1"), "a")) != open_bits(
        fedsim.run(tiny("rounds=1", "seed=1"), "b")
    )


@pytest.mark.parametrize("mode", ["real", pytest.param("ideal", marks=pytest.mark.slow)])
def test_every_engine_gives_the_same_bits(mode: str) -> None:
    setting = (f"privacy.secagg.mode={mode}", "rounds=2", "faults.nan=0.1")
    reference = bits(fedsim.run(tiny(*setting), "sequential"))
    workers = tiny(*setting, "runtime.engine=local", "runtime.workers=2")
    assert bits(fedsim.run(workers, "local")) == reference
    assert bits(run_over(Recorder, tiny(*setting), "plain")) == reference  # which can't fold


@pytest.mark.parametrize(
    ("strategy", "weighting"),
    [
        ("fedavg", "uniform"),
        *(
            (name, "examples")
            for name in ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox")
        ),
    ],
)
def test_strategies_of_the_mean_work_and_differ_by_the_rounding_only(strategy: str, weighting: str) -> None:
    setting = (
        f"server.strategy={strategy}",
        f"server.weighting={weighting}",
        "faults.dropout=0.0",
        "rounds=2",
    )
    mine = fedsim.run(tiny(*setting, IDEAL), "ideal")
    tree = tiny(*setting).model_dump(by_alias=True, exclude_none=True)
    del tree["privacy"]["secagg"]
    plain = fedsim.run(Experiment.from_dict(tree), "plain")
    one, other = (load_file(run.path / "model.safetensors") for run in (mine, plain))
    # Adaptive optimisers scale a step by its size, and so what rounding has left of a gradient that is nothing.
    adaptive = strategy in ("fedadam", "fedyogi", "fedadagrad")
    for name in other:
        difference = np.abs(one[name] - other[name])
        assert np.quantile(difference, 0.9 if adaptive else 1.0) < (0.02 if adaptive else 1e-3)
    assert mine.rows[-1]["train-loss"] == pytest.approx(plain.rows[-1]["train-loss"], rel=0.02)
    assert mine.accuracy == pytest.approx(plain.accuracy, abs=0.03)


@pytest.mark.ray
@pytest.mark.slow  # Ray takes about 20 s
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")  # Ray's own
@pytest.mark.parametrize("mode", ["real", "ideal"])
def test_flowers_own_runtime_gives_the_same_bits(mode: str) -> None:
    pytest.importorskip("ray")
    setting = tiny("rounds=2", f"privacy.secagg.mode={mode}")
    Path("experiment.toml").write_text(setting.to_toml())
    config = [f"experiment='{Path('experiment.toml').absolute()}'", f"run-dir='{Path('flower').absolute()}'"]
    command = [sys.executable, "-m", "tests.support.flower_runtime", str(ROOT), "14", *config]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    reference = open_bits(fedsim.run(setting, "sequential"))
    assert open_bits(fedsim.load_run("flower")) == reference
    ray = Experiment.load("experiment.toml", ["runtime.engine=ray", "runtime.workers=2"])
    assert open_bits(fedsim.run(ray, "ray")) == reference


@pytest.mark.slow
def test_digits_real_is_ideal_and_as_accurate_as_without() -> None:
    text = (CONFIGS / "digits-secagg.toml").read_text()
    real, ideal = (
        fedsim.run(Experiment.from_toml(text, [f"privacy.secagg.mode={m}"]), m) for m in ("real", "ideal")
    )
    assert open_bits(real) == open_bits(ideal)
    assert sum(row["failures"] for row in real.rows) > 30
    # Without faults, for lost clients are lost at other stages than without secure aggregation.
    tree = Experiment.from_toml(text, ["faults.dropout=0.0"]).model_dump(by_alias=True, exclude_none=True)
    secure = fedsim.run(Experiment.from_dict(tree), "secure")
    del tree["privacy"]["secagg"]
    assert secure.accuracy == pytest.approx(
        fedsim.run(Experiment.from_dict(tree), "open").accuracy, abs=0.005
    )


# --- what the server receives ------------------------------------------------------------------------------


class Recorder(SequentialGrid):
    """A Grid that keeps all that it hands to the server, as bytes too."""

    send_and_fold = None  # type: ignore[assignment]
    received: list[tuple[str, Message]] = []  # noqa: RUF012

    def __init__(self, spec: AppSpec) -> None:
        super().__init__(spec)
        self._stages: dict[str, str] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        requests = list(messages)
        ids = list(super().push_messages(requests))
        for request in requests:
            record = request.content.config_records.get(RECORD)
            self._stages[request.metadata.message_id] = str(record["stage"]) if record else ""
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.received += [(self._stages[reply.metadata.reply_to_message_id], reply) for reply in replies]
        return replies

    @classmethod
    def trace(cls) -> bytes:
        """Return all bytes that came: arrays, configs and the texts of errors."""
        parts = []
        for _, reply in cls.received:
            if reply.has_error():
                parts.append(str(reply.error).encode())
                continue
            for record in reply.content.values():
                if isinstance(record, ArrayRecord):
                    parts += [values_of(array).tobytes() for array in record.values()]
                else:
                    for value in record.values():
                        parts.append(value if isinstance(value, bytes) else repr(value).encode())
        return b"\0".join(parts)


@pytest.fixture
def recorder() -> Iterator[type[Recorder]]:
    Recorder.received.clear()
    yield Recorder
    Recorder.received.clear()


DP = """
[privacy.dp-sgd]
noise-multiplier = 1.0
delta = 1e-5
max-participations = 3
"""


@pytest.mark.parametrize("adversary", [(), MALICIOUS], ids=["semi-honest", "malicious"])
def test_every_field_that_the_server_receives_is_on_the_list(
    adversary: tuple[str, ...], recorder: type[Recorder]
) -> None:
    faults = ("faults.dropout=0.1", "faults.crash=0.1", "faults.nan=0.2")
    run_over(recorder, Experiment.from_toml(TINY + DP, [*adversary, *faults, "rounds=3"]), "run")
    errors = {REFUSED, f"RuntimeError: {Fault.CRASH.value}", Fault.DROPOUT.value}
    sizes: dict[str, set[int]] = {}
    said = set()
    for stage, reply in recorder.received:
        if reply.has_error():
            said.add(reply.error.reason)
            continue
        assert list(reply.content) == [RECORD]
        record = reply.content.config_records[RECORD]
        assert list(record) == ["body"]
        assert type(record["body"]) is bytes
        sizes.setdefault(stage, set()).add(len(record["body"]))
    assert said == errors
    expected = {"advertise", "share", "upload", "unmask"} | ({"confirm"} if adversary else set())
    assert set(sizes) == expected
    # Where all clients are asked the same, all send as much: the sizes say nothing of anyone.
    assert len(sizes["upload"]) == len(sizes["advertise"]) == 1


def test_planted_updates_are_found_nowhere_and_in_the_controls_everywhere(
    recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = ("rounds=1", "faults.dropout=0.0")
    secrets = planted(monkeypatch)
    run_over(recorder, tiny(*setting), "real")
    assert len(secrets) > 50
    assert found(secrets, recorder.trace()) == 0
    assert b"num-examples" not in recorder.trace()
    for name in ("ideal", "open"):
        recorder.received.clear()
        secrets.clear()
        tree = tiny(*setting, IDEAL).model_dump(by_alias=True, exclude_none=True)
        if name == "open":
            del tree["privacy"]["secagg"]
        run_over(recorder, Experiment.from_dict(tree), name)
        assert found(secrets, recorder.trace()) > 100, name


# --- faults ------------------------------------------------------------------------------------------------


def test_the_stage_of_a_fault_is_any_alike() -> None:
    stages = [stage_of_fault(0, round_, client) for round_ in range(1, 41) for client in range(50)]
    counts = [stages.count(stage) for stage in Stage]
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.chisquare([counts[0] + 150, *counts[1:]]).pvalue < 1e-6  # the test sees a little more of one
    late = [stage for stage in stages if stage is Stage.UNMASK]
    assert late != [stage_of_fault(1, 1, client) for client in range(len(late))]


def test_the_rows_count_clients_lost_before_their_upload() -> None:
    faults = ("faults.dropout=0.15", "faults.crash=0.1", "faults.nan=0.15")
    setting = tiny(*faults, "rounds=6", "privacy.secagg.dropout=0.6")
    data = prepare(setting)
    policy = policy_of(setting, 650, data.training_sizes())
    assert policy is not None
    needed = policy.topology(10).threshold
    summed = 0
    for row in fedsim.run(setting).rows:
        round_ = row["round"]
        cohort = draw("fixed", 10, 14, numpy_stream(0, "cohort", round_=round_))
        faulty = {c: fault_of(setting.faults, 0, round_, c) for c in cohort}
        stages = list(Stage)
        before = {
            c
            for c, fault in faulty.items()
            if fault is Fault.NAN
            or (
                fault is not Fault.NONE
                and stages.index(stage_of_fault(0, round_, c)) <= stages.index(Stage.UPLOAD)
            )
        }
        after = {c for c, fault in faulty.items() if fault is not Fault.NONE} - before
        if len(cohort) - len(before | after) < needed:
            assert (row["clients"], row["failures"]) == (0, 10)
            assert row["failure-reasons"][-1].startswith("no sum: ")
        else:
            assert (row["clients"], row["failures"]) == (10 - len(before), len(before))
            assert [int(r.split()[1][:-1]) for r in row.get("failure-reasons", [])] == sorted(before)
            summed += 1
    assert summed > 2


def test_when_all_rounds_have_no_sum_the_model_stays_and_the_run_is_completed() -> None:
    run = fedsim.run(tiny("faults.dropout=1.0", "rounds=2"))
    assert [(row["clients"], row["failures"]) for row in run.rows] == [(0, 10)] * 2
    assert run.status == "completed"
    assert run.rows[0]["loss"] == run.rows[1]["loss"]
    assert "train-loss" not in run.rows[0]


def test_each_poisson_cohort_has_its_own_threshold() -> None:
    setting = (
        "server.sampling=poisson",
        "server.cohort=4",
        "privacy.secagg.dropout=0.3",
        "faults.dropout=0.0",
    )
    run = fedsim.run(tiny(*setting, "rounds=12"))
    sizes = [row["clients"] + row["failures"] for row in run.rows]
    assert len(set(sizes)) > 3
    assert min(sizes) < 3 < max(sizes)
    for row, size in zip(run.rows, sizes, strict=True):
        assert row["clients"] == (size if size >= 3 else 0)


# --- what it says of itself --------------------------------------------------------------------------------


def test_the_manifest_says_what_is_protected_and_on_which_assumptions() -> None:
    said = fedsim.run(tiny("rounds=1"), "real").manifest["secure-aggregation"]
    assert said["mode"].startswith("real: ")
    assert (said["graph"], said["neighbours"], said["threshold"], said["least-clients"]) == (
        "complete",
        9,
        5,
        5,
    )
    assert (said["assumed-corrupt"], said["assumed-dropout"], said["adversary"]) == (0.1, 0.5, "semi-honest")
    assert said["bits"] == 20  # ceil(log2(2 * 10 * (2^15 - 1) + 1))
    assert said["honest-minimum"] == 4
    assert "learn one sum" in said["claim"]
    assert any("crafted" in line for line in said["not-claimed"])
    ideal = fedsim.run(tiny("rounds=1", IDEAL), "ideal").manifest["secure-aggregation"]
    assert ideal["mode"].startswith("unprotected: ")
    assert ideal["claim"] == "none"


def test_the_share_of_clipped_coordinates_is_reported() -> None:
    rows = [
        fedsim.run(tiny("rounds=1", f"privacy.secagg.clip={clip}"), f"c-{clip}").rows[0]
        for clip in (1.0, 1e-4)
    ]
    assert rows[0]["secagg-clipped"] == 0.0
    assert rows[1]["secagg-clipped"] > 0.5


def test_a_clip_that_cuts_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SCAFFOLD's fields too: what is cut of them is counted with the model."""
    for name in ("fedavg", "scaffold"):
        caplog.clear()
        overrides = ["privacy.secagg.clip=0.001", "server.weighting=uniform", f"algorithm.name={name}"]
        run = fedsim.run(Experiment.from_toml(TINY, overrides), tmp_path / name)
        told = [message for message in caplog.messages if "privacy.secagg.clip = 0.001: cut" in message]
        assert len(told) == 1
        assert told[0].endswith("try 0.002")
        assert all(row["secagg-clipped"] > 0.01 for row in run.rows)
    caplog.clear()
    fedsim.run(Experiment.from_toml(TINY, ["privacy.secagg.clip=50.0", "rounds=1"]), tmp_path / "wide")
    assert not [message for message in caplog.messages if "cut" in message]


def test_input_bits_that_round_much_are_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The bits to try are enough: with them nothing is told."""
    settings = ["rounds=2", "server.weighting=uniform"]
    fedsim.run(Experiment.from_toml(TINY, [*settings, "privacy.secagg.input-bits=6"]), tmp_path / "few")
    told = [message for message in caplog.messages if "privacy.secagg.input-bits = 6: rounding" in message]
    assert len(told) == 1
    caplog.clear()
    more = told[0].rpartition("try ")[2]
    fedsim.run(
        Experiment.from_toml(TINY, [*settings, f"privacy.secagg.input-bits={more}"]), tmp_path / "enough"
    )
    assert not [message for message in caplog.messages if "rounding" in message]


def test_a_round_in_which_all_clients_refuse_ends_the_run(tmp_path: Path) -> None:
    """They diverge at once, and what is NaN can't be summed: a model that was never trained is no result."""
    setting = ["faults.dropout=0", "client.learning-rate=1e30"]
    with pytest.raises(
        fedsim.RunFailed, match="round 1: all 10 clients refused, and the model stays as it was"
    ):
        fedsim.run(Experiment.from_toml(TINY, setting), tmp_path / "run")


# --- with differential privacy ------------------------------------------------------------------------------


def private(*overrides: str) -> Experiment:
    return Experiment.from_toml(TINY + DP, overrides)


class Ledgers(SequentialGrid):
    """A Grid that keeps the clients' states as their checkpoints have them."""

    states: dict[int, RecordDict] = {}  # noqa: RUF012

    def changed_states(self) -> dict[int, RecordDict]:
        changed = super().changed_states()
        self.states.update(changed)
        return changed

    @classmethod
    def events(cls) -> dict[int, list[DpSgdEvent]]:
        """Return the events of each client's own ledger."""
        ledgers = {client: state.config_records["ledger"] for client, state in cls.states.items()}
        return {
            client: [DpSgdEvent.loads(str(text)) for text in ledger["events"]]  # type: ignore[union-attr]
            for client, ledger in ledgers.items()
        }


@pytest.fixture
def ledgers() -> Iterator[type[Ledgers]]:
    Ledgers.states.clear()
    yield Ledgers
    Ledgers.states.clear()


def test_clients_keep_ledgers_and_the_server_charges_the_same_to_those_it_asks(
    ledgers: type[Ledgers],
) -> None:
    setting = Experiment.from_toml(TINY + DP.replace("max-participations = 3", ""), ["faults.dropout=0.3"])
    run = run_over(ledgers, setting, "run")
    asked: dict[int, list[DpSgdEvent]] = {}
    for event in events_of(run):
        asked.setdefault(event.client, []).append(event)
    own = ledgers.events()
    assert sum(map(len, own.values())) > 15
    for client, events in own.items():
        assert [e for e in asked[client] if e.round in {mine.round for mine in events}] == events
    charged_only = sum(map(len, asked.values())) - sum(map(len, own.values()))
    assert 0 < charged_only < 10  # those that were lost when they were asked to train


def test_no_client_is_charged_beyond_its_participations() -> None:
    overrides = ("server.cohort=14", "faults.dropout=0.0", "rounds=4", "privacy.dp-sgd.max-participations=2")
    run = fedsim.run(private(*overrides))
    assert Ledger(events_of(run)).participations() == dict.fromkeys(range(14), 2)
    assert [row["clients"] for row in run.rows] == [14, 14, 0, 0]
    said = run.manifest["epsilon"]["known-cohort"]
    assert said["spent"] <= said["epsilon"]


def test_with_the_systems_noise_no_loss_is_summed_and_a_round_in_flight_is_paid_and_abandoned(
    ledgers: type[Ledgers], monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = private("privacy.noise=os", "faults.dropout=0.0", "server.cohort=14")
    with monkeypatch.context() as patch:
        fail_in(patch, "aggregation", 2)
        with pytest.raises(Killed):
            fedsim.run(setting, "run")
    run = run_over(ledgers, setting, "run", resume=True)
    assert [row.get("abandoned", False) for row in run.private_rows] == [False, True, False, False]
    assert [event.round for event in events_of(run)] == [1] * 14 + [2] * 14 + [3] * 14
    assert [row["clients"] for row in run.private_rows] == [
        14,
        0,
        14,
        0,
    ]  # the third was the last participation
    assert not any("train-loss" in row for row in run.private_rows)
    assert ledgers.events().keys() == set(range(14))
    for client, own in ledgers.events().items():
        assert own == [event for event in events_of(run) if event.client == client]


# --- killed and resumed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [TINY, TINY + DP], ids=["plain", "dp-sgd"])
def test_killed_between_rounds_it_ends_with_the_same_bits_in_new_sessions(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[str] = []
    begin = SecureGrid._begin

    def noting(self: SecureGrid, *args: Any) -> Any:
        session = begin(self, *args)
        sessions.append(session.spec.session)
        return session

    monkeypatch.setattr(SecureGrid, "_begin", noting)
    setting = Experiment.from_toml(text)
    all_bits = private_bits if text != TINY else bits
    reference = all_bits(fedsim.run(setting, "whole"))
    assert all_bits(fedsim.resume(stopped(setting, "parts"))) == reference
    assert len(set(sessions)) == len(sessions) == 8


@pytest.mark.slow
@pytest.mark.parametrize("stage", [Stage.SHARE, Stage.UPLOAD, Stage.UNMASK])
def test_killed_within_a_round_it_ends_with_the_same_bits(stage: Stage) -> None:
    class Dying(SequentialGrid):
        send_and_fold = None  # type: ignore[assignment]

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            requests = list(messages)
            asked = record_of_stage(requests[0])
            if asked is not None and asked[:2] == (2, stage):
                raise Killed
            return super().push_messages(requests)

    setting = Experiment.from_toml(TINY + DP, ["rounds=3"])
    reference = private_bits(fedsim.run(setting, "whole"))
    with pytest.raises(Killed):
        run_over(Dying, setting, "parts")
    assert len(fedsim.load_run("parts").rows) == 1
    assert private_bits(fedsim.resume("parts")) == reference


def test_no_secret_is_in_any_file_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def files_with_secrets(path: Path) -> list[str]:
        return [file.name for file in path.rglob("*") if file.is_file() and b'"secrets"' in file.read_bytes()]

    setting = tiny("faults.dropout=0.4", "privacy.secagg.dropout=0.6")
    run = fedsim.run(setting, "run")
    assert any("stage 'upload'" in line for row in run.rows for line in row["failure-reasons"])
    assert (run.path / "checkpoint" / "clients.sqlite").exists()
    assert files_with_secrets(run.path) == []
    monkeypatch.setattr(checkpoint, "_without_secrets", lambda state: state)
    assert files_with_secrets(fedsim.run(setting, "control").path) == ["clients.sqlite"]
