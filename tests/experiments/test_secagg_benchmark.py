"""The benchmark of secure aggregation: its rounds are complete, and its report is right."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedsim.experiments.benchmarks import secagg, secagg_round
from fedsim.experiments.benchmarks.secagg import CASES, ROUNDS, Case, Target, main
from fedsim.experiments.benchmarks.secagg_round import Group, Setting, Workers, play
from fedsim.experiments.benchmarks.stopwatch import Seconds
from fedsim.privacy.secagg.costs import round_costs
from fedsim.privacy.secagg.spec import Stage
from fedsim.privacy.secagg.topology import Adversary

SMALL = Setting(clients=20, dimension=50, dropped=1, graph="k-regular")


@pytest.mark.parametrize("adversary", Adversary)
def test_a_round_has_all_stages_and_the_bytes_that_the_cost_model_says(adversary: Adversary) -> None:
    setting = replace(SMALL, adversary=adversary)
    spent, costs = play(setting), round_costs(setting.spec, dropped=setting.dropped)
    stages = [stage.value for stage in setting.spec.stages]
    assert list(spent.up) == list(spent.down) == list(spent.clients) == stages
    assert list(spent.server) == [*stages, "end"]
    for stage, message in costs.messages.items():
        came = 19 if stage in (Stage.UPLOAD, Stage.CONFIRM, Stage.UNMASK) else 20
        assert spent.up[stage.value] == pytest.approx(came * message.up, rel=0.02)
    assert spent.seconds.cpu > 0


def test_clients_in_processes_send_the_same_bytes() -> None:
    here, there = play(SMALL), play(replace(SMALL, processes=2))
    assert (here.up, here.down) == (there.up, there.down)


def test_the_processes_end() -> None:
    with Workers(replace(SMALL, processes=2), []) as workers:
        assert workers.ask(Stage.ADVERTISE, {}, None)[0].replies == {}
        processes = list(workers._processes)
    assert [process.exitcode for process in processes] == [0, 0]


def test_a_wrong_sum_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    upload = Group._upload

    def wrong(
        self: Group, client: int, request: bytes, uploads: object, answers: secagg_round.Answers
    ) -> None:
        upload(self, client, request, uploads, answers)  # type: ignore[arg-type]
        if client == 5 and answers.plain is not None:
            answers.plain[0] += 1

    monkeypatch.setattr(Group, "_upload", wrong)
    with pytest.raises(RuntimeError, match="the sum is not that of the clients' vectors"):
        play(SMALL)


def test_the_settings_are_those_that_the_targets_speak_of() -> None:
    sparse, complete, thousand = (ROUNDS[name] for name in ("sparse", "complete", "thousand"))
    assert (sparse.spec.clients, sparse.spec.degree, sparse.dimension, sparse.dropped) == (100, 12, 10**6, 5)
    assert (complete.spec.clients, complete.spec.complete, complete.dimension) == (20, True, 10**6)
    assert (thousand.spec.clients, thousand.dimension, thousand.dropped) == (1000, 10**5, 50)
    assert (thousand.spec.degree, thousand.processes) == (30, 2)


@pytest.mark.slow
def test_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secagg, "MILLION", 1000)
    for name, setting in ROUNDS.items():
        small = replace(setting, clients=20, dimension=1000, dropped=min(setting.dropped, 1))
        monkeypatch.setitem(ROUNDS, name, small)
    main(["--repeats", "1", "--json", str(tmp_path / "made.json")])
    made = json.loads((tmp_path / "made.json").read_text())
    assert [case["name"] for case in made["cases"]] == ["sparse", "complete", "masks", "masks", "thousand"]
    assert [bool(case["times"]) for case in made["cases"]] == [False, True, True, True, False]
    assert {line.split(": ")[1] for line in made["targets"]} == set(CASES)
    assert not any("not measured" in line for line in made["targets"])
    assert made["cases"][0]["rounds"][0]["clients"]["upload"]["cpu"] > 0


def test_verdicts_by_hand() -> None:
    sparse = Case("sparse", "it", [Seconds(3.0, 2.0), Seconds(9.0, 2.5), Seconds(4.0, 1.0)])
    masks = Case(
        "masks", "12", [Seconds(1.0, 1.0), Seconds(1.0, 2.0)], [Seconds(9.0, 4.0), Seconds(9.0, 4.0)]
    )
    assert Target("sparse", 3.0, "cpu").verdict([sparse, masks]) == (
        "target: sparse: at most 3 s of CPU; measured: 2.00 s of CPU in 4.00 s"
    )
    assert Target("masks", 3.0, "times").verdict([sparse, masks]) == (
        "target: masks: at least 3 times as fast as Flower; measured: 3.0 (12)"
    )
    assert Target("complete", 8.0, "times").verdict([sparse]).endswith("measured: not measured")


def test_updates_differ_by_client_and_seed() -> None:
    one, other, third = (secagg_round.update_of(*of) for of in ((1, 9, 0), (2, 9, 0), (1, 9, 1)))
    assert one.dtype == np.float32
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, third)
    assert np.abs(one).max() <= 1
