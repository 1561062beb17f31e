"""A case: files in an empty folder, and commands to run there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import tomli_w

Tree = Mapping[str, Any]

BASE: Tree = {
    "name": "golden",
    "seed": 7,
    "rounds": 3,
    "data": {"clients": 24, "partition": "iid"},
    "model": {"name": "linear"},
    "client": {"steps": 2},
    "server": {"cohort": 6},
    "runtime": {"engine": "sequential", "workers": 2},
}
FILE, RUN = "experiment.toml", "run"


@dataclass(frozen=True)
class Step:
    """One step of a case.

    Attributes:
        kind: `cli`: the command `fedsim` with `arguments`. `stop`: runs the experiment file `arguments[0]` into the
            directory `arguments[1]`, and sends itself SIGTERM when round `arguments[2]` has ended.
        arguments: As texts.
    """

    kind: Literal["cli", "stop"]
    arguments: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Commands, with a recorded outcome.

    Attributes:
        name: Unique; parts are separated by slashes.
        steps: Steps in the case's folder, in order.
        files: Initial files in the folder, by name.
        runs: The recorded run directories, if they exist.
        seeded: False: the operating system's noise is in the runs, and only what does not depend on it is recorded.
    """

    name: str
    steps: tuple[Step, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    runs: tuple[str, ...] = (RUN,)
    seeded: bool = True

    @property
    def sha256(self) -> str:
        """Hash of the case, without its name."""
        files = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(self.files.items())}
        steps = [[step.kind, *step.arguments] for step in self.steps]
        text = json.dumps([files, steps, list(self.runs), self.seeded])
        return hashlib.sha256(text.encode()).hexdigest()


def cli(*arguments: str) -> Step:
    """Return the step of one `fedsim` command."""
    return Step("cli", arguments)


def merged(*trees: Tree) -> dict[str, Any]:
    """Return merged trees, with later values winning; a value None removes a key."""
    result: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                below = result.get(key, {})
                result[key] = merged(below if isinstance(below, Mapping) else {}, value)
            elif value is None:
                result.pop(key, None)
            else:
                result[key] = value
    return result


def toml(*changes: Tree) -> bytes:
    """Return the base experiment with changes, as a TOML file."""
    return tomli_w.dumps(merged(BASE, *changes)).encode()


def whole(name: str, *changes: Tree, files: Mapping[str, bytes] | None = None, seeded: bool = True) -> Case:
    """Return the case of one run from start to end."""
    steps = (cli("run", FILE, "--out", RUN),)
    return Case(name=name, steps=steps, files={FILE: toml(*changes), **(files or {})}, seeded=seeded)


def resumed(name: str, *changes: Tree, after: int = 1, files: Mapping[str, bytes] | None = None) -> Case:
    """Return the case of a run that SIGTERM ends after a round, and its resumption."""
    steps = (Step("stop", (FILE, RUN, str(after))), cli("resume", RUN))
    return Case(name=name, steps=steps, files={FILE: toml(*changes), **(files or {})})
