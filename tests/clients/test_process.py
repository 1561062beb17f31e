"""A client process: its data, its ledger, and what it refuses to a server on another machine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict

from fedsim import Experiment
from fedsim.clients.app import app
from fedsim.data import prepare
from fedsim.data.spec import SPEC
from fedsim.mechanisms import loads
from fedsim.models import initial_model
from fedsim.runtime.spec import SERVER_NODE_ID, acting_as, answer, node_id
from fedsim.training import plan_of, training_of
from tests.support.tasks import task_of

CLIENT = 3
LOCAL_DP = """
    [data]
    clients = 5
    partition = "iid"
    [model]
    name = "linear"
    [privacy.local-dp]
    noise-multiplier = 2.0
    clip = 1.0
    delta = 1e-5
    [server]
    cohort = 5
    weighting = "uniform"
"""
PLAIN = LOCAL_DP.replace("[privacy.local-dp]", "").split("noise-multiplier")[0] + "[server]\ncohort = 5"


def place(experiment: Experiment, series: int = 7, **config: Any) -> Context:
    """Return the context of a client process, whose state directory is `state`."""
    deployed = {"deployed": True, "state": str(Path("state").absolute()), "loopback": True, **config}
    node = {"partition-id": CLIENT, "num-partitions": 5, **deployed}
    return Context(1, node_id(CLIENT), node, RecordDict(), dict(experiment.to_run_config()), series_id=series)


def train(experiment: Experiment, context: Context, round_: int = 1, **config: Any) -> Message:
    model = initial_model(experiment, task_of(experiment))
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "config": ConfigRecord({"server-round": round_, **config}),
        }
    )
    with acting_as(SERVER_NODE_ID):
        message = Message(content, node_id(CLIENT), MessageType.TRAIN)
    return answer(app, message, context)


def query(context: Context, content: RecordDict) -> Message:
    with acting_as(SERVER_NODE_ID):
        message = Message(content, node_id(CLIENT), MessageType.QUERY)
    return answer(app, message, context)


def weights(reply: Message) -> bytes:
    return b"".join(array.numpy().tobytes() for array in reply.content.array_records["arrays"].values())


def test_a_client_trains_on_its_own_file_as_on_the_same_examples_dealt_to_it() -> None:
    dealt = Experiment.from_toml(PLAIN)
    data = prepare(dealt)
    share = data.client(CLIENT).train
    assert share.y is not None
    np.savez("own.npz", x=share.x, y=share.y)
    np.savez("test.npz", x=data.test.x, y=data.test.y)
    brought = Experiment.from_toml(PLAIN, ["data.source=own", "data.path=test.npz", "data.classes=10"])
    context = place(brought, data=str(Path("own.npz").absolute()))
    asked = query(context, RecordDict({SPEC: ConfigRecord({"spec": prepare(brought).spec.dumps()})}))
    assert asked.content.config_records["identity"]["client"] == CLIENT
    reply, reference = train(brought, context), train(dealt, place(dealt))
    assert weights(reply) == weights(reference)
    assert dict(reply.content.metric_records["metrics"]) == dict(reference.content.metric_records["metrics"])


@pytest.mark.parametrize(
    ("source", "own", "error"),
    [
        (("data.source=own", "data.path=test.npz", "data.classes=10"), "", "a client needs its own file"),
        ((), "own.npz", "data.source = 'digits': has the clients' data; with --data it must be 'own'"),
    ],
)
def test_whose_data_it_is_has_to_be_agreed_on(source: tuple[str, ...], own: str, error: str) -> None:
    np.savez("own.npz", x=np.zeros((2, 8, 8), np.float32), y=[0, 1])
    np.savez("test.npz", x=np.zeros((2, 8, 8), np.float32), y=[0, 1])
    experiment = Experiment.from_toml(PLAIN, source)
    reply = query(place(experiment, data=own), RecordDict())
    assert reply.has_error()
    assert error in reply.error.reason


def test_a_client_notes_what_it_releases_in_its_own_ledger_whatever_the_message_says() -> None:
    experiment = Experiment.from_toml(LOCAL_DP, ["privacy.noise=os"])
    Path("mine").touch()
    for series in (7, 8):
        context = place(experiment, series)
        for round_ in (1, 2):
            reply = train(experiment, context, round_, ledger=str(Path("mine").absolute()))
            assert not reply.has_error(), reply.error.reason
    assert Path("mine").read_text() == ""
    for series in (7, 8):
        events = [loads(line) for line in Path(f"state/ledgers/{series}.jsonl").read_text().splitlines()]
        assert [(event.round, event.client) for event in events] == [(1, CLIENT), (2, CLIENT)]


def test_seeded_noise_is_for_a_server_on_this_machine() -> None:
    experiment = Experiment.from_toml(LOCAL_DP)
    assert not train(experiment, place(experiment)).has_error()
    reply = train(experiment, place(experiment, loopback=False))
    assert reply.has_error()
    assert "privacy.noise = 'seeded'" in reply.error.reason
    assert not Path("state/ledgers/7.jsonl").read_text().count("\n") > 1


def test_a_seeded_round_that_is_run_again_counts_once_and_one_with_real_noise_twice() -> None:
    for noise, second in (("seeded", False), ("os", True)):
        limit = [f"privacy.noise={noise}", "privacy.local-dp.max-participations=1"]
        experiment = Experiment.from_toml(LOCAL_DP, limit)
        context = place(experiment)
        first, again = train(experiment, context), train(experiment, context)
        assert not first.has_error()
        assert again.has_error() is second
        if not second:
            assert weights(first) == weights(again)
        assert train(experiment, context, 2).has_error()


# --- noise that the server says -----------------------------------------------------------------------------

CALIBRATED = """
    rounds = 4
    [data]
    clients = 5
    partition = "iid"
    [model]
    name = "linear"
    [server]
    cohort = 5
    [privacy.dp-sgd]
    epsilon = 2.0
    delta = 1e-5
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [(), ("privacy.dp-sgd.adversary=released-models", "server.sampling=poisson")]
)
def test_a_client_process_refuses_less_noise_than_its_records_need(overrides: tuple[str, ...]) -> None:
    experiment = Experiment.from_toml(CALIBRATED, overrides)
    data = prepare(experiment)
    shapes = {"weight": (10, 64), "bias": (10,)}
    needed = plan_of(experiment, training_of(experiment, data.training_sizes(), shapes)).noise_multiplier
    reply = train(experiment, place(experiment), **{"noise-multiplier": needed})
    assert not reply.has_error()
    reply = train(experiment, place(experiment, series=8), **{"noise-multiplier": 0.98 * needed})
    assert reply.has_error()
    assert "above the experiment's 2.0" in reply.error.reason
    assert not Path("state/ledgers/8.jsonl").exists()


def test_a_simulated_client_takes_the_noise_that_its_own_process_calibrated() -> None:
    """It is the same machine's; the check takes a third of a second for each number of records."""
    experiment = Experiment.from_toml(CALIBRATED)
    node = {"partition-id": CLIENT, "num-partitions": 5}
    context = Context(1, node_id(CLIENT), node, RecordDict(), dict(experiment.to_run_config()))
    assert not train(experiment, context, **{"noise-multiplier": 0.5}).has_error()
