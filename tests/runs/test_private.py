"""Whole runs with DP-SGD: their bits, ledger, epsilon, and kills."""

import json
from pathlib import Path

import pytest

import fedsim
from fedsim import Experiment, Refused
from fedsim.data import prepare
from fedsim.privacy.accounting import KnownCohort, LocalSteps, ReleasedModels
from fedsim.privacy.dp_sgd.release import DpSgdEvent
from fedsim.privacy.events import Ledger
from fedsim.results.files import START
from fedsim.results.ledger import LedgerFile
from tests.support.runs import events_of
from tests.support.stopping import Killed, fail_in

DIGITS = """
name = "private"
rounds = 4
[data]
clients = 6
partition = "linear"
[model]
name = "cnn"
width = 0.125
[client]
batch-size = 16
learning-rate = 0.2
momentum = 0.5
proximal-mu = 0.01
[server]
cohort = 3
sampling = "poisson"
evaluate-every = 2
[privacy.dp-sgd]
noise-multiplier = 0.8
delta = 1e-4
[runtime]
engine = "sequential"
"""


def digits(*overrides: str) -> Experiment:
    return Experiment.from_toml(DIGITS, overrides)


@pytest.mark.slow
def test_the_ledger_says_what_was_done_and_epsilon_follows_from_it() -> None:
    run = fedsim.run(digits(), "run")
    events = events_of(run)
    by_round = {round_: [e.client for e in events if e.round == round_] for round_ in (1, 2, 3, 4)}
    assert [len(clients) for clients in by_round.values()] == [row["clients"] for row in run.rows]
    assert all(clients == sorted(clients) for clients in by_round.values())
    for event in events:
        assert event.rate == 16 / event.records
        assert event.steps == -(-event.records // 16)
        assert (event.noise_multiplier, event.sensitivity, event.noise) == (0.8, 1.0, "seeded")
    rows = run.rows
    assert ["epsilon-known-cohort" in row for row in rows] == [False, True, False, True]  # when evaluated
    for row in rows[1::2]:
        spent = Ledger(e for e in events if e.round <= row["round"]).spent_by_clients()
        epsilons = [
            KnownCohort(1, 1e-4).epsilon(LocalSteps(noise_multiplier=0.8, rate=r.rate, steps=steps)).best
            for r, steps in spent
        ]
        assert row["epsilon-known-cohort"] == max(epsilons)
        assert (row["delta"], row["unit"], row["relation"]) == (1e-4, "example", "zero-out")
    assert rows[1]["epsilon-released-models"] < rows[3]["epsilon-released-models"]
    said = run.manifest["epsilon"]
    worst = said["known-cohort"]["worst-client"]
    local = LocalSteps(noise_multiplier=0.8, rate=worst["sampling-rate"], steps=worst["steps-in-a-round"])
    assert said["known-cohort"]["epsilon"] == KnownCohort(4, 1e-4).epsilon(local).best
    assert (
        said["known-cohort"]["spent"] == rows[-1]["epsilon-known-cohort"] <= said["known-cohort"]["epsilon"]
    )
    assert said["released-models"]["epsilon"] == ReleasedModels(0.5, 4, 1e-4).epsilon(local).best


def test_no_epsilon_is_reported_without_its_terms() -> None:
    said = fedsim.run(digits("server.sampling=fixed"), "run").manifest["epsilon"]
    terms = {
        "who",
        "unit",
        "relation",
        "delta",
        "noise",
        "noise-multiplier",
        "worst-client",
        "participations",
    }
    assert terms <= said["known-cohort"].keys()
    assert "seed" in said["known-cohort"]["noise"]
    assert "epsilon" not in said["released-models"]
    assert "no theorem" in said["released-models"]["unavailable"]


@pytest.mark.slow
def test_under_add_or_remove_nothing_depends_on_the_number_of_records() -> None:
    overrides = (
        "privacy.dp-sgd.relation=add-or-remove-one",
        "privacy.dp-sgd.rate=0.1",
        "client.steps=3",
        "server.weighting=uniform",
        "rounds=2",
    )
    # Two ways to deal the records: each client has another number of them, and nothing says so.
    one, other = (
        fedsim.run(digits(*overrides, f"data.partition={name}"), name) for name in ("linear", "square")
    )
    sizes = [prepare(digits(f"data.partition={name}")).training_sizes() for name in ("linear", "square")]
    assert not set(sizes[0]) & set(sizes[1])
    assert {(e.rate, e.steps, e.relation) for e in events_of(one)} == {(0.1, 3, "add-or-remove-one")}
    assert {event.records for event in events_of(one)} == {None}
    assert (one.path / "ledger.jsonl").read_bytes() == (other.path / "ledger.jsonl").read_bytes()
    assert one.manifest["epsilon"] == other.manifest["epsilon"]
    spent = "epsilon-known-cohort", "epsilon-released-models", "sampling-rate", "dp-steps"
    assert [{key: run.rows[-1][key] for key in spent} for run in (one, other)] == [
        {key: one.rows[-1][key] for key in spent}
    ] * 2
    assert "protected" in one.manifest["epsilon"]["known-cohort"]["records"]
    # The control: under zero-out all of it says how many there are.
    public = [
        fedsim.run(digits(f"data.partition={name}", "rounds=1"), f"public-{name}")
        for name in ("linear", "square")
    ]
    assert public[0].manifest["epsilon"] != public[1].manifest["epsilon"]
    assert len({event.records for event in events_of(public[0])}) > 1


def test_under_add_or_remove_delta_is_compared_with_what_the_constants_tell() -> None:
    overrides = (
        "privacy.dp-sgd.relation=add-or-remove-one",
        "privacy.dp-sgd.rate=0.1",
        "client.steps=3",
        "server.weighting=uniform",
        "privacy.dp-sgd.delta=0.0011",
    )
    said = (
        r"delta = 0.0011: must be below 1 / \(clients x client.batch-size / privacy.dp-sgd.rate\) = 1 / 960"
    )
    with pytest.raises(Refused, match=said):  # 6 clients of 16 / 0.1 records; in fact they have 1438
        fedsim.run(digits(*overrides), "run")


def test_batches_are_truncated_and_accounted_for_as_truncated() -> None:
    run = fedsim.run(digits("privacy.dp-sgd.max-batch=20", "rounds=1"), "run")
    assert {(e.sampling, e.max_batch) for e in events_of(run)} == {("truncated-poisson", 20)}
    said = run.manifest["epsilon"]["known-cohort"]
    plain = fedsim.run(digits("rounds=1"), "plain").manifest["epsilon"]["known-cohort"]
    assert said["rdp"] is None
    assert said["epsilon"] > plain["epsilon"]


@pytest.mark.parametrize("kernel", ["fast", "opacus"])
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("averaging", r"1\.frozen changes in a pass forward"),
        ("centred", "examples meet before the loss"),
        ("dropping", "mat1 and mat2 shapes"),  # for inputs that the data does not have
    ],
)
def test_a_model_that_mixes_examples_is_refused_before_writing(model: str, reason: str, kernel: str) -> None:
    text = DIGITS.replace('name = "cnn"\nwidth = 0.125', f'name = "tests.support.models:{model}"')
    wide = ["model.width=2"] if model == "dropping" else []
    setting = Experiment.from_toml(text, [f"privacy.dp-sgd.kernel={kernel}", *wide])
    with pytest.raises(Refused, match=f"^model.name = 'tests.support.models:{model}': .*{reason}"):
        fedsim.run(setting, "run")
    assert not Path("run").exists()


# --- noise of the operating system ------------------------------------------------------------------------


@pytest.mark.slow
def test_with_the_systems_noise_a_round_that_was_cut_short_is_paid_for_and_abandoned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everybody = ("server.sampling=fixed", "server.cohort=6")  # else the coins that draw it are secret
    setting = digits("privacy.noise=os", *everybody, "privacy.dp-sgd.max-participations=4")
    with monkeypatch.context() as patch:
        fail_in(patch, "aggregation", 3)  # its clients have trained, and the noised values are here
        with pytest.raises(Killed):
            fedsim.run(setting, "run")
    before = fedsim.load_run("run").ledger.read_bytes()
    assert [DpSgdEvent.loads(line).round for line in before.splitlines()] == [1] * 6 + [2] * 6 + [3] * 6
    run = fedsim.resume("run")
    assert run.ledger.read_bytes().startswith(before)
    assert [row.get("abandoned", False) for row in run.private_rows] == [False, False, True, False]
    assert [event.round for event in events_of(run)] == [1] * 6 + [2] * 6 + [3] * 6 + [4] * 6
    assert run.rows[3]["epsilon-known-cohort"] > run.rows[1]["epsilon-known-cohort"]


def test_after_a_kill_clients_count_the_participations_that_no_checkpoint_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting = digits(
        "privacy.noise=os", "server.sampling=fixed", "server.cohort=6", "privacy.dp-sgd.max-participations=1"
    )
    with monkeypatch.context() as patch:
        fail_in(patch, "aggregation", 1)
        with pytest.raises(Killed):
            fedsim.run(setting, "run")
    with pytest.raises(fedsim.RunFailed, match=r"private/log.txt in its directory says why"):
        fedsim.resume("run")
    assert "has taken part in 1 rounds" in (Path("run") / "private" / "log.txt").read_text()


def test_half_a_line_of_a_client_that_was_killed_is_no_event(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    event = events_of(fedsim.run(digits("privacy.noise=os", "server.sampling=fixed", "rounds=1"), "run"))[0]
    file.write_text(event.dumps() + "\n" + event.dumps()[:40])
    reopened = LedgerFile(file, lasting=True)
    assert reopened.resume(reopened.position) == [event]
    assert file.read_text() == event.dumps() + "\n"
    file.write_text("{}\n")
    with pytest.raises(Refused, match=r"ledger.jsonl: is damaged"):
        LedgerFile(file, lasting=True).resume(START)


def test_the_ledger_is_json_that_anyone_can_read() -> None:
    run = fedsim.run(digits("rounds=1"), "run")
    line = json.loads(run.ledger.read_text().splitlines()[0])
    assert line["mechanism"] == "dp-sgd"
    assert line["sampling"] == "poisson"
