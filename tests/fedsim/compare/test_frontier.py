import pytest

from fedsim.compare.costs import costs_of
from fedsim.compare.frontier import Frontier, View, default_adversary, frontier, views_of
from fedsim.compare.groups import grouped
from fedsim.compare.runs import ComparedRun
from tests.fedsim.compare.runs import cost, member

CLIENT = View("released-models", "client")


def of(*members: ComparedRun, view: View = CLIENT, metric: str = "accuracy") -> Frontier:
    groups = grouped(members)
    return frontier(groups, view, metric, {group.label: group.mechanism for group in groups})


def seeds(mechanism: str, epsilon: float, *accuracies: float) -> list[ComparedRun]:
    return [member(mechanism, value, cost(epsilon), seed=seed) for seed, value in enumerate(accuracies)]


def test_the_best_of_each_epsilon() -> None:
    found = of(
        *seeds("dp-fedavg", 1.999, 0.8, 0.9),
        *seeds("dp-ftrl", 2.0, 0.6, 0.7),
        *seeds("dp-ftrl", 8.0, 0.5, 0.5),
    )
    said = {point.group.label: (point.level, point.best, point.rivals) for point in found.points}
    assert said == {
        "dp-fedavg, epsilon=1.999": (1, True, 1),
        "dp-ftrl, epsilon=2": (1, False, 1),
        "dp-ftrl, epsilon=8": (2, True, 0),
    }
    behind = next(point.behind for point in found.points if not point.best)
    assert behind is not None
    assert behind.mean == pytest.approx(-0.2)


def test_epsilons_a_hundredth_apart_are_one_level() -> None:
    found = of(
        *seeds("a", 1.0, 0.5), *seeds("b", 1.009, 0.6), *seeds("c", 1.011, 0.7), *seeds("d", 1.05, 0.8)
    )
    assert [point.level for point in found.points] == [1, 1, 2, 3]


def test_less_loss_is_better() -> None:
    rows = [[{"round": 1, "loss": loss, "clients": 1, "failures": 0}] for loss in (1.0, 2.0)]
    pair = [member(f"dp-{i}", 0.0, cost(2.0), rows=row) for i, row in enumerate(rows)]
    assert [point.best for point in of(*pair, metric="loss").points] == [True, False]


def test_equals_are_both_best() -> None:
    assert [p.best for p in of(*seeds("a", 2.0, 0.5, 0.7), *seeds("b", 2.0, 0.6, 0.6)).points] == [True, True]


def test_the_price_is_the_difference_to_the_best_without_noise() -> None:
    plain = [member(accuracy=value, seed=seed) for seed, value in enumerate((0.90, 0.92, 0.94))]
    worse = [member(accuracy=0.5, seed=seed, rounds=1) for seed in range(3)]
    found = of(
        *plain, *worse, *seeds("dp-fedavg", 2.0, 0.80, 0.83, 0.83), *seeds("dp-fedavg", 4.0, 0.88, 0.92, 0.93)
    )
    assert [point.group.label for point in found.baselines] == [
        "no privacy, rounds=unset",
        "no privacy, rounds=1",
    ]
    assert found.baselines[0].price is None
    price = found.points[0].price
    assert price is not None
    assert (price.mean, price.test) == (pytest.approx(-0.1), "paired t")
    # Three tests stand in the column, so the smallest p is tripled.
    column = [point.price for point in (found.baselines[1], *found.points)]
    smallest = min(p.p for p in column if p is not None and p.p is not None)
    assert min(
        p for p in (found.baselines[1].price_p, *(x.price_p for x in found.points)) if p is not None
    ) == (pytest.approx(3 * smallest))


def test_other_units_and_adversaries_stay_off_the_axis() -> None:
    record = member("dp-sgd", 0.5, cost(1.0, unit="example"))
    other = member("dp-fedavg", 0.5, cost(1.0, adversary="known-cohort"))
    trusted = member("dp-ftrl", 0.5, cost(None), cost(3.0, adversary="known-cohort"))
    found = of(record, other, trusted, *seeds("local-dp", 9.0, 0.4))
    assert [point.group.mechanism for point in found.points] == ["local-dp"]
    assert {group.mechanism: why for group, why in found.absent} == {
        "dp-fedavg": "has no entry for released-models",
        "dp-ftrl": "trusted",
    }


def test_views_and_the_default_adversary() -> None:
    members = [
        member("dp-fedavg", 0.5, cost(1.0), cost(2.0, "known-cohort"), cost(None, "server")),
        member("dp-ftrl", 0.5, cost(2.0, "known-cohort")),
        member("dp-sgd", 0.5, cost(2.0, "known-cohort", unit="example")),
    ]
    groups = grouped(members)
    assert views_of(groups) == [
        View("known-cohort", "client"),
        View("released-models", "client"),
        View("known-cohort", "example"),
    ]
    assert default_adversary(groups) == "known-cohort"
    assert default_adversary(groups[:1]) == "released-models"  # as many: who sees the least
    assert default_adversary(grouped([member()])) == ""


def test_an_epsilon_holds_against_weaker_adversaries_and_never_against_stronger_ones() -> None:
    local = costs_of({"server": {"epsilon": 5.0, "unit": "client", "relation": "replace-one"}})
    assert {name: (c.adversary, c.epsilon, c.bound_by) for name, c in local.items()} == {
        "server": ("server", 5.0, "server"),
        "known-cohort": ("known-cohort", 5.0, "server"),
        "released-models": ("released-models", 5.0, "server"),
    }
    central = costs_of(
        {
            "server": {"epsilon": "infinite", "why": "trusted", "unit": "client"},
            "known-cohort": {"epsilon": 7.0, "unit": "client"},
            "released-models": {"unavailable": "no theorem"},
        }
    )
    assert {name: (c.epsilon, c.bound_by) for name, c in central.items()} == {
        "server": (None, "server"),
        "known-cohort": (7.0, "known-cohort"),
        "released-models": (7.0, "known-cohort"),
    }
    assert central["server"].why == "trusted"
    own = costs_of(
        {
            "known-cohort": {"epsilon": 7.0, "unit": "client"},
            "released-models": {"epsilon": 2.0, "unit": "client"},
        }
    )
    assert own["released-models"].epsilon == 2.0
    assert costs_of({}) == {}
