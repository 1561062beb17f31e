"""The competitors, and how each is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from fedsim import Experiment, Refused
from fedsim.experiments.benchmarks import pfl_environment
from fedsim.experiments.benchmarks.work import Work

PEERS = "fedsim.experiments.benchmarks.peers"
HERE = Path(__file__).parents[2]  # where the package `experiments` lies


class Unavailable(Exception):
    """A competitor can't be run here; the message says why."""


@dataclass(frozen=True)
class Competitor:
    """One way to do the work.

    Attributes:
        name: Its name in `--only` and the table.
        make: Returns the command, without the work and the report; raises `Unavailable`.
        options: Options after these.
        environment: Its environment variables.
    """

    name: str
    make: Callable[[], list[str]]
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, work: Path, report: Path) -> list[str]:
        """Return the whole command; raises `Unavailable`."""
        return [*self.make(), str(work), str(report), *self.options]


def competitors(work: Work) -> list[Competitor]:
    """Return all competitors, fedsim first; they run in `work.folder`."""
    return [
        Competitor("fedsim-local", lambda: _fedsim(work, "local"), ("--set", "runtime.engine=local"), ours()),
        Competitor("fedsim-ray", lambda: _fedsim(work, "ray"), ("--set", "runtime.engine=ray"), ours()),
        _flower(work),
        *_pfl(work),
        *_bare(work),
    ]


def _flower(work: Work) -> Competitor:
    environment = ours() | {
        "FLWR_HOME": str(work.folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }

    def make() -> list[str]:
        _need_ray()
        return module("flower")

    return Competitor("flower-ray", make, (), environment)


def _pfl(work: Work) -> list[Competitor]:
    """Return pfl-research in one process with one thread and with all, and in all processes; one with channels last."""
    cores, path = work.cores, {"PYTHONPATH": str(work.folder / "pfl")}

    def make(processes: int) -> list[str]:
        try:
            python = pfl_environment.python()
        except RuntimeError as error:
            raise Unavailable(str(error)) from None
        # Its environment sees the package `experiments` and nothing else of ours.
        if not (link := work.folder / "pfl" / "experiments").exists():
            link.parent.mkdir()
            link.symlink_to(HERE / "experiments")
        launch = ["torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", "-m"]
        return [str(python), "-m", *(launch if processes > 1 else []), f"{PEERS}.pfl_research"]

    found = [Competitor("pfl-1-process", lambda: make(1), (), path | _threads(1))]
    if cores > 1:
        more = ("--threads", str(cores))
        found += [
            Competitor(f"pfl-{cores}-threads", lambda: make(1), more, path | _threads(cores)),
            Competitor(f"pfl-{cores}-processes", lambda: make(cores), (), path | _threads(1)),
        ]
    last = f"pfl-channels-last-{_processes(cores)}"
    return [*found, Competitor(last, lambda: make(cores), ("--channels-last",), path | _threads(1))]


def _bare(work: Work) -> list[Competitor]:
    """Return the bare loop, plain and with channels last, in one process and in all."""
    return [
        Competitor(
            f"{name}-{_processes(processes)}",
            lambda: module("bare"),
            ("--processes", str(processes), *options),
            ours() | _threads(1),
        )
        for name, options in (("bare", ()), ("bare-channels-last", ("--channels-last",)))
        for processes in sorted({1, work.cores})
    ]


def chosen(everyone: list[Competitor], names: str | None) -> list[Competitor]:
    """Return the competitors with one of the comma-separated prefixes; all without any.

    Raises:
        Refused: A prefix matches none.
    """
    if names is None:
        return everyone
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if not any(competitor.name.startswith(name) for competitor in everyone):
            allowed = ", ".join(competitor.name for competitor in everyone)
            raise Refused(f"--only {name!r}: matches no competitor; allowed: {allowed}")
    return [competitor for competitor in everyone if competitor.name.startswith(tuple(wanted))]


def module(name: str) -> list[str]:
    """Return the command of a peer that runs in this environment."""
    return [sys.executable, "-m", f"{PEERS}.{name}"]


def ours() -> dict[str, str]:
    """Return the variables of such a peer, so that it finds the package `experiments` from any folder."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))}


def _threads(count: int) -> dict[str, str]:
    return {name: str(count) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def _processes(count: int) -> str:
    return f"{count}-process{'' if count == 1 else 'es'}"


def _fedsim(work: Work, engine: str) -> list[str]:
    try:
        Experiment.load(work.folder / "experiment.toml", [f"runtime.engine={engine}"])
    except Refused as refused:
        raise Unavailable(str(refused)) from None
    if engine == "ray":
        _need_ray()
    return module("simulator")


def _need_ray() -> None:
    if find_spec("ray") is None:
        raise Unavailable("ray is not installed")
