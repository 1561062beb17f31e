"""The Grid for secure aggregation: with failing clients, other Grids, and Flower's strategies."""

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg

from fedsim.privacy.secagg.spec import Policy, Stage
from fedsim.privacy.secagg.topology import Adversary, Assumptions
from fedsim.runtime import AppSpec, SequentialGrid
from fedsim.runtime.spec import node_id
from fedsim.secagg.messages import REFUSED
from fedsim.server.aggregation.replies import LATE
from fedsim.server.aggregation.secure_grid import Aggregate, SecureGrid
from tests.support.flower_fleet import flower_fleet
from tests.support.secagg_apps import POLICY, by_nodes, update_of

HEALTHY = [c for c in range(12) if c not in (5, 6, 8)]
IDEAL = dataclasses.replace(POLICY, mode="ideal")


class Plain(SequentialGrid):
    """A Grid as Flower's: replies come here, one by one."""

    send_and_fold = None  # type: ignore[assignment]


class Deaf(Plain):
    """A Grid over which some clients' replies never come, from a stage on."""

    deaf: tuple[Stage, set[int]] = (Stage.ADVERTISE, set())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        stage, clients = self.deaf
        listed = list(messages)
        reached = [
            message
            for message in listed
            if message.metadata.dst_node_id not in {node_id(client) for client in clients}
            or list(Stage).index(Stage(message.content["secagg"]["stage"])) < list(Stage).index(stage)
        ]
        lost = ["never answered"] if len(reached) < len(listed) else []
        return [*super().push_messages(reached), *lost]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return super().pull_messages([i for i in message_ids if i != "never answered"])


def grid_of(kind: type[SequentialGrid] = SequentialGrid, mode: str = "real") -> SequentialGrid:
    return kind(AppSpec(12, {"mode": mode}, "tests.support.secagg_apps:secured"))


def secure(grid: Grid, policy: Policy = POLICY, clients: int = 12) -> SecureGrid:
    return SecureGrid(grid, policy, nodes={client: node_id(client) for client in range(clients)})


def training(clients: Iterable[int], round_: int = 1, **config: Any) -> list[Message]:
    """Return train messages, as FedAvg makes them."""
    content = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.array([1.0, 2.0, 3.0], np.float32))}),
            "config": ConfigRecord({"server-round": round_, **config}),
        }
    )
    return [Message(content, node_id(client), "train") for client in clients]


def weights(result: Aggregate) -> np.ndarray:
    assert result.decoded is not None, result.why
    return np.array([1.0, 2.0, 3.0]) + result.decoded.update


def mean_of(clients: list[int]) -> np.ndarray:
    return np.array([1.0, 2.0, 3.0]) + np.average(
        [update_of(client) for client in clients], axis=0, weights=[client % 4 + 1 for client in clients]
    )


@pytest.mark.parametrize("policy", [POLICY, IDEAL], ids=["real", "ideal"])
@pytest.mark.parametrize("kind", [SequentialGrid, Plain])
def test_the_reply_is_the_weighted_mean_of_clients_that_did_not_fail(
    kind: type[SequentialGrid], policy: Policy
) -> None:
    result = secure(grid_of(kind, policy.mode), policy).aggregate(training(range(12)))
    np.testing.assert_allclose(weights(result), mean_of(HEALTHY), atol=1e-3)
    assert result.summed == HEALTHY
    assert result.lost == dict.fromkeys((5, 6, 8), f"lost at stage 'upload': {REFUSED}")
    total = sum(client % 4 + 1 for client in HEALTHY)
    decoded = result.decoded
    assert decoded is not None
    losses = sum((client % 4 + 1) * client / 8 for client in HEALTHY) / total
    assert decoded.weight == total
    assert decoded.metrics["train-loss"] == pytest.approx(losses, abs=1e-5)
    assert result.clipped == 0.0
    assert [(s.stage, s.asked, s.answered) for s in result.stages] == [
        (Stage.ADVERTISE, 12, 12),
        (Stage.SHARE, 12, 12),
        (Stage.UPLOAD, 12, 9),
        (Stage.UNMASK, 9, 9),
    ]


def test_every_grid_and_the_ideal_give_the_same_bits() -> None:
    results = [
        weights(secure(grid_of(kind, policy.mode), policy).aggregate(training(range(12)))).tobytes()
        for kind in (SequentialGrid, Plain)
        for policy in (POLICY, IDEAL)
    ]
    assert len(set(results)) == 1


def test_before_upload_gets_the_clients_that_are_about_to_train() -> None:
    told: list[list[int]] = []
    grid = grid_of(Deaf)
    grid.deaf = Stage.SHARE, {1, 2}  # type: ignore[attr-defined]
    result = secure(grid).aggregate(
        training(range(12)), timeout=0.3, before_upload=lambda clients: told.append(list(clients))
    )
    assert told == [[c for c in range(12) if c not in (1, 2)]]
    assert result.lost[1] == f"lost at stage 'share': {LATE}"


@pytest.mark.parametrize(
    ("stage", "summed"), [(s, s not in (Stage.CONFIRM, Stage.UNMASK)) for s in Stage], ids=list(Stage)
)
def test_a_client_that_falls_silent_is_in_the_sum_if_it_has_uploaded(stage: Stage, summed: bool) -> None:
    grid = grid_of(Deaf)
    grid.deaf = stage, {0, 11}  # type: ignore[attr-defined]
    result = secure(grid).aggregate(training(HEALTHY), timeout=0.2)
    left = [c for c in HEALTHY if c not in (0, 11)] if summed else HEALTHY
    assert result.summed == left
    np.testing.assert_allclose(weights(result), mean_of(left), atol=1e-3)
    assert set(result.lost) == {0, 11}


@pytest.mark.parametrize("stage", [Stage.ADVERTISE, Stage.SHARE, Stage.UPLOAD, Stage.UNMASK])
def test_too_few_are_no_sum_and_the_next_round_is_as_ever(stage: Stage) -> None:
    grid = grid_of(Deaf)
    secured = secure(grid)
    grid.deaf = stage, {0, 1, 2, 3, 4}  # type: ignore[attr-defined]
    started = time.monotonic()
    result = secured.aggregate(training(HEALTHY), timeout=0.2)
    assert (result.decoded, result.summed) == (None, [])
    assert f"left after stage {stage.value!r}" in result.why
    assert result.stages[-1].stage is stage
    assert list(secured.send_and_receive(training(HEALTHY, 2), timeout=0.2)) == []
    assert time.monotonic() - started < 60
    grid.deaf = stage, set()  # type: ignore[attr-defined]
    assert secured.aggregate(training(HEALTHY, 3)).summed == HEALTHY


def test_without_a_valid_sum_the_round_has_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedsim.privacy.secagg.encoding import Encoding

    encode = Encoding.encode

    def cheating(self: Encoding, *args: Any) -> Any:
        vector = encode(self, *args)
        vector[3] += 17  # the weight: beyond the largest
        return vector

    with monkeypatch.context() as patch:
        patch.setattr(Encoding, "encode", cheating)
        result = secure(grid_of()).aggregate(training(HEALTHY))
    assert result.decoded is None
    assert result.why.startswith("the sum is not one of updates: ")


def test_programming_errors_are_not_failed_rounds() -> None:
    def broken(clients: Any) -> None:
        raise ValueError("not our business")

    with pytest.raises(ValueError, match="not our business"):
        secure(grid_of()).aggregate(training(HEALTHY), before_upload=broken)


def test_a_cohort_too_small_for_any_graph_is_no_sum() -> None:
    result = secure(grid_of()).aggregate(training([0, 1]))
    assert result.decoded is None
    assert "a cohort of 2" in result.why
    assert result.stages == []


def test_a_round_that_was_is_refused_by_the_clients() -> None:
    secured = secure(grid_of())
    assert secured.aggregate(training(HEALTHY, 4)).summed == HEALTHY
    result = secured.aggregate(training(HEALTHY, 4))
    assert result.decoded is None
    assert set(result.lost.values()) == {f"lost at stage 'advertise': {REFUSED}"}


def test_a_policy_that_clients_do_not_accept_is_refused_by_all() -> None:
    other = dataclasses.replace(
        POLICY, assumptions=Assumptions(corrupt=0.1, dropout=0.7)
    )  # a lower threshold
    weak = dataclasses.replace(POLICY, mode="ideal")
    for policy in (other, weak):
        grid = grid_of()
        assert secure(grid, policy).aggregate(training(HEALTHY)).decoded is None
        told = grid.send_and_receive([Message(RecordDict(), node_id(c), "query") for c in HEALTHY])
        assert all(list(reply.content["told"]["records"]) == [] for reply in told)


def test_messages_that_differ_are_refused() -> None:
    secured = secure(grid_of())
    with pytest.raises(ValueError, match="train messages differ"):
        secured.aggregate([*training([0, 1, 2]), *training([3], mu=0.5)])
    same = [*training([0, 1, 2]), *training(HEALTHY[3:])]  # in two objects
    assert secured.aggregate(same).summed == HEALTHY
    with pytest.raises(ValueError, match="two train messages go to one client"):
        secured.aggregate(training([0, 1, 2, 2]))
    taken = training([0, 1, 2])
    taken[0].content["secagg"] = ConfigRecord()
    with pytest.raises(ValueError, match="no record named 'secagg'"):
        secured.aggregate(taken)


def test_other_messages_pass_and_train_messages_cannot_be_pushed() -> None:
    secured = secure(grid_of())
    queries = [Message(RecordDict(), node_id(client), "query") for client in (0, 3)]
    replies = list(secured.send_and_receive([*queries, *training(HEALTHY)]))
    assert [sorted(reply.content) for reply in replies] == [["told"], ["told"], ["arrays", "metrics"]]
    mean = replies[-1].content.array_records["arrays"]["w"].numpy()
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, mean_of(HEALTHY), atol=1e-3)
    assert replies[-1].content.metric_records["metrics"]["num-examples"] == sum(c % 4 + 1 for c in HEALTHY)
    two = training([0, 1, 2])
    two[0].content["more"] = two[0].content["arrays"]
    with pytest.raises(ValueError, match="one record of arrays, not 2"):
        secured.send_and_receive(two)
    ids = secured.push_messages([Message(RecordDict(), node_id(1), "query")])
    assert [sorted(reply.content) for reply in secured.pull_messages(ids)] == [["told"]]
    with pytest.raises(ValueError, match="train messages go by send_and_receive"):
        secured.push_messages(training([0]))
    assert sorted(secured.get_node_ids()) == [node_id(client) for client in range(12)]


def test_events_stay_with_the_client() -> None:
    grid = grid_of()
    assert secure(grid).aggregate(training(HEALTHY)).summed == HEALTHY
    for reply in grid.send_and_receive([Message(RecordDict(), node_id(c), "query") for c in HEALTHY]):
        client = HEALTHY[[node_id(c) for c in HEALTHY].index(reply.metadata.src_node_id)]
        assert list(reply.content["told"]["events"]) == [f"an event of client {client}"]
        assert list(reply.content["told"]["records"]) == ["ledger", "secagg-rounds"]


def test_uploads_are_taken_one_by_one() -> None:
    # A Grid that answers a pull with one reply at most, and hands out the next only when the last is let go of.
    class Counting(Plain):
        out = most = 0

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            replies = list(super().pull_messages(list(message_ids)[:1]))
            self.out += len(replies)
            return replies

    grid = grid_of(Counting)
    held: list[int] = []
    secured = secure(grid)
    from fedsim.server.aggregation.secure_grid import StageFold

    class Watching(StageFold):
        def add(self, came: Any, reply: Message) -> Any:
            grid.out -= 1  # type: ignore[attr-defined]
            held.append(grid.out)  # type: ignore[attr-defined]
            return super().add(came, reply)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.server.aggregation.secure_grid.StageFold", Watching)
        assert secured.aggregate(training(HEALTHY)).summed == HEALTHY
    assert set(held) == {0}


# --- without fedsim around it ------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [FedAvg, pytest.param(FedAdam, marks=pytest.mark.slow)])
def test_a_plain_flower_strategy_trains_by_it_over_flowers_own_grid(strategy: type[FedAvg]) -> None:
    quiet: dict[str, Any] = {"fraction_evaluate": 0.0}
    arrays = ArrayRecord({"w": Array(np.array([1.0, 2.0, 3.0], np.float32))})
    final = []
    for policy in (POLICY, None):
        with flower_fleet(by_nodes if policy else _open_app(), 4) as (grid, nodes):
            assert len(nodes) == 4
            inner: Grid = grid if policy is None else SecureGrid(grid, policy)
            result = strategy(**quiet).start(inner, arrays, num_rounds=2, timeout=60)
            final.append(result.arrays["w"].numpy())
            assert set(result.train_metrics_clientapp) == {1, 2}
    np.testing.assert_allclose(*final, atol=2e-3)


def _open_app() -> Any:
    from flwr.clientapp import ClientApp

    from tests.support.secagg_apps import move

    app = ClientApp()
    app.train()(lambda message, context: _without_events(move(message, context)))
    return app


def _without_events(reply: Message) -> Message:
    reply.content.pop("ledger")
    return reply


def test_the_malicious_mode_goes_over_a_grid_too() -> None:
    from tests.support.secagg_apps import identity_policy

    policy = identity_policy(12)
    assert policy.assumptions.adversary is Adversary.MALICIOUS_SERVER
    grid = SequentialGrid(AppSpec(12, {}, "tests.support.secagg_apps:identified"))
    result = secure(grid, policy).aggregate(training(HEALTHY))
    assert result.summed == HEALTHY
    assert [stage.stage for stage in result.stages] == [
        Stage.ADVERTISE,
        Stage.SHARE,
        Stage.UPLOAD,
        Stage.CONFIRM,
        Stage.UNMASK,
    ]
    np.testing.assert_allclose(weights(result), mean_of(HEALTHY), atol=1e-3)
