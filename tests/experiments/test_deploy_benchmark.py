"""The benchmark of deployments: its arithmetic, and that it measures real processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fedsim.experiments.benchmarks import deploy
from fedsim.experiments.benchmarks.deploy import CASES, WARMUP, Case, cpu_of, experiment, stages_of

PLAIN = Case("plain", 1, local=[0.1, 0.1, 0.3], deployed=[0.5, 0.4, 0.9], start=2.0, cpu=1.25)
SECAGG = Case("secagg", 4, local=[0.2, 0.2, 0.2], deployed=[1.2, 1.2, 1.3], start=3.0, cpu=3.5)


def test_overheads_by_hand() -> None:
    assert PLAIN.overhead == pytest.approx(0.4)
    assert SECAGG.overhead == pytest.approx(1.0)
    assert deploy.stage_overhead([PLAIN, SECAGG]) == pytest.approx((1.0 - 0.4) / 3)
    assert deploy.stage_overhead([PLAIN]) is None
    assert deploy.verdicts([PLAIN, SECAGG]) == [
        "target: a plain round with warm clients in less than 1 s; measured: 0.500 s",
        "overhead of a stage of secure aggregation: 0.200 s",
    ]


def test_the_table_has_a_line_a_case() -> None:
    console = Console(width=132, record=True)
    console.print(deploy.table([PLAIN, SECAGG]))
    lines = [line.split() for line in console.export_text().splitlines()]
    cells = next(line for line in lines if "plain" in line)
    assert [cell for cell in cells if cell not in ("│", "to", "s")] == (
        ["plain", "1", "0.100", "0.100", "0.300", "0.500", "0.400", "0.900", "0.400", "1.250", "2.0"]
    )


def test_the_cases_are_what_they_are_called() -> None:
    settings = {name: experiment(5, 20, 0, overrides) for name, overrides in CASES.items()}
    assert {name: stages_of(setting) for name, setting in settings.items()} == {"plain": 1, "secagg": 4}
    for setting in settings.values():
        assert (setting.data.clients, setting.server.cohort, setting.rounds) == (5, 5, WARMUP + 21)
        assert setting.server.evaluate_every == setting.rounds


def test_the_work_of_processes_and_their_children_is_seen() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {work!r}], check=True)"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert 0.25 <= cpu_of({worker.pid}) < 30
        worker.communicate(b"\n")
    assert cpu_of({worker.pid}) == 0


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    console = Console(width=132, record=True)
    deploy.main(["--clients", "3", "--rounds", "2", "--json", str(tmp_path / "deploy.json")], console)
    said = console.export_text()
    assert "server and 3 clients started and joined in" in said
    assert "overhead of a stage of secure aggregation" in said
    assert (tmp_path / "deploy.json").stat().st_size > 0
