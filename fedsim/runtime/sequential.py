"""The reference engine: in this process, one client after another."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from fedsim.runtime.grid import ClientsGrid
from fedsim.runtime.jobs import Fold, Groups, Job, Outcome, perform
from fedsim.runtime.packing import Packer, unpack
from fedsim.runtime.spec import AppSpec


class SequentialGrid(ClientsGrid):
    """Slow and obvious; what the other engines are tested against."""

    def __init__(self, spec: AppSpec) -> None:
        super().__init__(spec)
        self._app = spec.load()

    def _submit(self, jobs: Sequence[Groups], fold: Fold[Any] | None) -> list[Future[Outcome]]:
        futures = []
        for groups in jobs:
            packer = Packer()
            job = Job.of(groups, fold, packer)
            states = unpack(packer.pack(self._states_of(job)), packer.arrays)
            outcome = perform(self._app, self.spec, job, packer.arrays, states)
            done: Future[Outcome] = Future()
            done.set_result(self._note(outcome))
            futures.append(done)
        return futures
