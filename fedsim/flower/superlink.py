"""Flower's SuperLink as an ASGI app, over a database file; and the nodes in it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.common.constant import (
    ISOLATION_MODE_PROCESS,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    TRANSPORT_TYPE_GRPC_RERE,
    Status,
    SubStatus,
)
from flwr.server.superlink.linkstate import LinkState
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from sqlalchemy.exc import SQLAlchemyError

from fedsim.errors import Refused
from fedsim.flower.message_store import MessageStore

if TYPE_CHECKING:
    from fastapi import FastAPI
    from sqlalchemy.orm import Session

log = logging.getLogger("fedsim.server")

CLEANUP_INTERVAL = 1.0  # seconds


class Nodes:
    """Nodes by their public keys (PEM), in Flower's state over its database."""

    def __init__(self, state: LinkState) -> None:
        self._state = state

    def register(self, public_key: bytes, heartbeat: float) -> int:
        """Return the node of a key, made where there is none; `heartbeat`: seconds between its first heartbeats."""
        if (known := self._state.get_node_id_by_public_key(public_key)) is not None:
            return known
        return self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key, heartbeat)

    def take_offline(self, public_key: bytes) -> None:
        """Mark the node of a key as offline: Flower refuses a node that joins while it is online, as after a kill."""
        if (node := self._state.get_node_id_by_public_key(public_key)) is not None:
            self._state.deactivate_node(node)

    def online(self, nodes: Collection[int] | None) -> dict[int, bool]:
        """Return whether each node is online, by its id; None: all nodes that Flower knows."""
        found = self._state.get_node_info(node_ids=None if nodes is None else list(nodes))
        return {info.node_id: info.status == "online" for info in found}


@dataclass(frozen=True)
class SuperLink:
    """Flower's server: the ASGI app of its three APIs (Control, Fleet and Runtime), its messages, and its nodes."""

    app: FastAPI
    messages: MessageStore
    nodes: Nodes


def open_superlink(database: Path, secret: bytes, has_keys: bool) -> SuperLink:
    """Open a SuperLink; runs that were under way when the server before this one ended are marked as failed.

    The database's file is made where there is none; `secret` is SuperExec's, which alone may ask for runs to start;
    clients with keys (`has_keys`) are registered by these, others register themselves.

    Raises:
        Refused: The file can't be used as a database.
    """
    try:
        app = _app(database, secret, has_keys)
        state = app.state.linkstate_factory.state()
        _serialise(state)
        _end_lost_runs(state)
        _limit_cleanups(state)
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise Refused(f"--state {str(database.parent)!r}: {database.name}: {reason}") from None
    return SuperLink(app, MessageStore(state), Nodes(state))


def _app(database: Path, secret: bytes, has_keys: bool) -> FastAPI:
    config = SuperLinkLifespanConfig(
        superexec_auth_secret=secret,
        enable_supernode_auth=has_keys,
        database=str(database),
        isolation=ISOLATION_MODE_PROCESS,  # it starts no SuperExec itself
        runtime_dependency_install=False,
        simulation=False,
        # fedsim's server listens, has the certificates, and authenticates the operator.
        host="",
        port=0,
        insecure=True,
        certificates=None,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        authn_plugin=NoOpControlAuthnPlugin(),
        # Settings of the gRPC APIs, and of what Flower's open-source build lacks.
        control_address="",
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        health_server_address=None,
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
    )
    return create_app(config, SuperLinkLifespan)


def _serialise(state: Any) -> None:
    """Have one transaction at a time, which others wait for in line.

    SQLite has one writer at a time. The others would sleep and try again, in no order, and on a busy machine give up after
    Flower's 5 seconds: `database is locked`.
    """
    lock = threading.RLock()  # a thread's transaction may hold inner ones

    def in_line(session: Callable[[], AbstractContextManager[Session]]) -> Callable[[], Any]:
        @contextmanager
        def waiting() -> Iterator[Session]:
            with lock, session() as opened:
                yield opened

        return waiting

    for part in (state, state.object_store):
        part.session = in_line(part.session)


def _end_lost_runs(state: LinkState) -> None:
    for task in state.get_tasks(statuses=[Status.STARTING, Status.RUNNING]):
        state.finish_task(task.task_id, SubStatus.FAILED, "the server was restarted")
        log.warning("run %d was going on when the server before this one ended: it has failed", task.run_id)


def _limit_cleanups(state: Any) -> None:
    """Have Flower look for expired task tokens once a second, not in nearly every request: it takes half of its time."""
    clean_up, last = state._cleanup_expired_task_tokens, 0.0

    def limited() -> None:
        nonlocal last
        if time.monotonic() - last >= CLEANUP_INTERVAL:
            last = time.monotonic()
            clean_up()

    state._cleanup_expired_task_tokens = limited
