"""Flower's own Grid and simulation fleet in this process: the reference for what messages mean.

Everything is Flower's but the backend, which Flower has only for Ray: this one pickles as Ray does.
"""

import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import ClientAppException
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet.vce.backend.backend import Backend
from flwr.server.superlink.fleet.vce.metrics import VceMetrics
from flwr.server.superlink.fleet.vce.vce_api import _register_node_info_stores, _register_nodes, run_api
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

RUN, TASK, SERVER = 1, 6, 1


class PicklingBackend(Backend):
    """One worker, in this process, that gets and returns copies."""

    num_workers = 1

    def __init__(self) -> None:
        self.app: Callable[[], ClientApp]

    def build(self, app_fn: Callable[[], ClientApp]) -> None:
        self.app = app_fn

    def is_worker_idle(self) -> bool:
        return True

    def terminate(self) -> None:
        pass

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        message, context = pickle.loads(pickle.dumps((message, context)))
        try:
            reply = self.app()(message, context)
        except Exception as error:
            raise ClientAppException(str(error)) from error
        copies: tuple[Message, Context] = pickle.loads(pickle.dumps((reply, context)))
        return copies


@contextmanager
def flower_fleet(app: ClientApp, clients: int) -> Iterator[tuple[InMemoryGrid, list[int]]]:
    """Yield Flower's in-memory grid and the node of each client."""
    factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
    run = Run.create_empty(RUN)
    run.primary_task_id, run.federation_id = TASK, NOOP_FEDERATION_ID
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER, TASK
    state = factory.state()
    assert isinstance(state, InMemoryLinkState)
    state.run_ids[RUN], state.task_store[TASK] = RunRecord(run=run), Task(task_id=TASK, run_id=RUN)
    nodes = _register_nodes(clients, factory)
    stores, stop = _register_node_info_stores(nodes, run), threading.Event()
    fleet = threading.Thread(
        target=run_api,
        args=(lambda: app, PicklingBackend, nodes, factory, stores, stop, VceMetrics()),
    )
    fleet.start()
    grid = InMemoryGrid(factory)
    grid.set_run(run)
    try:
        yield grid, sorted(nodes, key=lambda node: nodes[node])
    finally:
        stop.set()
        fleet.join()
