"""The server process: Flower's SuperLink behind authentication, and Flower's SuperExec.

The SuperLink's three APIs are one ASGI app, which uvicorn serves over TLS: Control for the operator, Fleet for clients,
Runtime for ServerApps.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from fedsim.deployment.credential import Verifier
from fedsim.deployment.keys import CA, SERVER_CERTIFICATE, SERVER_KEY, ServerKeys
from fedsim.deployment.server import apps, superexec
from fedsim.deployment.server.auth import Auth, Credentials
from fedsim.deployment.server.clients import Presence, Registration, client_list
from fedsim.deployment.server.run_files import run_files
from fedsim.deployment.server.sockets import Loop, listen, own_address, server_context
from fedsim.deployment.server.waiting import WaitingProtocol
from fedsim.deployment.wire import Address, is_loopback
from fedsim.errors import Refused, RunFailed
from fedsim.interruption import ending_signals
from fedsim.results.files import check_file, check_folder, remove_drafts, write_whole
from fedsim.results.lock import NAME as LOCK_NAME
from fedsim.results.lock import Held, Lock
from fedsim.threads import allow_files

if TYPE_CHECKING:
    from fedsim.experiment import Experiment
    from fedsim.flower.superlink import SuperLink

log = logging.getLogger("fedsim.server")

DATABASE, RUNS, FLOWER_HOME, SECRET = "superlink.db", "runs", "flwr", "superexec.secret"
FILES = 512  # that a server may have open, at least: connections above all
IDLE = 75  # seconds after which an idle connection is closed
PAUSE = 0.2  # seconds between checks whether the parent and SuperExec still run
GRACE = 3  # seconds for requests in flight after the server was told to end
TASK_POLL = "0.3"  # seconds between SuperExec's polls for a new run


@dataclass(frozen=True)
class Settings:
    """The options of `fedsim server`."""

    keys: ServerKeys | None  # None: no TLS, no keys, no credential, on loopback only
    state: Path  # the folder of its runs and its database
    host: str  # the address that it listens on
    port: int  # 0: a free port
    max_message: int  # bytes of a request's body, at most
    only: Sequence[
        Experiment
    ] = ()  # that it runs; empty: all that name no code and no data of the operator's choice
    max_nodes: int | None = None  # clients present at a time; None: all that are registered
    joins_per_minute: int | None = None  # None: no limit
    parent: int | None = None  # id of the process with which it ends; None: it ends by a signal only

    def __post_init__(self) -> None:
        if self.keys is None and not is_loopback(self.host):
            raise Refused(f"--host {self.host!r}: --insecure is for 127.0.0.1, ::1 and localhost alone")


def serve(settings: Settings) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, or until the parent ends; then end all processes that it has started.

    Raises:
        Refused: The state can't be written, another server uses it, the address isn't available, or too few files may be
            open.
        RunFailed: Flower's SuperExec ended by itself.
    """
    allow_files(FILES)
    with _claimed(settings.state):
        sockets = listen(settings.host, settings.port)
        _set_environment(settings)  # before Flower is imported
        from fedsim.flower.superlink import open_superlink

        _set_logging()
        secret = _write_secret(settings.state)
        superlink = open_superlink(settings.state / DATABASE, secret.read_bytes(), settings.keys is not None)
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(_serve(settings, superlink, sockets, secret))


@contextmanager
def _claimed(state: Path) -> Iterator[None]:
    """Make and lock the state's folder."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (state / RUNS).mkdir(exist_ok=True)
        check_folder(state / RUNS)
        lock = Lock(state)
    except Held:
        holder = (state / LOCK_NAME).read_text(errors="replace").strip()
        raise Refused(f"--state {str(state)!r}: the server of process {holder} uses it") from None
    except Refused as refused:
        raise Refused(f"--state {str(state)!r}: {refused}") from None
    except OSError as error:
        raise Refused(f"--state {str(state)!r}: {error.strerror}") from None
    try:
        remove_drafts(state)
        for name in (DATABASE, apps.APP_LOG):
            check_file(state / name)
        yield
    finally:
        lock.release()


def _set_environment(settings: Settings) -> None:
    """Set the environment of Flower, which reads it when it is imported, and of the processes to be started."""
    os.environ |= {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_LOG_LEVEL": "WARNING",
        "FLWR_HOME": str(settings.state / FLOWER_HOME),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": TASK_POLL,
        apps.STATE: str(settings.state),
        apps.KEYS: "" if settings.keys is None else str(settings.keys.folder),
        apps.LOOPBACK: "1" if is_loopback(settings.host) else "",
    }


def _set_logging() -> None:
    """Log fedsim's, uvicorn's and Flower's lines in one format. `Auth` logs the requests that Flower refuses."""
    from fedsim.flower.log import take_over_log

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(apps.FORMAT, apps.TIME_FORMAT))
    take_over_log()
    for name, level in {**apps.LEVELS, "uvicorn": logging.ERROR}.items():
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)


def _write_secret(state: Path) -> Path:
    """Make a new secret, by which SuperExec authenticates when it asks for runs to start."""
    path = state / SECRET
    try:
        write_whole(path, secrets.token_bytes(32), private=True)
    except OSError as error:
        raise Refused(f"--state {str(state)!r}: {SECRET}: {error.strerror}") from None
    return path


class _Front:
    """The ASGI apps around Flower's: authentication, admission, long polling, the message relay, run directories."""

    def __init__(self, settings: Settings, superlink: SuperLink) -> None:
        # These import Flower, which reads the environment.
        from fedsim.deployment.server.admission import Admission
        from fedsim.deployment.server.long_poll import LongPoll
        from fedsim.deployment.server.message_relay import MessageRelay

        nodes = superlink.nodes
        self.is_ready = False  # whether runs can start; `/health/ready` answers it
        self.clients = "any client"  # for the log
        credentials = registration = None
        if settings.keys is not None:
            registration = Registration(settings.keys.folder, nodes, settings.state / apps.CLIENTS)
            credentials = Credentials(Verifier(settings.keys.operator), registration)
            self.clients = f"{len(registration.nodes)} clients registered"
        relay = MessageRelay(superlink.app, superlink.messages)
        self._long_poll = LongPoll(relay)
        self.app = Auth(
            Admission(self._long_poll, settings.only),
            run_files(settings.state / RUNS, lambda: client_list(nodes, registration)),
            credentials,
            Presence(settings.max_nodes, settings.joins_per_minute),
            nodes.take_offline,
            settings.max_message,
            lambda: self.is_ready,
            relay.reply_limit,
        )

    def close(self) -> None:
        """Answer the pulls that wait."""
        self.is_ready = False
        self._long_poll.close()


async def _serve(
    settings: Settings, superlink: SuperLink, sockets: list[socket.socket], secret: Path
) -> None:
    """Serve until the server is told to end, or a process that it needs has ended; copy the ServerApps' log lines."""
    front, keys = _Front(settings, superlink), settings.keys
    server = _uvicorn(settings, front)
    ending = asyncio.Event()
    for number in ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    serving = asyncio.create_task(server.serve(sockets))
    while not server.started:
        if serving.done():
            raise RunFailed("Flower's SuperLink didn't start; its reason is above")
        await asyncio.sleep(0.01)
    app_log = apps.AppLog(settings.state / apps.APP_LOG)
    process = superexec.start(own_address(sockets), None if keys is None else keys.folder / CA, secret)
    try:
        front.is_ready = True
        scheme = "http" if keys is None else "https"
        address = Address(settings.host, sockets[0].getsockname()[1])
        print(f"fedsim server: ready on {scheme}://{address} ({front.clients})", flush=True)
        while not ending.is_set() and not serving.done() and process.poll() is None:
            app_log.copy_lines()
            if settings.parent is not None and os.getppid() != settings.parent:
                log.warning("process %d, which started this server, is gone", settings.parent)
                ending.set()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ending.wait(), PAUSE)
        ended = process.poll() is not None and not ending.is_set()
    finally:
        front.close()
        await asyncio.to_thread(superexec.stop, process)
        app_log.close()
        server.should_exit = True
        await serving
    if ended:
        raise RunFailed("Flower's SuperExec ended by itself; its reason is above")


class _Uvicorn(uvicorn.Server):
    """Uvicorn's server without its signal handlers: fedsim tells it when to end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn(settings: Settings, front: _Front) -> _Uvicorn:
    config = uvicorn.Config(
        front.app,
        http=WaitingProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=GRACE,
    )
    config.load()
    if settings.keys is not None:
        folder = settings.keys.folder
        config.ssl = server_context(folder / SERVER_CERTIFICATE, folder / SERVER_KEY)
    return _Uvicorn(config)
