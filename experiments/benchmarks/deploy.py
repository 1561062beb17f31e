"""Overhead of server and client processes: seconds a round, and a stage of secure aggregation.

    python -m fedsim.experiments.benchmarks.deploy --json deploy.json

A minimal round of 5 clients that all take part: one step of a linear model on a batch of digits. First by the local
engine, then by a server and clients as processes of this machine with TLS, started once and warm when rounds are
timed. `plain`: one message to each client and its reply. `secagg`: the same by secure aggregation, a message and its
reply a stage. Timed rounds don't evaluate the model.

The overhead of a round is the difference of the medians; that of a stage is the additional overhead of `secagg`
rounds for each additional message. Besides wall time (`s`), the CPU time of all processes is shown (`CPU s`), which
is more reliable on a busy machine.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import fedsim
from fedsim import Experiment
from fedsim.deployment.local import LocalDeployment, started
from fedsim.experiments.benchmarks import command, host
from fedsim.progress import Silent
from fedsim.secagg.setup import policy_of

CASES = {"plain": (), "secagg": ("privacy.secagg.dropout=0.2",)}
WARMUP = 3
TARGET = 1.0  # seconds a plain round


@dataclass(frozen=True)
class Case:
    """What was measured of one case.

    Attributes:
        name: Key of `CASES`.
        stages: Messages to each client in a round.
        local: Seconds of each timed round by the local engine.
        deployed: The same by processes.
        start: Seconds from the submission of the run to the end of its first round.
        cpu: Seconds a round that server, ServerApp and clients compute, all together.
    """

    name: str
    stages: int
    local: list[float]
    deployed: list[float]
    start: float
    cpu: float

    @property
    def overhead(self) -> float:
        """Seconds that a round by processes takes longer, by the medians."""
        return statistics.median(self.deployed) - statistics.median(self.local)


def experiment(clients: int, rounds: int, seed: int, overrides: Sequence[str]) -> Experiment:
    """Return the minimal experiment; its last round evaluates, and is not timed."""
    text = f"""
        name = "benchmark"
        seed = {seed}
        rounds = {WARMUP + rounds + 1}
        [data]
        clients = {clients}
        partition = "iid"
        [model]
        name = "linear"
        [client]
        steps = 1
        [server]
        cohort = {clients}
        evaluate-every = {WARMUP + rounds + 1}
    """
    return Experiment.from_toml(text, overrides)


def stages_of(setting: Experiment) -> int:
    """Return the number of messages to each client in a round."""
    policy = policy_of(setting, 1, np.ones(1, np.int64))
    if policy is None:
        return 1
    spec = policy.spec(run="", round_=1, session="", clients=setting.server.cohort, task="")
    return len(spec.stages)


def measure(deployment: LocalDeployment, name: str, setting: Experiment, folder: Path) -> Case:
    """Run a case by the local engine, and then by processes."""
    local = fedsim.run(setting, folder / f"{name}-local")
    begun, watch = time.perf_counter(), _Watch({child.process.pid for child in deployment.children.started})
    deployed = deployment.run(setting, folder / f"{name}-deployed", watch, print)
    start = watch.times[0] - begun
    return Case(name, stages_of(setting), _timed(local), _timed(deployed), start, watch.cpu_a_round())


def _timed(run: fedsim.Run) -> list[float]:
    """Return the seconds of the rounds, without warm-up rounds and the evaluated one."""
    return [row["seconds"] for row in run.rows[WARMUP:-1]]


class _Watch(Silent):
    """Notes the end of each round, and the CPU time so far."""

    def __init__(self, processes: set[int]) -> None:
        self.processes = processes
        self.times: list[float] = []
        self.cpu: list[float] = []

    def round_done(self, row: object) -> None:
        """Note a round."""
        self.times.append(time.perf_counter())
        self.cpu.append(cpu_of(self.processes))

    def cpu_a_round(self) -> float:
        """Return the CPU seconds a round, without warm-up rounds and the last."""
        return (self.cpu[-2] - self.cpu[WARMUP - 1]) / (len(self.cpu) - 1 - WARMUP)


def cpu_of(roots: set[int]) -> float:
    """Return the CPU seconds of running processes and their descendants."""
    ticks, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = (
                path.read_text().rpartition(")")[2].split()
            )  # from the third one on: the name may have blanks
        except OSError:  # it has ended
            continue
        parents[int(path.parent.name)] = int(fields[1])
        ticks[int(path.parent.name)] = int(fields[11]) + int(fields[12])
    ours = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(ticks.get(pid, 0) for pid in ours) / os.sysconf("SC_CLK_TCK")


def stage_overhead(cases: Sequence[Case]) -> float | None:
    """Return the seconds of one more message to each client; None if only one case was measured."""
    found = {case.name: case for case in cases}
    if len(found) < len(CASES):
        return None
    plain, secagg = (found[name] for name in CASES)
    return (secagg.overhead - plain.overhead) / (secagg.stages - plain.stages)


def table(cases: Sequence[Case]) -> Table:
    """Return a line a case."""
    made = Table(title="seconds a round: median, and lowest to highest")
    for column in (
        "case",
        "messages",
        "local engine",
        "",
        "processes",
        "",
        "overhead",
        "CPU s",
        "first round after",
    ):
        made.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
    for case in cases:
        cells = [cell for seconds in (case.local, case.deployed) for cell in _spread(seconds)]
        made.add_row(
            case.name,
            str(case.stages),
            *cells,
            f"{case.overhead:.3f}",
            f"{case.cpu:.3f}",
            f"{case.start:.1f} s",
        )
    return made


def _spread(seconds: Sequence[float]) -> tuple[str, str]:
    return f"{statistics.median(seconds):.3f}", f"{min(seconds):.3f} to {max(seconds):.3f}"


def verdicts(cases: Sequence[Case]) -> list[str]:
    """Return a line for the target, and one for a stage."""
    lines = [
        f"target: a plain round with warm clients in less than {TARGET:g} s; measured: "
        f"{statistics.median(case.deployed):.3f} s"
        for case in cases
        if case.name == "plain"
    ]
    stage = stage_overhead(cases)
    return lines if stage is None else [*lines, f"overhead of a stage of secure aggregation: {stage:.3f} s"]


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Print the table, and write it where asked."""
    parser = command.arguments(__doc__)
    parser.add_argument("--clients", type=command.positive, default=5, help="processes (default: 5)")
    parser.add_argument("--rounds", type=command.positive, default=20, help="timed, in a run (default: 20)")
    asked = parser.parse_args(argv)
    console, before = console or command.console(), host.describe()
    with tempfile.TemporaryDirectory(prefix="fedsim-benchmark-") as place:
        folder = Path(place)
        (folder / "party").mkdir()
        begun = time.perf_counter()
        try:
            with started(folder / "party", asked.clients) as deployment:
                joined = time.perf_counter() - begun
                cases = [
                    measure(
                        deployment,
                        name,
                        experiment(asked.clients, asked.rounds, asked.seed, overrides),
                        folder,
                    )
                    for name, overrides in CASES.items()
                ]
        except fedsim.Refused as refused:
            command.refuse(f"deploy: {refused}")
    if asked.json:
        tree = {
            "host": {"before": before, "after": host.describe()},
            "settings": {"clients": asked.clients, "rounds": asked.rounds, "seed": asked.seed},
            "joined": joined,
            "cases": [asdict(case) | {"overhead": case.overhead} for case in cases],
            "stage-overhead": stage_overhead(cases),
        }
        asked.json.write_text(json.dumps(tree, indent=2) + "\n")
    console.print(table(cases))
    lines = [f"server and {asked.clients} clients started and joined in {joined:.1f} s", *verdicts(cases)]
    for line in lines:
        console.print(line, highlight=False, markup=False)


if __name__ == "__main__":
    main()
