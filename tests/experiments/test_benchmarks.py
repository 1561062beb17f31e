import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import fedsim
from fedsim.experiments.benchmarks import memory, scaling
from fedsim.experiments.benchmarks.competitors import Competitor, Unavailable, chosen, competitors
from fedsim.experiments.benchmarks.peers import bare, network
from fedsim.experiments.benchmarks.rounds import as_json, checked, measure, table, verdicts
from fedsim.experiments.benchmarks.runner import Outcome, run
from fedsim.experiments.benchmarks.setting import cache_in, set_up
from fedsim.experiments.benchmarks.summary import Range, summarise, targets
from fedsim.experiments.benchmarks.work import CASES, PARAMETERS, Case, Report, Work
from fedsim.tasks.build import task_of
from tests.support.tasks import tensors
from tests.support.waiting import wait_for


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Six clients, all in each of two rounds, whose ten examples make one batch: no order to differ in."""
    work = Work(Case(clients=6, cohort=6, examples=10), warmup=0, timed=1, seed=3, cores=2, folder=tmp_path)
    set_up(work)
    return work


def outcome(name: str, repeat: int, seconds: list[float], loss: float = 1.0) -> Outcome:
    return Outcome(name, repeat, None, Report(100.0, seconds, loss, PARAMETERS, {}), start=2.0 + repeat)


# Two rounds to warm up, three timed, one more; the timed ones are the middle three.
SETTING = Work(CASES["cross-device"], warmup=2, timed=3, seed=0, cores=2, folder=Path("nowhere"))
OUTCOMES = [
    outcome("fedsim-local", 0, [9, 9, 1.0, 2.0, 3.0, 9]),
    outcome("flower-ray", 0, [99, 99, 20.0, 22.0, 21.0, 0]),
    outcome("pfl-1-process", 0, [5, 5, 5, 6, 7, 0]),
    outcome("pfl-2-threads", 0, [5, 5, 4, 4, 4, 0]),
    Outcome("bare-2-processes", 0, "failed: why"),
    outcome("fedsim-local", 1, [9, 9, 4.0, 4.0, 4.0, 9]),
    outcome("flower-ray", 1, [9, 9, 30.0, 32.0, 40.0, 0], loss=0.5),
    Outcome("pfl-1-process", 1, "failed: later"),
]


def test_the_summary_by_hand() -> None:
    ours, flower, pfl, threads, failed = summarise(OUTCOMES, SETTING)
    assert ours.seconds == Range(3.5, 1.0, 4.0)  # of 1, 2, 3, 4, 4, 4
    assert ours.ratio == Range(1.0, 1.0, 1.0)
    assert flower.seconds == Range(26.0, 20.0, 40.0)  # of 20, 21, 22, 30, 32, 40
    assert flower.ratio == Range(26 / 3.5, 32 / 4, 21 / 2)
    assert (flower.start, flower.loss) == (2.5, 0.5)
    assert pfl.seconds == Range(6.0, 5.0, 7.0)
    assert pfl.ratio == Range(6 / 3.5, 6 / 2, 6 / 2)  # the only repeat that both finished had fedsim at 2
    assert pfl.reason == "failed: later"
    assert threads.reason is None
    assert (failed.seconds, failed.ratio, failed.reason) == (None, None, "failed: why")


def test_the_verdicts_name_the_fastest_rival() -> None:
    assert verdicts("cross-device", 2, summarise(OUTCOMES, SETTING)) == [
        "target: 12 times as fast as Flower; measured: 7.43 times (flower-ray)",
        "target: 1.3 times as fast as pfl-research's best; measured: 1.14 times (pfl-2-threads)",
        "target: 1 times as fast as bare PyTorch on all cores; measured: not measured",
    ]
    assert [target.times for target in targets("cross-silo", 2)] == [1.2, 1.0]
    names = {competitor.name for competitor in competitors(SETTING)}
    assert {name for case in CASES for target in targets(case, 2) for name in target.names} <= names


def test_without_fedsim_there_are_no_ratios() -> None:
    (alone,) = summarise([outcome("bare-1-process", 0, [0, 0, 1, 1, 1, 0])], SETTING)
    assert (alone.seconds, alone.ratio) == (Range(1, 1, 1), None)
    assert table("cross-device", [alone]).row_count == 1


def test_the_json_holds_the_raw_figures() -> None:
    tree = json.loads(as_json("cross-device", SETTING, [{"load": 1}, {"load": 2}], OUTCOMES))
    assert [run["report"] and run["report"]["seconds"] for run in tree["runs"]][1] == [99, 99, 20, 22, 21, 0]
    assert tree["runs"][4]["reason"] == "failed: why"
    assert tree["host"] == {"before": {"load": 1}, "after": {"load": 2}}
    assert tree["work"]["case"]["clients"] == 1000
    assert "folder" not in tree["work"]
    assert tree["summary"][1]["seconds"] == {"middle": 26.0, "low": 20.0, "high": 40.0}


def test_another_model_is_a_failure() -> None:
    good = outcome("bare-1-process", 0, [1.0])
    assert checked(good) is good
    assert good.report is not None
    odd = checked(replace(good, report=replace(good.report, parameters=7)))
    assert odd.report is None
    assert odd.reason == "failed: its model has 7 parameters and not 215,370"


def test_names_are_chosen_by_how_they_begin() -> None:
    everyone = competitors(SETTING)
    assert len({competitor.name for competitor in everyone}) == len(everyone) == 11
    assert [c.name for c in chosen(everyone, "fedsim, bare-channels")] == [
        "fedsim-local", "fedsim-ray", "bare-channels-last-1-process", "bare-channels-last-2-processes"
    ]  # fmt: skip
    assert chosen(everyone, None) == everyone
    with pytest.raises(fedsim.Refused, match="--only 'tff': matches no competitor"):
        chosen(everyone, "bare,tff")


def test_all_begin_with_fedsims_weights_and_clients(work: Work) -> None:
    from fedsim.data import prepare
    from fedsim.models import initial_model

    experiment = fedsim.Experiment.load(work.folder / "experiment.toml")
    with cache_in(work.folder):
        data = prepare(experiment)
    model = initial_model(experiment, task_of(experiment, data.spec))
    plain, last = (network.network(work.weights(), channels_last) for channels_last in (False, True))
    for one in (plain, last):
        assert network.count(one) == network.count(model) == PARAMETERS == 215_370
    inputs, labels = tensors(data, data.client(4).train)
    x, y = work.clients()
    assert np.array_equal(x[4], inputs)
    assert np.array_equal(y[4], labels)
    expected = model(inputs).detach().numpy()
    for one in (plain, last):
        np.testing.assert_allclose(one(torch.from_numpy(x[4])).detach().numpy(), expected, atol=1e-6)


def by_fedsim(work: Work) -> list[np.ndarray]:
    experiment = fedsim.Experiment.load(work.folder / "experiment.toml", ["runtime.engine=sequential"])
    with cache_in(work.folder):
        model = fedsim.run(experiment).model()
    return [parameter.detach().numpy() for parameter in model.parameters()]


def assert_same(weights: list[torch.Tensor], expected: list[np.ndarray], first: list[np.ndarray]) -> None:
    for mine, theirs, before in zip(weights, expected, first, strict=True):
        assert np.abs(theirs - before).max() > 1e-4
        np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_bare_loop_computes_what_fedsim_does(work: Work, channels_last: bool) -> None:
    clock, weights = bare.run(work, 1, channels_last)
    assert len(clock.seconds) == work.rounds == 2
    assert_same(weights, by_fedsim(work), work.weights())


@pytest.mark.ray
@pytest.mark.slow
def test_the_competitors_do_the_same_work(work: Work) -> None:
    ran = measure(work, 2, "fedsim-local,bare-channels-last-2", Console(quiet=True))
    assert [(one.name, one.repeat) for one in ran] == [
        ("fedsim-local", 0), ("bare-channels-last-2-processes", 0),
        ("fedsim-local", 1), ("bare-channels-last-2-processes", 1),
    ]  # fmt: skip
    reports = [one.report for one in ran if one.report]
    assert len(reports) == 4
    assert {len(report.seconds) for report in reports} == {2}
    assert all(one.start > 0 for one in ran)
    losses = [report.test_loss for report in reports]
    assert losses[0] == losses[2]
    np.testing.assert_allclose(losses, losses[0], atol=1e-5)


@pytest.mark.ray
@pytest.mark.slow
def test_flowers_runtime_does_the_same_work(work: Work) -> None:
    pytest.importorskip("ray")
    path = work.folder / "work.json"
    (flower,) = chosen(competitors(work), "flower-ray")
    ran = run(flower, work, path)
    assert ran.report is not None, ran.reason
    assert len(ran.report.seconds) == 2
    model = network.network(by_fedsim(work))
    np.testing.assert_allclose(ran.report.test_loss, network.central_loss(model, work), atol=1e-5)


def test_a_flower_client_trains_as_the_bare_loop_does(work: Work) -> None:
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict

    from fedsim.experiments.benchmarks.peers.flower_app import make_client_app
    from fedsim.runtime.spec import acting_as

    start = network.network(work.weights())
    content = RecordDict(
        {"arrays": ArrayRecord(start.state_dict()), "config": ConfigRecord({"server-round": 1})}
    )
    context = Context(1, 9, {"partition-id": 5, "num-partitions": 6}, RecordDict(), {})
    app = make_client_app(str(work.folder / "work.json"))
    with acting_as(1):
        content = app(Message(content, 9, MessageType.TRAIN), context).content
    x, y = (torch.from_numpy(array[5]) for array in work.clients())
    optimizer = torch.optim.SGD(start.parameters(), lr=work.case.learning_rate)
    loss = network.train(start, optimizer, x, y, 10, work.stream(1, 1, 5))
    assert dict(content.metric_records["metrics"]) == {"num-examples": 10, "train-loss": loss}
    for mine, theirs in zip(start.parameters(), content.array_records["arrays"].values(), strict=True):
        assert np.array_equal(mine.detach().numpy(), theirs.numpy())


class TestRunner:
    @staticmethod
    def run(work: Work, code: str) -> Outcome:
        competitor = Competitor("one", lambda: [sys.executable, "-c", code])
        return run(competitor, work, work.folder / "work.json")

    @pytest.fixture
    def work(self, tmp_path: Path) -> Work:
        return replace(SETTING, folder=tmp_path)

    def test_a_report_is_read(self, work: Work) -> None:
        report = Report(time.time() + 50, [0.5], 1.5, 3, {"torch": "2"})
        code = f"import sys; open(sys.argv[2], 'w').write({json.dumps(json.dumps(report.__dict__))})"
        ran = self.run(work, code)
        assert (ran.report, ran.reason) == (report, None)
        assert 49 < ran.start <= 50

    def test_a_crash_is_a_failure_with_its_last_line(self, work: Work) -> None:
        assert self.run(work, "print('fine'); raise ValueError('boom')").reason == "failed: ValueError: boom"
        assert self.run(work, "raise SystemExit(3)").reason == "failed: ended with 3"
        assert self.run(work, "pass").reason == "failed: ended with 0"

    def test_who_is_not_there_is_passed_over(self, work: Work) -> None:
        def make() -> list[str]:
            raise Unavailable("no wheels")

        assert run(Competitor("one", make), work, Path("x")).reason == "skipped: no wheels"

    @pytest.mark.parametrize("then", ["time.sleep(300)", "sys.exit(1)"])
    def test_children_end_with_who_takes_too_long_or_fails(
        self, work: Work, monkeypatch: pytest.MonkeyPatch, then: str
    ) -> None:
        monkeypatch.setattr("fedsim.experiments.benchmarks.runner.TIMEOUT", 2.0)
        child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])"
        ran = self.run(work, f"import subprocess, sys, time; print({child}.pid, flush=True); {then}")
        assert ran.reason is not None
        child_folder = Path("/proc") / ran.reason.removeprefix("failed: ")
        assert child_folder.name.isdigit()
        wait_for(lambda: not child_folder.exists())


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_memory_counts_children_and_what_is_shared_once() -> None:
    before = memory.proportional(os.getpid())
    assert before > 10 * 2**20
    code = "import subprocess, sys; x = bytearray(100 << 20); print('there', flush=True); sys.stdin.read()"
    middle = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {code!r}]))"
    with subprocess.Popen(
        [sys.executable, "-c", middle], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == b"there\n"
        assert len(memory.descendants(child.pid)) == 2
        assert set(memory.descendants(child.pid)) < set(memory.descendants(os.getpid()))
        held = memory.proportional(os.getpid()) - before
        assert 100 * 2**20 < held < 200 * 2**20
        peak = memory.Peak(every=2)
        for _ in range(2):
            peak.look(child.pid)
        child.communicate(b"")
        seen = peak.bytes
        assert seen > 100 * 2**20
        peak.look(child.pid)
        assert peak.bytes == seen
    assert memory.proportional(child.pid) == 0


def test_the_scaling_rows_change_one_thing_at_a_time() -> None:
    rows = scaling.rows(2)
    assert [row.clients for row in rows if row.series == "clients"] == [100, 1000, 10_000, 100_000]
    base = scaling.Row("")
    for series, changing in {
        "cohort": {"cohort"}, "model": {"width", "hidden"}, "workers": {"workers"}
    }.items():  # fmt: skip
        for row in (row for row in rows if row.series == series):
            changed = {name for name in row.__dict__ if getattr(row, name) != getattr(base, name)}
            assert changed - {"series"} <= changing


@pytest.mark.ray
@pytest.mark.slow
def test_one_scaling_row() -> None:
    row = scaling.Row("clients", clients=30, cohort=5, examples=2, width=0.25, hidden=8, workers=1)
    measured = scaling.measure(row, warmup=1, timed=2, seed=0)
    assert isinstance(measured, scaling.Measured), measured
    assert len(measured.seconds) == 2
    # (25 + 1) 8 + (25 * 8 + 1) 16 + (784 + 1) 8 + (8 + 1) 10
    assert measured.parameters == 208 + 3216 + 6280 + 90
    assert measured.memory > 100 * 2**20
    assert scaling.table([measured]).row_count == 1
