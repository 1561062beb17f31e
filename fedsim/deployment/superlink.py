"""Flower's SuperLink as an ASGI app, over a database file."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import Refused

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger("fedsim.server")

TIDY = 1.0  # seconds


def open_superlink(database: Path, secret: bytes, has_keys: bool) -> FastAPI:
    """Return Flower's app; the runs that ended with the server before this one are known as failed.

    Args:
        database: Its file, which is made where there is none.
        secret: Whoever has it may ask for runs to start: SuperExec.
        has_keys: Whether clients are registered by their keys; else they register themselves.

    Raises:
        Refused: The file can't be used as a database.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        app = _app(database, secret, has_keys)
        _end_lost_runs(app)
        _tidy_seldom(app)
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise Refused(f"--state {str(database.parent)!r}: {database.name}: {reason}") from None
    return app


def _app(database: Path, secret: bytes, has_keys: bool) -> FastAPI:
    from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
    from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app

    config = SuperLinkLifespanConfig(
        superexec_auth_secret=secret,
        enable_supernode_auth=has_keys,
        database=str(database),
        isolation=ISOLATION_MODE_PROCESS,  # it starts no SuperExec itself
        runtime_dependency_install=False,
        simulation=False,
        # What serves it sees to addresses and certificates, and the gate to the operator.
        host="",
        port=0,
        insecure=True,
        certificates=None,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        authn_plugin=NoOpControlAuthnPlugin(),
        # What was before HTTP, and what the open build hasn't.
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


def _end_lost_runs(app: FastAPI) -> None:
    from flwr.common.constant import Status, SubStatus

    state = app.state.linkstate_factory.state()
    for task in state.get_tasks(statuses=[Status.STARTING, Status.RUNNING]):
        state.finish_task(task.task_id, SubStatus.FAILED, "the server was restarted")
        log.warning("run %d was going on when the server before this one ended: it has failed", task.run_id)


def _tidy_seldom(app: FastAPI) -> None:
    """Have Flower look once a second for tasks that have not been heard of, and not in nearly every request.

    It takes half of what a request costs.
    """
    state = app.state.linkstate_factory.state()
    tidy, last = state._cleanup_expired_task_tokens, 0.0

    def seldom() -> None:
        nonlocal last
        if time.monotonic() - last >= TIDY:
            last = time.monotonic()
            tidy()

    state._cleanup_expired_task_tokens = seldom
