"""A disk that fails from some write on, and the run directories that a kill there leaves."""

from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

import fedsim
from fedsim import Experiment
from tests.support.stopping import Killed, die

MOST_STEPS = 500  # durable steps of a run of a few rounds


class Disk:
    """Lets a number of durable steps through and fails all after that: as a kill does, or in another way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], object] = die) -> None:
        self.left = -1
        self.fail = fail
        for name in ("os.fsync", "os.rename", "fedsim.results.checkpoint.ClientStates.keep"):
            self._guard(monkeypatch, name)

    def _guard(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        real = resolve_name(name.replace(".ClientStates", ":ClientStates"))

        def step(*arguments: Any) -> Any:
            if self.left == 0:
                self.fail()
            self.left -= 1
            return real(*arguments)

        monkeypatch.setattr(name, step)


def crashes(disk: Disk, setting: Experiment) -> Iterator[Path]:
    """Yield a run directory for each durable step that a kill can keep a run from."""
    for steps in range(MOST_STEPS):
        path = Path(f"killed-{steps}")
        disk.left = steps
        try:
            fedsim.run(setting, path)
            return
        except Killed:
            disk.left = -1
        if path.exists() and fedsim.load_run(path).status == "killed":
            yield path
    raise AssertionError(f"a run takes more than {MOST_STEPS} steps")
