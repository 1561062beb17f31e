from dataclasses import replace

import pytest

from fedsim import Refused
from fedsim.compare.frontier import View, frontier
from fedsim.compare.groups import check_one_task, differences, grouped, text_of
from tests.fedsim.compare.runs import cost, member


def test_runs_that_differ_in_their_seed_alone_are_one_group() -> None:
    groups = grouped(
        [member(accuracy=0.5, seed=0, rounds=3), member(accuracy=0.7, seed=1, rounds=3), member(rounds=4)]
    )
    assert [sorted(group.counted) for group in groups] == [[0, 1], [0]]
    assert groups[0].values("accuracy") == {0: 0.5, 1: 0.7}
    assert [group.label for group in groups] == ["no privacy, rounds=3", "no privacy, rounds=4"]


def test_a_seed_that_ran_twice_counts_once() -> None:
    (group,) = grouped([member(seed=0), member(seed=0), member(seed=1)])
    assert (len(group.members), sorted(group.counted), group.repeated) == (3, [0, 1], 1)


def test_a_pruned_run_is_named_apart_and_in_no_mean() -> None:
    members = [member(accuracy=0.9, rounds=3)]
    members += [member(accuracy=0.1, rounds=4, seed=seed, status="pruned") for seed in (0, 1)]
    kept, out = grouped(members)
    assert (kept.label, kept.values("accuracy")) == ("no privacy, rounds=3", {0: 0.9})  # what won is said
    assert (out.label, len(out.pruned), out.pending, out.summary("accuracy")) == (
        "no privacy, rounds=4",
        2,
        [],
        None,
    )
    views = frontier([kept, out], View("", ""), "accuracy", {g.label: g.mechanism for g in (kept, out)})
    assert [point.group for point in (*views.baselines, *views.points)] == [kept]


@pytest.mark.parametrize("status", ["running", "failed", "killed", "interrupted"])
def test_incomplete_runs_do_not_count(status: str) -> None:
    (group,) = grouped([member(accuracy=0.5), member(accuracy=0.1, seed=1, status=status)])
    assert group.values("accuracy") == {0: 0.5}
    assert [each.status for each in group.pending] == [status]


def test_groups_come_without_noise_first_then_by_mechanism_and_budget() -> None:
    members = [member("dp-ftrl", 0.5, cost(e)) for e in (16.0, 2.0)] + [
        member(),
        member("dp-sgd", 0.5, cost(4.0)),
    ]
    labels = [group.label for group in grouped(members)]
    assert labels == ["no privacy", "dp-ftrl, epsilon=2", "dp-ftrl, epsilon=16", "dp-sgd, epsilon=4"]


def test_labels_say_only_what_tells_groups_of_a_mechanism_apart() -> None:
    members = [
        member("dp-fedavg", 0.5, cost(2.0), privacy__dp_fedavg__clip=clip, server__cohort=10)
        for clip in (0.1, 1.0)
    ]
    labels = [group.label for group in grouped([*members, member(server__cohort=30)])]
    assert labels == ["no privacy", "dp-fedavg, epsilon=2, clip=0.1", "dp-fedavg, epsilon=2, clip=1"]


def test_what_does_not_count_leaves_the_other_names_short() -> None:
    members = [member(rounds=3), member(rounds=3, client__epochs=2, status="failed")]
    assert [group.label for group in grouped(members)] == ["no privacy", "no privacy, epochs=2"]


def test_values_that_differ_are_never_said_alike() -> None:
    assert text_of(0.1) != text_of(0.1 + 1e-15)
    assert (text_of(2.0), text_of(None), text_of([1, 2])) == ("2", "unset", "[1, 2]")


def test_differences_are_in_the_order_of_the_experiment() -> None:
    assert differences([{"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5}]) == ["b", "c", "d"]
    assert differences([{"a": [1]}, {"a": [1]}]) == []


def test_runs_of_two_tasks_are_refused_by_name() -> None:
    with pytest.raises(Refused, match=r"are of 2 tasks.*'digits' \(1, as .*'stdlib' \(2, as .*--task"):
        check_one_task([member(), member(task="stdlib"), member(task="stdlib")])
    assert check_one_task([member(), member()]) == "digits"


def test_a_groups_epsilon_is_its_worst_runs() -> None:
    first = member("dp-sgd", 0.5, cost(2.0), seed=0, privacy__dp_sgd__epsilon=2.0)
    second = member("dp-sgd", 0.5, cost(2.5), seed=1, privacy__dp_sgd__epsilon=2.0)
    (group,) = grouped([first, second])
    found = group.cost("released-models")
    assert found is not None
    assert found.epsilon == 2.5
    without = member("dp-sgd", 0.5, cost(None), seed=2, privacy__dp_sgd__epsilon=2.0)
    (group,) = grouped([first, second, without])
    found = group.cost("released-models")
    assert found is not None
    assert found.epsilon is None


def test_bytes_count_the_model_for_clients_asked_and_answered() -> None:
    # 3 clients answered and 1 failed: the model of 100 bytes went down 4 times and up 3 times.
    assert member().finals["bytes"] == 700
    row = {"round": 1, "clients": 3, "failures": 1, "secagg-bytes-up": 50, "secagg-bytes-down": 20}
    assert member(rows=[row], privacy__secagg__mode="real").finals["bytes"] == 400 + 70
    stand_in = member(rows=[row], privacy__secagg__mode="ideal")
    assert "bytes" not in stand_in.finals
    assert replace(stand_in, ideal_bytes=60).finals["bytes"] == 400 + 60
