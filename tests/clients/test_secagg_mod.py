"""The client's mod for secure aggregation: its replies, what it never sends, and its state."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from fedsim.clients.mods.secagg import Participant, secure
from fedsim.privacy.secagg.ideal import IdealServer
from fedsim.privacy.secagg.server import ServerSession
from fedsim.privacy.secagg.spec import Stage
from fedsim.runtime.spec import acting_as
from fedsim.secagg.messages import RECORD, REFUSED, ROUNDS, body_of, request, task_of
from tests.support.secagg_apps import POLICY, update_of

RUN = "7"
SECRET = "the loss is 0.123"


@pytest.fixture(autouse=True)
def _as_server() -> Iterator[None]:
    with acting_as(1):
        yield


class Client:
    """One client behind the mod, with a ClientApp that can misbehave."""

    def __init__(self, number: int, mode: str = "real") -> None:
        self.number = number
        self.context = Context(int(RUN), number, {}, RecordDict(), {})
        policy = POLICY if mode == "real" else type(POLICY)(**{**vars(POLICY), "mode": "ideal"})
        self.mod = secure(lambda context: Participant(policy=policy, number=number, run=RUN))
        self.trained = 0
        self.reply: Any = None  # what the app makes of its reply

    def app(self, message: Message, context: Context) -> Message:
        self.trained += 1
        assert sorted(message.content) == ["arrays", "config"]  # as without secure aggregation
        w = message.content.array_records["arrays"]["w"].numpy() + update_of(self.number)
        content = RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(w)}),
                "metrics": MetricRecord({"num-examples": 3, "train-loss": 0.123}),
                "ledger": ConfigRecord({"events": ["an event"]}),
            }
        )
        reply = Message(content, reply_to=message)
        return reply if self.reply is None else self.reply(reply)

    def ask(self, content: RecordDict) -> Message:
        return self.mod(Message(content, self.number, "train"), self.context, self.app)


def model(value: float = 0.0) -> RecordDict:
    return RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.full(3, value, np.float32))}),
            "config": ConfigRecord({"server-round": 1}),
        }
    )


class Federation:
    """Clients and a server, stage by stage."""

    def __init__(self, mode: str = "real", clients: int = 4) -> None:
        self.mode = mode
        self.clients = {number: Client(number, mode) for number in range(clients)}
        self.begin(1)

    def begin(self, round_: int, run: str = RUN, session: str = "ab" * 32) -> None:
        policy = type(POLICY)(**{**vars(POLICY), "mode": self.mode})
        spec = policy.spec(
            run=run, round_=round_, session=session, clients=len(self.clients), task=task_of(model())
        )
        self.round_ = round_
        self.server: Any = (ServerSession if self.mode == "real" else IdealServer)(spec, list(self.clients))

    def requests(self, content: RecordDict | None = None) -> dict[int, RecordDict]:
        """Return the messages of the present stage."""
        stage = self.server.stage
        told = (content or model()) if stage is Stage.UPLOAD else None
        return {
            client: request(self.round_, stage, body, told) for client, body in self.server.requests().items()
        }

    def stages(self, until: Stage | None = None) -> Iterator[Stage]:
        """Yield the present stage for its replies to come in, and close it after that."""
        played = 0
        while (stage := self.server.stage) is not until:
            assert stage is not None
            assert played < 100, f"the round doesn't get past {stage}"
            yield stage
            self.server.close_stage()
            played += 1

    def play(self, until: Stage | None = None) -> None:
        for _ in self.stages(until):
            for client, content in self.requests().items():
                self.server.receive(client, body_of(self.clients[client].ask(content)))


def refused(reply: Message) -> bool:
    """Say whether a reply is the one that says nothing."""
    return (
        reply.has_error()
        and (reply.error.code, reply.error.reason) == (ErrorCode.MOD_FAILED_PRECONDITION, REFUSED)
        and not reply.has_content()
    )


@pytest.mark.parametrize("mode", ["real", "ideal"])
def test_a_round_gives_the_mean_and_the_app_trains_once(mode: str) -> None:
    round_ = Federation(mode)
    round_.play()
    decoded = round_.server.spec.encoding.decode(round_.server.total(), 4)
    expected = np.mean([update_of(client) for client in range(4)], axis=0)
    np.testing.assert_allclose(decoded.update, expected, atol=1e-3)
    assert (decoded.weight, round(decoded.metrics["train-loss"], 5)) == (12, 0.123)
    for client in round_.clients.values():
        assert client.trained == 1
        assert RECORD not in client.context.state  # the session is over, and its secrets are gone
        assert dict(client.context.state.config_records[ROUNDS]) == {RUN: 1}
        assert list(client.context.state.config_records["ledger"]["events"]) == ["an event"]  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["real", "ideal"])
def test_nothing_leaves_but_the_protocols_bytes(mode: str) -> None:
    round_ = Federation(mode)
    sizes: dict[Stage, set[int]] = {}
    for stage in round_.stages():
        for client, content in round_.requests().items():
            reply = round_.clients[client].ask(content)
            assert list(reply.content) == [RECORD]
            assert list(reply.content[RECORD]) == ["body"]
            assert isinstance(reply.content[RECORD]["body"], bytes)
            sizes.setdefault(stage, set()).add(len(body_of(reply)))
            round_.server.receive(client, body_of(reply))
    assert all(len(alike) == 1 for alike in sizes.values())  # no length tells anything either


def test_a_plain_train_message_is_never_answered() -> None:
    client = Client(0)
    assert refused(client.ask(model()))
    assert client.trained == 0
    broken = model()
    broken[RECORD] = ConfigRecord({"stage": "upload"})
    assert refused(client.ask(broken))
    broken[RECORD] = ConfigRecord({"stage": "uplaod", "round": 1, "body": b""})
    assert refused(client.ask(broken))
    assert client.trained == 0


def test_clients_without_secure_aggregation_train_as_usual() -> None:
    client = Client(0)
    mod = secure(lambda context: None)
    assert mod(Message(model(), 0, "train"), client.context, client.app).has_content()


def raising(reply: Message) -> Message:
    raise KeyError(SECRET)


def failing(reply: Message) -> Message:
    from flwr.app import Error

    return Message(Error(0, SECRET), reply_to=reply)


def with_arrays(values: np.ndarray, name: str = "w") -> Any:
    def change(reply: Message) -> Message:
        reply.content["arrays"] = ArrayRecord({name: Array(values)})
        return reply

    return change


def with_metrics(**metrics: float) -> Any:
    def change(reply: Message) -> Message:
        reply.content["metrics"] = MetricRecord(
            {name.replace("_", "-"): value for name, value in metrics.items()}
        )
        return reply

    return change


@pytest.mark.parametrize(
    "reply",
    [
        raising,
        failing,
        with_arrays(np.array([0, np.nan, 0], np.float32)),
        with_arrays(np.array([0, np.inf, 0], np.float32)),
        with_arrays(np.zeros(4, np.float32)),
        with_arrays(np.zeros(3, np.float64)),
        with_arrays(np.zeros(3, np.float32), "v"),
        with_metrics(num_examples=17, train_loss=0.1),
        with_metrics(num_examples=0, train_loss=0.1),
        with_metrics(num_examples=3),
        with_metrics(num_examples=3, train_loss=float("nan")),
        with_metrics(num_examples=3, train_loss=1e12),
    ],
)
def test_whatever_goes_wrong_in_training_the_answer_is_the_same(
    reply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    round_ = Federation()
    round_.play(until=Stage.UPLOAD)
    client = round_.clients[2]
    client.reply = reply
    answer = client.ask(round_.requests()[2])
    assert refused(answer)
    assert SECRET not in str(answer)
    assert client.trained == 1
    assert RECORD not in client.context.state
    assert "client 2 refuses" in caplog.text  # the client's own log says why
    if reply in (raising, failing):
        assert SECRET in caplog.text
    # It does not try again, in this round.
    client.reply = None
    assert refused(client.ask(round_.requests()[2]))
    assert client.trained == 1


def test_another_model_than_the_others_have_is_refused() -> None:
    round_ = Federation()
    round_.play(until=Stage.UPLOAD)
    assert refused(round_.clients[1].ask(round_.requests(model(1e-6))[1]))
    changed = model()
    changed.config_records["config"]["proximal-mu"] = 0.5
    assert refused(round_.clients[2].ask(round_.requests(changed)[2]))
    assert not refused(round_.clients[3].ask(round_.requests()[3]))


def test_a_client_uploads_once_in_a_round_and_never_in_an_older_one() -> None:
    round_ = Federation()
    round_.begin(5)
    round_.play(until=Stage.UPLOAD)
    again = round_.requests()
    client = round_.clients[0]
    assert not refused(client.ask(round_.requests()[0]))
    assert refused(client.ask(again[0]))  # the same request once more
    for old in (5, 4):
        round_.begin(old, session="cd" * 32)
        assert refused(client.ask(round_.requests()[0]))
    round_.begin(6)
    assert not refused(client.ask(round_.requests()[0]))
    assert client.trained == 1


def test_a_round_is_begun_once_and_the_next_one_with_new_keys() -> None:
    round_ = Federation()
    round_.play(until=Stage.UPLOAD)
    client = round_.clients[0]
    before = client.context.state[RECORD]["session"]
    round_.begin(1, session="cd" * 32)
    assert refused(client.ask(round_.requests()[0]))
    assert RECORD not in client.context.state
    round_.begin(2, session="cd" * 32)
    round_.play()
    assert client.trained == 1
    assert before not in [record.get("session") for record in client.context.state.values()]


def test_rounds_of_another_run_are_refused() -> None:
    round_ = Federation()
    round_.begin(1, run="8")
    assert refused(round_.clients[0].ask(round_.requests()[0]))
    round_.begin(1)
    round_.round_ = 2  # says the message, and the specification says 1
    assert refused(round_.clients[0].ask(round_.requests()[0]))


def test_a_stage_out_of_order_ends_the_session() -> None:
    round_ = Federation()
    round_.play(until=Stage.UPLOAD)
    client = round_.clients[0]
    assert refused(client.ask(request(1, Stage.UNMASK, b"\x0f")))
    assert RECORD not in client.context.state
    assert refused(client.ask(round_.requests()[0]))
    assert client.trained == 0


def test_before_the_first_stage_there_is_nothing_to_ask() -> None:
    client = Client(0)
    for stage in set(Stage) - {Stage.ADVERTISE}:
        content = model() if stage is Stage.UPLOAD else None
        assert refused(client.ask(request(1, stage, b"", content)))
    assert client.trained == 0


def test_the_hash_of_the_task_covers_all_that_is_sent() -> None:
    seen = {task_of(model())}
    changes = [
        lambda c: c.array_records["arrays"].update(w=Array(np.full(3, 1e-38, np.float32))),
        lambda c: c.array_records["arrays"].update(w=Array(np.zeros(3, np.float64))),
        lambda c: c.array_records["arrays"].update(w=Array(np.zeros((3, 1), np.float32))),
        lambda c: c.array_records["arrays"].update(v=Array(np.zeros(3, np.float32))),
        lambda c: c.config_records["config"].update({"server-round": 2}),
        lambda c: c.config_records["config"].update({"server-round": 1.0}),
        lambda c: c.config_records["config"].update({"server-round": True}),
        lambda c: c.config_records["config"].update({"server-round": "1"}),
        lambda c: c.config_records["config"].update({"x": [1, 2]}),
        lambda c: c.config_records["config"].update({"x": [1.0, 2.0]}),
        lambda c: c.update(more=MetricRecord({"x": 1})),
    ]
    for change in changes:
        content = model()
        change(content)  # type: ignore[no-untyped-call]
        seen.add(task_of(content))
    assert len(seen) == len(changes) + 1
    content = model()
    content[RECORD] = ConfigRecord({"body": b"x"})  # the protocol's own is not part of it
    assert task_of(content) == task_of(model())
