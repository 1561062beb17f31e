import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from fedsim import Experiment, RunFailed
from fedsim.algorithms.fedavg import FedAvg
from fedsim.layout import Layout
from fedsim.privacy.account import Account
from fedsim.privacy.cohorts.sampling import CohortSampling
from fedsim.privacy.events import Noise
from fedsim.privacy.halves import ServerHalf
from fedsim.randomness import ServerDraws
from fedsim.runtime import AppSpec, ClientsGrid, SequentialGrid
from fedsim.server.aggregation.folded import Folded
from fedsim.server.aggregation.gathered import Gathered
from fedsim.server.aggregation.updates import Aggregator, Ask
from fedsim.server.enrolment import Enrolment
from fedsim.server.evaluation import Evaluation
from fedsim.server.federation import Federation
from fedsim.server.fields import ServerFields
from fedsim.server.grids import CohortGrid
from fedsim.server.strategies import build_strategy
from fedsim.tasks import Score, Scoring
from fedsim.training import plan_of, training_of
from tests.conftest import experiment
from tests.support.apps import REASONS


class Given(CohortSampling):
    """Draws the same cohort in every round."""

    def __init__(self, cohort: list[int]) -> None:
        super().__init__()
        self.cohort = cohort

    def draw(self, round_: int, clients: int) -> list[int]:
        return self.cohort


def federation(
    setting: Experiment,
    clients: int,
    losses: Callable[[int], float] = lambda r: 1.0,
    cohort: list[int] | None = None,
) -> Federation:
    """Return rounds over the misbehaving clients, whose model is three numbers; `cohort` None: as the setting draws it."""
    grid = SequentialGrid(AppSpec(clients, {}, "tests.support.apps:faulty"))
    evaluations = iter(range(1, 1000))
    plan = plan_of(setting, training_of(setting, np.ones(clients, np.int64), {"w": (3,)}))
    uniform = setting.server.weighting == "uniform"
    linear = setting.server.strategy_entry.linear
    model = ArrayRecord({"w": Array(np.zeros(3, np.float32))})
    layout = Layout.of(model)
    return Federation(
        experiment=setting,
        grid=grid,
        enrolment=Enrolment(grid, clients),
        strategy=build_strategy(setting),
        arrays=model,
        evaluation=Evaluation(
            setting,
            Scoring(),
            lambda arrays: Score(loss=losses(next(evaluations)), metrics={"accuracy": 0.5}, predictions=10),
        ),
        account=Account(plan, Noise.SEEDED, charges_ahead=False),
        half=ServerHalf(),
        sampling=plan.sampling(ServerDraws(setting)) if cohort is None else Given(cohort),
        aggregator=Folded(uniform=uniform, clipped=False) if linear else Gathered(uniform=uniform),
        layout=layout,
        fields=ServerFields(FedAvg(), layout, {}),
        share=plan.cohorts.share,
    )


def rows(of: Federation) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    of.run(written.append)
    return written


def test_failures_are_counted_with_their_reasons_and_the_round_continues() -> None:
    setting = experiment("data.clients=11", "server.cohort=11", "rounds=1")
    rounds = federation(setting, 11)
    (row,) = rows(rounds)
    assert (row["clients"], row["failures"]) == (3, 8)
    assert row["failure-reasons"] == [f"client {client}: {why}" for client, why in REASONS.items()]
    # Clients 0, 9 and 10 added their numbers, with equal weights.
    assert rounds.arrays["w"].numpy().tolist() == pytest.approx([19 / 3] * 3)
    assert row["train-loss"] == pytest.approx(19 / 3)


class Plain(SequentialGrid):
    """A Grid as Flower's: replies come here, to be folded."""

    send_and_fold = None  # type: ignore[assignment]


def test_a_grid_that_cannot_fold_gives_the_same_bits() -> None:
    setting = experiment("data.clients=60", "server.cohort=60", "rounds=2", "server.strategy=fedadam")
    results = []
    for grid in (SequentialGrid, Plain):
        rounds = federation(setting, 60)
        rounds.grid = grid(AppSpec(60, {}, "tests.support.apps:faulty"))
        written = [{k: v for k, v in row.items() if k != "seconds"} for row in rows(rounds)]
        results.append((written, rounds.arrays["w"].numpy().tobytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
def test_when_all_fail_the_run_fails_with_the_first_reason(strategy: str) -> None:
    setting = experiment("data.clients=11", f"server.strategy={strategy}")
    with pytest.raises(
        RunFailed,
        match="round 1: all 3 clients failed in training; the first, client 1: RuntimeError: out of luck",
    ):
        rows(federation(setting, 11, cohort=[1, 2, 3]))


def test_an_empty_cohort_is_a_round_without_training() -> None:
    rounds = federation(experiment("server.sampling=poisson", "rounds=2"), 12, cohort=[])
    assert [(row["clients"], "train-loss" in row, row["loss"]) for row in rows(rounds)] == [
        (0, False, 1.0)
    ] * 2
    assert rounds.arrays["w"].numpy().tolist() == [0.0] * 3


def test_too_few_updates_for_krum_leave_the_model() -> None:
    rounds = federation(experiment("server.strategy=krum", "rounds=1"), 12, cohort=[0, 1, 2, 9])
    (row,) = rows(rounds)
    assert (row["clients"], row["failures"]) == (2, 2)
    assert rounds.arrays["w"].numpy().tolist() == [0.0] * 3


def test_evaluation_every_k_rounds_and_after_the_last() -> None:
    setting = experiment("rounds=5", "server.evaluate-every=2", "data.clients=1", "server.cohort=1")
    assert [row["round"] for row in rows(federation(setting, 1)) if "accuracy" in row] == [2, 4, 5]


def test_patience_and_target_accuracy_stop_early() -> None:
    def stopped_after(losses: Callable[[int], float], *overrides: str) -> int:
        setting = experiment("rounds=9", "data.clients=1", "server.cohort=1", *overrides)
        return len(rows(federation(setting, 1, losses)))

    assert stopped_after(lambda r: max(1 / r, 1 / 3), "server.patience=2") == 5  # best at 3, then two without
    assert stopped_after(lambda r: 1 / r, "server.patience=2") == 9
    assert stopped_after(lambda r: 1.0, "server.target-accuracy=0.5") == 1
    assert stopped_after(lambda r: 1.0, "server.target-accuracy=0.51") == 9


def test_messages_to_clients_outside_the_cohort_are_refused() -> None:
    grid = SequentialGrid(AppSpec(4, {}, "tests.support.apps:stateful"))
    nodes = grid.client_nodes()
    view = CohortGrid(grid, {client: nodes[client] for client in (1, 3)})
    assert list(view.get_node_ids()) == [nodes[1], nodes[3]]

    def query(client: int) -> Message:
        return view.create_message(RecordDict(), MessageType.QUERY, nodes[client], "")

    assert len(list(view.send_and_receive([query(3), query(1)]))) == 2
    for send in (view.send_and_receive, view.push_messages):
        with pytest.raises(ValueError, match="is not in this round's cohort"):
            send([query(1), query(2)])


@pytest.mark.parametrize("strategy", ["fedavg", "krum", "bulyan", "fedtrimmedavg", "qfedavg"])
def test_a_strategy_takes_exactly_the_cohort_and_waits_for_no_one(strategy: str) -> None:
    setting = experiment(f"server.strategy={strategy}")
    grid = SequentialGrid(AppSpec(12, {}, "tests.support.apps:faulty"))
    arrays = ArrayRecord({"w": Array(np.zeros(3, np.float32))})
    for cohort in ([5], [2, 7, 11]):
        view = CohortGrid(grid, {client: grid.client_nodes()[client] for client in cohort})
        messages = build_strategy(setting).configure_train(1, arrays, ConfigRecord(), view)
        assert [view.client(m.metadata.dst_node_id) for m in view.checked(messages)] == cohort


class Mute(Plain):
    """A Grid whose clients don't answer."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return []


@pytest.mark.parametrize(
    "aggregator",
    [Folded(uniform=True, clipped=False), Folded(uniform=True, clipped=True), Gathered(uniform=True)],
    ids=["folded", "clipped", "gathered"],
)
def test_late_clients_have_failed(aggregator: Aggregator) -> None:
    grid = Mute(AppSpec(3, {}, "tests.support.apps:faulty"))
    view, model = CohortGrid(grid, grid.client_nodes()), ArrayRecord({"w": Array(np.zeros(3, np.float32))})
    asked = [
        view.create_message(RecordDict({"w": model}), MessageType.TRAIN, n, "") for n in view.get_node_ids()
    ]
    charged: list[Sequence[int]] = []
    got = aggregator.collect(
        Ask(
            grid=view,
            requests=asked,
            model=model,
            layout=Layout.of(model),
            charge=charged.append,
            timeout=0.1,
        )
    )
    assert got.failures == dict.fromkeys(range(3), "did not answer in time")
    assert got.reasons == [f"client {client}: did not answer in time" for client in range(3)]
    assert (got.updates.count, got.updates.messages(), list(got.events)) == (0, [], [])
    assert charged == [[0, 1, 2]]


class Stranger(SequentialGrid):
    """A Grid like a SuperLink's: it doesn't know the nodes' clients, and its nodes are in any order."""

    client_nodes = None  # type: ignore[assignment]

    def get_node_ids(self) -> list[int]:
        return list(super().get_node_ids())[::-1]


def test_nodes_of_other_grids_are_queried_for_their_clients() -> None:
    spec = AppSpec(3, {}, "fedsim.clients.app:app")
    known: ClientsGrid = SequentialGrid(spec)
    nodes = dict(known.client_nodes())
    assert Enrolment(known, 3).nodes == Enrolment(Stranger(spec), 3).nodes == nodes
    few = Enrolment(Stranger(spec), 4)
    with pytest.raises(RunFailed, match="1 of 4 clients did not enrol, the first is 3"):
        few.wait(0.3, hoped=4, least=4)
    few.wait(0.3, hoped=4, least=3)
    assert few.nodes == nodes


def test_a_node_enrols_only_as_the_client_of_its_registered_key() -> None:
    spec = AppSpec(3, {}, "fedsim.clients.app:app")
    nodes = dict(SequentialGrid(spec).client_nodes())
    swapped = {nodes[0]: 1, nodes[1]: 0, nodes[2]: 2}
    assert Enrolment(Stranger(spec), 3, registered=swapped).nodes == {2: nodes[2]}
    assert Enrolment(Stranger(spec), 2).nodes == {0: nodes[0], 1: nodes[1]}, "client 2 of 2 is refused"


def test_enrolment_does_not_wait_for_clients_that_refused() -> None:
    enrolment = Enrolment(Stranger(AppSpec(3, {"experiment": "rounds = 0"}, "fedsim.clients.app:app")), 3)
    with pytest.raises(
        RunFailed, match=r"3 of 3 clients did not enrol, the first is 0; node \d+ does not take part"
    ):
        enrolment.wait(1e9, hoped=3, least=1)


class Leaving(Stranger):
    """A Grid whose nodes come and go."""

    def __init__(self, spec: AppSpec) -> None:
        super().__init__(spec)
        self.away: set[int] = set()

    def get_node_ids(self) -> list[int]:
        return [node for node in super().get_node_ids() if node not in self.away]


def test_offline_clients_fail_and_the_round_continues_without_them() -> None:
    setting = experiment("data.clients=2", "server.cohort=2", "rounds=4", "server.timeout=0.3")
    grid = Leaving(AppSpec(2, {}, "tests.support.apps:drifting"))
    second, first = grid.get_node_ids()
    rounds = federation(setting, 2)
    rounds.grid, rounds.enrolment = grid, Enrolment(grid, 2)
    leaving = iter([{second}, set(), {first, second}])
    seen: list[dict[str, Any]] = []

    def write(row: dict[str, Any]) -> None:
        seen.append(row)
        grid.away = next(leaving)

    with pytest.raises(RunFailed, match="2 of 2 clients did not enrol, the first is 0"):
        rounds.run(write)
    assert [(row["clients"], row["failures"]) for row in seen] == [(2, 0), (1, 1), (2, 0)]
    assert seen[1]["failure-reasons"] == ["client 1: is away"]


def test_a_round_with_too_few_updates_leaves_the_model_as_it_is() -> None:
    setting = experiment("data.clients=11", "server.cohort=11", "rounds=1", "server.min-clients=4")
    rounds = federation(setting, 11)
    (row,) = rows(rounds)
    assert (row["clients"], row["failures"]) == (3, 8)
    assert rounds.arrays["w"].numpy().tolist() == [0, 0, 0]


# --- divergence ---------------------------------------------------------------------------------------------


def test_a_round_in_which_all_send_what_is_not_finite_has_diverged() -> None:
    went_on = federation(experiment("rounds=2", "server.on-divergence=go-on"), 12, cohort=[2, 5])
    assert [(row["clients"], row["failures"], row["diverged"]) for row in rows(went_on)] == [(0, 2, True)] * 2
    written: list[dict[str, Any]] = []
    stops = federation(experiment("rounds=2"), 12, cohort=[2, 5])
    with pytest.raises(
        RunFailed, match="round 1: diverged: all 2 clients failed in training; the first, client 2: sent NaN"
    ):
        stops.run(written.append)
    assert [row["diverged"] for row in written] == [True]
    for other in ("server.on-divergence=go-on", "faults.dropout=0.5"):  # client 1 fails by itself
        with pytest.raises(
            RunFailed, match="round 1: all 3 clients failed in training; the first, client 1: Run"
        ):
            rows(federation(experiment(other), 12, cohort=[1, 2, 5]))


class Theirs(flower.FedAvg):
    """FedAvg, with something done to its next model, or its clients."""

    def __init__(self, factor: float = 1.0, most: int = 99, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.factor, self.most = factor, most

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Message]:
        chosen = list(grid.get_node_ids())[: self.most]
        every = super().configure_train(server_round, arrays, config, grid)
        return [message for message in every if message.metadata.dst_node_id in chosen]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert arrays is not None
        w = arrays["w"].numpy().astype(np.float64) * self.factor
        return ArrayRecord({"w": Array(w)}), metrics


def with_strategy(strategy: Theirs, *overrides: str, cohort: list[int]) -> Federation:
    rounds = federation(experiment("rounds=2", *overrides), 12, cohort=cohort)
    rounds.strategy, rounds.aggregator = strategy, Gathered(uniform=True)
    return rounds


@pytest.mark.parametrize("factor", [math.nan, 1e300])  # 1e300 is no number of float32
def test_a_next_model_that_is_not_finite_is_not_taken(factor: float) -> None:
    rounds = with_strategy(Theirs(factor), "server.on-divergence=go-on", cohort=[9, 10])
    assert [(row["clients"], row["diverged"]) for row in rows(rounds)] == [(2, True)] * 2
    assert rounds.arrays["w"].numpy().tolist() == [0.0] * 3
    with pytest.raises(RunFailed, match="round 1: diverged: w of the next model is not finite; a smaller"):
        rows(with_strategy(Theirs(factor), cohort=[9, 10]))


# --- strategies of a user's own -----------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "clients", "w"), [(2, 2, 2 * 9 / 2), (1, 1, 0.0), (0, 0, 0.0)])
def test_clients_that_a_strategy_leaves_out_have_not_failed(most: int, clients: int, w: float) -> None:
    rounds = with_strategy(Theirs(most=most), cohort=[0, 9, 10])  # each adds its number: (0 + 9) / 2 a round
    for row in rows(rounds):
        assert (row["clients"], row["failures"], "failure-reasons" in row) == (clients, 0, False)
    assert rounds.arrays["w"].numpy().tolist() == [w] * 3


def test_under_a_mechanism_a_strategy_may_leave_out_nobody() -> None:
    private = "privacy.local-dp={noise-multiplier=1.0, delta=1e-3, clip=0.5}"
    with pytest.raises(
        RunFailed, match=r"asked 2 of the 3 drawn clients to train; under privacy.local-dp it must ask all"
    ):
        rows(with_strategy(Theirs(most=2), private, cohort=[0, 9, 10]))


def test_what_a_strategy_raises_is_one_line_with_its_name() -> None:
    with pytest.raises(
        RunFailed, match=r"^round 1: server.strategy = 'fedavg': InconsistentMessageReplies: .*`weight`"
    ) as failed:
        rows(with_strategy(Theirs(weighted_by_key="weight"), cohort=[9, 10]))
    assert "\n" not in str(failed.value)


def evaluating(strategy: flower.FedAvg, *overrides: str) -> dict[str, float]:
    """Return the scores of a model of three clients' by two of them: client 1 is away."""
    grid = Leaving(AppSpec(3, {}, "tests.support.apps:drifting"))
    grid.away = {list(grid.get_node_ids())[1]}
    setting = experiment("data.clients=3", "server.cohort=2", "data.held-out=0.2", *overrides)
    rounds = federation(setting, 3)
    enrolment = Enrolment(grid, 3)
    assert list(enrolment.nodes) == [0, 2]
    return rounds.evaluation.scores(1, rounds.arrays, grid, enrolment, strategy)


@pytest.mark.parametrize("which", ["all", "cohort"])
def test_the_clients_that_evaluate_are_online_ones(which: str) -> None:
    scores = evaluating(flower.FedAvg(), f"server.client-evaluation={which}")
    assert (scores["client-accuracy"], scores["client-accuracy-min"]) == (
        0.1,
        0.0,
    )  # clients 0 and 2 say 0 and 0.2


def test_a_strategys_own_client_metrics_need_no_accuracy() -> None:
    own = flower.FedAvg(
        evaluate_metrics_aggr_fn=lambda records, key: MetricRecord({"loss": 7.0, "worst": 1.0})
    )
    scores = evaluating(own, "server.client-evaluation=all")
    assert (scores["client-loss"], "client-accuracy" in scores, scores["client-accuracy-min"]) == (
        7.0,
        False,
        0.0,
    )
