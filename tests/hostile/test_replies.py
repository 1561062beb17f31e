"""A hostile or broken client is one failed client: its run is that of the others."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict

import fedsim
from fedsim import Experiment
from fedsim.errors import printable
from fedsim.flower.wire_message import WireMessage
from fedsim.runtime import AppSpec
from fedsim.runtime.spec import acting_as, node_id
from fedsim.server.deployed_grid import _opened
from fedsim.server.enrolment import Enrolment
from tests.conftest import experiment
from tests.hostile.behaviours import (
    ADVERTISE,
    ENROLMENT,
    EVALUATION,
    EVENTS,
    LEDGERS,
    STAGE,
    TRAINING,
    Behaviour,
    dropped,
)
from tests.hostile.grid import Hostile, HostileGrid, run_with
from tests.support.runs import bits

SMALL = ("rounds=2", "client.epochs=1", "model.name=linear")
LOCAL = "privacy.local-dp={noise-multiplier=1.0, delta=1e-3, clip=0.5}"


def crowd(behaviours: Mapping[str, Behaviour], *overrides: str) -> tuple[Experiment, dict[int, Behaviour]]:
    """Return an experiment in which all clients train, a hostile one of each kind among them, and three honest ones."""
    clients = len(behaviours) + 3
    setting = experiment(f"data.clients={clients}", f"server.cohort={clients}", *SMALL, *overrides)
    return setting, dict(enumerate(behaviours.values(), start=1))


def all_dropped(hostile: Hostile) -> Hostile:
    """Return the same clients, of which each drops out."""
    return dict.fromkeys(hostile, dropped)


def seen(run: fedsim.Run) -> Any:
    """Return what is the same if clients have dropped out: the model, and the rows but for reasons and bytes."""
    model, rows = bits(run)
    other = ("failure-reasons", "secagg-bytes")
    return model, [{k: v for k, v in row.items() if not k.startswith(other)} for row in rows]


def check_lines(run: fedsim.Run, hostile: Hostile, caplog: pytest.LogCaptureFixture) -> None:
    """Check that each hostile client has failed, with a reason of one short line."""
    for row in run.rows:
        reasons = row["failure-reasons"]
        assert {reason.split(":")[0] for reason in reasons} == {f"client {client}" for client in hostile}
        assert all(reason.isprintable() and len(reason) <= 312 for reason in reasons)
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("fedsim")]
    assert all(line.isprintable() and len(line) <= 400 for line in ours)


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
def test_hostile_updates_are_failed_clients(strategy: str, caplog: pytest.LogCaptureFixture) -> None:
    setting, hostile = crowd(TRAINING, f"server.strategy={strategy}")
    run = run_with(hostile, setting, "run")
    check_lines(run, hostile, caplog)
    assert seen(run) == seen(run_with(all_dropped(hostile), setting, "without"))


def test_hostile_events_are_failed_clients_that_are_charged_what_was_planned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setting, hostile = crowd({**LEDGERS, **EVENTS}, LOCAL)
    run, honest = run_with(hostile, setting, "run"), run_with({}, setting, "honest")
    check_lines(run, hostile, caplog)
    assert (run.path / "ledger.jsonl").read_bytes() == (honest.path / "ledger.jsonl").read_bytes()
    assert run.manifest["epsilon"] == honest.manifest["epsilon"]


def test_hostile_evaluations_are_missing_ones(caplog: pytest.LogCaptureFixture) -> None:
    setting, hostile = crowd(EVALUATION, "data.held-out=0.2", "server.client-evaluation=all")
    run = run_with(hostile, setting, "run", "evaluate")
    told = [line for r in caplog.records if ": evaluate: client" in (line := r.getMessage())]
    assert len(told) == len(run.rows) * len(hostile)
    assert all(line.isprintable() and len(line) <= 350 for line in told)
    assert seen(run) == seen(run_with(all_dropped(hostile), setting, "without", "evaluate"))


class Asked(HostileGrid):
    """A Grid that doesn't know its clients, and asks them."""

    client_nodes = None  # type: ignore[assignment]


@pytest.mark.parametrize("behaviour", ENROLMENT.values(), ids=ENROLMENT)
def test_a_node_with_a_hostile_identity_does_not_take_part(
    behaviour: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    grid = Asked(AppSpec(3, {}, "tests.support.apps:drifting"), {1: behaviour}, "query")
    assert Enrolment(grid, 3).nodes == {0: node_id(0), 2: node_id(2)}
    (told,) = [
        record.getMessage() for record in caplog.records if "does not take part" in record.getMessage()
    ]
    assert told.isprintable()
    assert len(told) < 400


@pytest.mark.parametrize(
    ("stage", "mode"),
    [("advertise", "real"), ("share", "real"), ("upload", "real"), ("upload", "ideal")],
)
def test_hostile_replies_before_the_sum_are_lost_clients(
    stage: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = {**STAGE, **ADVERTISE} if stage == "advertise" else STAGE
    if mode == "ideal":  # which has no signatures: what has the size of a vector is one
        kinds = {name: kind for name, kind in STAGE.items() if name not in ("one bit", "zeros", "ones")}
    setting, hostile = secure(kinds, mode)
    run = run_with(hostile, setting, "run", stage=stage)
    check_lines(run, hostile, caplog)
    assert seen(run) == seen(run_with(all_dropped(hostile), setting, "without", stage=stage))


def test_a_hostile_reply_after_the_upload_leaves_the_client_in_the_sum() -> None:
    setting, hostile = secure(STAGE)
    run = run_with(hostile, setting, "run", stage="unmask")
    assert bits(run)[0] == bits(run_with({}, setting, "honest"))[0]


def secure(
    behaviours: Mapping[str, Behaviour], mode: str = "real"
) -> tuple[Experiment, dict[int, Behaviour]]:
    """Return an experiment with secure aggregation, a hostile client of each kind, and as many honest ones and three."""
    clients = 2 * len(behaviours) + 3  # a threshold of them is left
    section = f"privacy.secagg={{dropout=0.5, corrupt=0.0, mode='{mode}'}}"
    setting = experiment(
        f"data.clients={clients}",
        f"server.cohort={clients}",
        *SMALL[1:],
        "rounds=1",
        "server.weighting=uniform",
        section,
    )
    return setting, dict(enumerate(behaviours.values(), start=1))


# --- the wire -----------------------------------------------------------------------------------------------


def test_a_reply_in_the_name_of_another_client_is_a_failure_of_its_own() -> None:
    """The server checks a reply's head alone, which may differ from the message that it stands for."""

    def wire(node: int) -> WireMessage:
        with acting_as(1):
            request = Message(RecordDict(), node, "train")
        with acting_as(node):
            return WireMessage.encode([Message(RecordDict(), reply_to=request)])[0]

    own, others = wire(7), wire(8)
    opened = _opened(WireMessage(own.head, others.tree, others.contents))
    assert (opened.metadata.src_node_id, opened.has_error()) == (7, True)


def test_a_text_is_printed_as_one_short_line() -> None:
    assert printable("a\x1b[2J\nb\u202e\ud800é") == "a\\x1b[2J\\nb\\u202e\\ud800é"
    assert printable("x" * 10**6) == "x" * 297 + "..."
    assert len(printable("\n" * 10**6)) == 300
    assert printable("x" * 300) == "x" * 300


def test_rows_are_json(tmp_path: Path) -> None:
    run = run_with({1: TRAINING["an error that forges the log"]}, experiment(*SMALL), tmp_path / "run")
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["failures"] for line in lines] == [1, 1]
    assert len(lines[0]) < 2000
