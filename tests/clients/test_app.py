import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from fedsim import Experiment
from fedsim.clients.app import app
from fedsim.data import prepare
from fedsim.models import initial_model
from fedsim.runtime import AppSpec
from fedsim.runtime.spec import acting_as, node_id
from fedsim.tasks.scoring import score
from tests.support.tasks import task_of

QUICKSTART = Experiment(client={"learning-rate": 0.3, "epochs": 2})


def trained(client: int, threads: int = 1, **config: bool | float) -> Message:
    """Let a client answer a train message as Flower's own engines do, on a number of threads."""
    spec = AppSpec(50, dict(QUICKSTART.to_run_config()))
    model = initial_model(QUICKSTART, task_of(QUICKSTART))
    content = RecordDict(
        {"arrays": ArrayRecord(model.state_dict()), "config": ConfigRecord({"server-round": 1, **config})}
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with acting_as(1):
            return app(Message(content, node_id(client), MessageType.TRAIN), spec.context(client))
    finally:
        torch.set_num_threads(before)


def weights(reply: Message) -> bytes:
    return b"".join(array.numpy().tobytes() for array in reply.content.array_records["arrays"].values())


def test_a_clients_bits_depend_neither_on_threads_nor_on_earlier_clients() -> None:
    first = weights(trained(3))
    assert weights(trained(13)) != first
    assert weights(trained(3, threads=2)) == first


def test_the_reply_says_how_many_examples_there_were_and_the_loss() -> None:
    data, task = prepare(QUICKSTART), task_of(QUICKSTART)
    metrics = dict(trained(7, **{"initial-loss": True}).content.metric_records["metrics"])
    assert metrics["num-examples"] == len(data.client(7).train)
    assert metrics["initial-loss"] == score(initial_model(QUICKSTART, task), task, data.client(7).train).loss
    assert set(metrics) == {"num-examples", "initial-loss", "train-loss"}
    assert np.isfinite(metrics["train-loss"])


def test_the_messages_proximal_term_overrules_the_experiments() -> None:
    assert weights(trained(3, **{"proximal-mu": 0.0})) == weights(trained(3))
    assert weights(trained(3, **{"proximal-mu": 1.0})) != weights(trained(3))
