"""Finds and reads the runs to compare, each once."""

from __future__ import annotations

import glob
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.compare.costs import Cost, costs_of
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.results.disclosure import MODEL
from fedsim.results.files import unless_damaged
from fedsim.results.run import Run, numbers_of
from fedsim.tables import dotted
from fedsim.tasks import Scoring

NOT_SETTINGS = frozenset({"name", "seed"})  # and [runtime], which changes no result
HASH = "0" * 64  # as long as in the messages of a simulation's rounds


@dataclass(frozen=True)
class ComparedRun:
    """A run, as it was when it was read.

    Attributes:
        path: Its directory, as given.
        name: Name of the experiment.
        seed: Its seed.
        status: See `Run.status`; only `completed` ones count.
        error: The manifest's error, if any.
        task: Data set and task of its metrics.
        mechanism: Its mechanisms, in words.
        settings: Values of the experiment by dotted key, without `NOT_SETTINGS` and unset ones; the algorithm's name always.
        rows: One a round.
        costs: By adversary.
        update_bytes: Bytes of the model's arrays and of the algorithm's fields; None: there are no final weights.
        ideal_bytes: Bytes that its ideal secure aggregation would have sent with the real protocol; None: there is
            none, or they are unknown.
        wall_seconds: Of all its sessions.
        commit: Of fedsim, if known.
        scoring: The metrics of its task.
    """

    path: Path
    name: str
    seed: int
    status: str
    error: str
    task: str
    mechanism: str
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    costs: Mapping[str, Cost]
    update_bytes: int | None
    wall_seconds: float | None
    commit: str | None
    ideal_bytes: int | None = None
    scoring: Scoring = field(default_factory=Scoring)

    @classmethod
    def of(cls, run: Run) -> ComparedRun:
        """Read a run of an experiment; raises `Refused` for other runs, and unreadable ones."""
        try:
            with unless_damaged(run.path):
                return cls._read(run)
        except OSError as error:
            raise Refused(f"run {str(run.path)!r}: {error.filename}: {error.strerror}") from None

    @classmethod
    def _read(cls, run: Run) -> ComparedRun:
        experiment, manifest, rows, status = run.experiment, run.manifest, run.rows, run.status
        size = _update_size(run.path / MODEL, manifest.get("fields", {}))
        secagg, ideal_bytes = experiment.privacy.secagg, None
        if secagg is not None and secagg.mode == "ideal" and size is not None:
            ideal_bytes = _protocol_bytes(experiment, manifest, rows, size[0])
        settings = dotted(experiment.model_dump(by_alias=True, mode="json", exclude={"runtime"}))
        settings.setdefault("algorithm.name", experiment.algorithm_entry.name)
        source = experiment.data.pick(experiment.data.source_entry).model_dump(by_alias=True, mode="json")
        return cls(
            path=run.path,
            name=experiment.name,
            seed=experiment.seed,
            status=status,
            error=str(manifest.get("error", "")),
            task=_task(experiment.data.source, source, manifest.get("task", {}).get("name", "")),
            mechanism=_mechanism(experiment.privacy.mechanisms, secagg is not None),
            settings={
                key: value for key, value in settings.items() if value is not None and key not in NOT_SETTINGS
            },
            rows=rows,
            costs=costs_of(manifest.get("epsilon", {})),
            update_bytes=None if size is None else size[1],
            wall_seconds=manifest.get("wall-seconds"),
            commit=manifest.get("commit"),
            ideal_bytes=ideal_bytes,
            scoring=run.scoring,
        )

    @property
    def counts(self) -> bool:
        """Whether it enters means: only completed runs do."""
        return self.status == "completed"

    @cached_property
    def finals(self) -> Mapping[str, float]:
        """The last value of each numeric column, unless it is not finite; `seconds` and `bytes` are totals over rounds."""
        last = dict(numbers_of({name: value for row in self.rows for name, value in row.items()}))
        if any("seconds" in row for row in self.rows):
            last["seconds"] = sum(float(row.get("seconds", 0.0)) for row in self.rows)
        if self.transferred is not None:
            last["bytes"] = float(self.transferred)
        return last

    @property
    def is_ideal(self) -> bool:
        """Whether its secure aggregation is the ideal one."""
        return self.settings.get("privacy.secagg.mode") == "ideal"

    @property
    def transferred(self) -> int | None:
        """Bytes of models and updates in all rounds, both ways, without Flower's envelopes; None: unknown.

        Each asked client received the model, with the algorithm's fields, and returned an update of the same size.
        With secure aggregation the protocol's bytes were counted or, in ideal mode, follow from its cost model. With
        the operating system's noise none of this is public.
        """
        if self.update_bytes is None or (self.is_ideal and self.ideal_bytes is None):
            return None
        if not all("clients" in row for row in self.rows):
            return None
        clients = sum(int(row["clients"]) for row in self.rows)
        down = self.update_bytes * sum(int(row["clients"]) + int(row["failures"]) for row in self.rows)
        if "privacy.secagg.mode" not in self.settings:
            return down + self.update_bytes * clients
        if self.ideal_bytes is not None:
            return down + self.ideal_bytes
        both = ("secagg-bytes-up", "secagg-bytes-down")
        return down + sum(int(row.get(key, 0)) for row in self.rows for key in both)


def find_runs(patterns: Iterable[str | Path]) -> list[Path]:
    """Return run directories, each once, in order; raises `Refused` for a pattern without a run.

    A pattern is a run directory, a folder of them (as `runs` or a sweep's), or a glob.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        places = [Path(place) for place in sorted(glob.glob(str(pattern)))]  # noqa: PTH207 (may be absolute)
        runs = [run for place in places for run in _runs_at(place)]
        if not runs:
            raise Refused(
                f"RUNS {str(pattern)!r}: no run directory is there; a run, a folder of runs or a glob is needed"
            )
        found |= dict.fromkeys(runs)
    return list(found)


def _runs_at(place: Path) -> list[Path]:
    """Return the run at a folder, or the runs in it: directly, or a sweep's under `runs`."""
    if (place / "manifest.json").is_file():
        return [place]
    return sorted(path.parent for inside in ("*", "runs/*") for path in place.glob(f"{inside}/manifest.json"))


def _task(source: str, options: Mapping[str, Any], task: str = "") -> str:
    """Name the data set and the task of scores; a task with the metric accuracy is left out.

    >>> _task("npz", {"path": "/data/mnist.npz"})
    'npz (path=/data/mnist.npz)'
    >>> _task("npz", {"path": "/data/houses.npz"}, "regression")
    'npz (path=/data/houses.npz), regression'
    """
    said = ", ".join(f"{key}={value}" for key, value in options.items() if value is not None)
    return (f"{source} ({said})" if said else source) + (f", {task}" if task else "")


def _mechanism(mechanisms: Sequence[str], secagg: bool) -> str:
    """Name a run's mechanisms.

    >>> _mechanism([], False), _mechanism(["dp-fedavg"], True)
    ('no privacy', 'dp-fedavg + secagg')
    """
    return " + ".join([*mechanisms, *(["secagg"] if secagg else [])]) or "no privacy"


def _protocol_bytes(
    experiment: Experiment, manifest: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], numbers: int
) -> int | None:
    """Return the bytes that rounds of ideal secure aggregation would have sent with the real protocol, both ways.

    They are by its cost model (`fedsim.privacy.secagg.costs`). Failed clients are assumed lost before their uploads.

    Args:
        experiment: Of the run, with `[privacy.secagg]`.
        manifest: Has the largest weight that the run's parties agreed on.
        rows: The rounds.
        numbers: Of an update.

    Returns:
        The bytes, exact if no client failed; None: the manifest or the rows lack the values.
    """
    from fedsim.privacy.secagg.costs import round_costs
    from fedsim.secagg.setup import policy_of  # loads cryptography, which few comparisons need

    weight = manifest.get("secure-aggregation", {}).get("max-weight")
    ideal = None if weight is None else policy_of(experiment, numbers, np.full(1, weight, np.int64))
    if ideal is None or not all("clients" in row for row in rows):
        return None
    policy = replace(ideal, mode="real")
    total = 0.0
    rounds = Counter((int(row["clients"]), int(row["failures"])) for row in rows)
    for (came, lost), count in rounds.items():
        try:
            spec = policy.spec(run="0", round_=1, session=HASH, clients=came + lost, task=HASH)
        except ValueError:  # there is no such round
            continue
        total += count * round_costs(spec, dropped=min(lost, came + lost - 1)).server.bytes
    return round(total)


def _update_size(weights: Path, fields: Mapping[str, int]) -> tuple[int, int] | None:
    """Return the numbers and bytes of an update: of a safetensors file, by its header, and of the algorithm's fields.

    None without a file.
    """
    if not weights.is_file():
        return None
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    numbers = sum(math.prod(array["shape"]) for name, array in header.items() if name != "__metadata__")
    size = weights.stat().st_size - 8 - length
    return numbers + fields.get("numbers", 0), size + fields.get("bytes", 0)


def key_of(settings: Mapping[str, Any]) -> str:
    """Return a canonical text of settings."""
    return json.dumps(settings, sort_keys=True)
