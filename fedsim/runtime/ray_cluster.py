"""The Ray engine: workers are actors of a Ray cluster, on one machine or on many."""

from __future__ import annotations

import logging
import os
import queue
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.arrays import Values
from fedsim.errors import Refused
from fedsim.runtime.jobs import Job, perform
from fedsim.runtime.packing import Packer, unpack
from fedsim.runtime.pool import Died, Done, PoolGrid, Ready, Worker
from fedsim.runtime.spec import AppSpec
from fedsim.threads import cores


class WorkerProcess:
    """The actor's process on the cluster, which answers its jobs."""

    def __init__(self, spec: AppSpec, path: list[str]) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        self._spec = spec

    def load(self) -> str:
        """Import the ClientApp; return the error, if any."""
        try:
            self._app = self._spec.load_in_worker()
        except Refused as refused:
            return str(refused)
        return ""

    def do(
        self, job: Job, arrays: Sequence[Values], states: bytes, state_arrays: Sequence[Values]
    ) -> tuple[bytes, list[Values]]:
        """Do a job; return the packed outcome and its arrays."""
        outcome = perform(self._app, self._spec, job, arrays, unpack(states, state_arrays))
        packer = Packer()
        return packer.pack(outcome), packer.arrays


class Actor(Worker):
    """An actor of the cluster; `heard` receives its messages."""

    def __init__(
        self, ray: Any, spec: AppSpec, heard: queue.SimpleQueue[tuple[Actor, Future[Any]] | None]
    ) -> None:
        super().__init__()
        self._ray = ray
        self._heard = heard
        remote = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(WorkerProcess)
        self._actor = remote.remote(spec, [p or str(Path.cwd()) for p in sys.path])
        self._expect(self._actor.load.remote())

    def give(self, job: Job, shared: Any, states: bytes, state_arrays: Sequence[Values]) -> None:
        """Give it a job."""
        self._expect(self._actor.do.remote(job, [] if shared is None else shared, states, list(state_arrays)))

    def stop(self) -> None:
        """End it."""
        self._ray.kill(self._actor)

    def understand(self, said: Future[Any]) -> Ready | Done | Died:
        """Interpret an answer of the actor."""
        if (error := said.exception()) is not None:
            return Died(f"Ray actor ended ({type(error).__name__})")
        if isinstance(said.result(), str):
            return Ready(said.result())
        packed, arrays = said.result()
        return Done(packed, [np.array(values) for values in arrays])  # Ray's own are read-only

    def _expect(self, reference: Any) -> None:
        reference.future().add_done_callback(lambda future: self._heard.put((self, future)))


class RayGrid(PoolGrid):
    """Runs clients in actors of a Ray cluster; see `PoolGrid`.

    Each node of the cluster needs fedsim and the clients' files: data is prepared on each node.

    Args:
        spec: The app and its run.
        workers: Number of actors, of one core each; 0: as many as the cluster has cores.
        address: Of a cluster, as `ray.init` takes it (`"auto"`: the one this machine is in); empty: Ray is started
            on this machine, and ended with the grid.

    Raises:
        Refused: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, spec: AppSpec, workers: int = 0, address: str = "") -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
        try:
            import ray
        except ImportError:
            raise Refused("runtime.engine = 'ray': Ray is not installed; pip install 'fedsim[ray]'") from None
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(
                    address or "local",
                    num_cpus=None if address else workers or cores(),
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    include_dashboard=None,
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                first = str(error).strip().splitlines()[0]
                raise Refused(f"runtime.address = {address!r}: {first}") from None
        self._heard: queue.SimpleQueue[tuple[Actor, Future[Any]] | None] = queue.SimpleQueue()
        super().__init__(spec, workers or int(self._ray.cluster_resources()["CPU"]))

    def _start(self) -> Actor:
        return Actor(self._ray, self.spec, self._heard)

    def _listen(self) -> Iterator[tuple[Worker, Ready | Done | Died]]:
        heard = self._heard.get()
        if heard is not None:
            actor, said = heard
            yield actor, actor.understand(said)

    def _ring(self) -> None:
        self._heard.put(None)

    def _share(self, arrays: Sequence[Values]) -> Any:
        return self._ray.put(list(arrays)) if arrays else None

    def close(self) -> None:
        """End the actors, and Ray if it was started here; work under way is lost."""
        super().close()
        if self._ours:
            self._ray.shutdown()
