"""`fedsim client`: join a server, and answer messages until the process is told to end.

The loop pulls a message, has the ClientApp answer it, keeps the state, and pushes the reply.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from flwr.app import Context, Error, Message, RecordDict, UserConfig

from fedsim.catalogue import Targets
from fedsim.data.own import read_own
from fedsim.deployment.client.admission import Admitted, admit
from fedsim.deployment.client.connection import Connection, ReplyDropped, ReplyTooLarge
from fedsim.deployment.client.state import State
from fedsim.deployment.content_codec import decode_content
from fedsim.deployment.keys import ClientKeys
from fedsim.deployment.wire import Address
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.flower.constants import ErrorCode
from fedsim.records import config_in
from fedsim.runtime.spec import AppSpec, play
from fedsim.secagg.messages import record_of_stage

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

log = logging.getLogger("fedsim.client")

Tell = Callable[[str], None]


def run_client(
    on: str,
    state_folder: Path,
    key_folder: Path | None,
    partition: int | None,
    of: int | None,
    data: Path | None,
    only: Sequence[Path],
    insecure: bool,
    quiet: bool,
) -> None:
    """Join, and answer messages until the process is told to end; the options are those of `fedsim client`.

    Raises `Refused` where an option is invalid, or the server refuses this client.
    """
    address = Address.parse(on)
    if insecure and not address.is_loopback:
        raise Refused(f"--on {on!r}: --insecure is for a server on this machine (127.0.0.1, ::1)")
    if insecure == (key_folder is not None):
        raise Refused("--keys: is missing; allowed: --keys DIR, or --insecure for a server without keys")
    keys = None if key_folder is None else ClientKeys.load(key_folder)
    client, clients = _place(keys, key_folder, partition, of)
    if data is not None:
        read_own(
            data, f"--data {str(data)!r}", Targets.VALUES
        )  # labels are numbers too, until the task is known
    experiments = [Experiment.load(path) for path in only]
    state = State(state_folder)
    node_config: UserConfig = {
        "partition-id": client,
        "num-partitions": clients,
        "deployed": True,
        "state": str(state.folder),
        "keys": "" if keys is None else str(keys.folder),
        "data": "" if data is None else str(data.absolute()),
        "loopback": address.is_loopback,
    }
    app = AppSpec(clients, {}).load()
    tell: Tell = (lambda line: None) if quiet else _tell
    root, key = (None, state.node_key()) if keys is None else (keys.root_certificates, keys.node_key)
    connection = Connection(str(address), root, key, tell)
    try:
        connection.join()
        tell(f"{client} of {clients} joined {address}")
        ClientLoop(connection, app, node_config, state, experiments, tell).serve()
    finally:
        connection.leave()


def _tell(line: str) -> None:
    sys.stdout.write(f"fedsim client: {line}\n")
    sys.stdout.flush()


def _place(
    keys: ClientKeys | None, folder: Path | None, partition: int | None, of: int | None
) -> tuple[int, int]:
    """Return this client's number and how many there are; raises `Refused` if the options contradict the keys."""
    if keys is None:
        if partition is None or of is None:
            why = "without keys nothing else says which client this is"
            raise Refused(f"--partition and --of: are missing; {why}")
        if partition >= of:
            raise Refused(f"--partition {partition}: must be below --of {of}")
        return partition, of
    number, size = keys.number, len(keys.registry)
    for option, given, theirs in (("--partition", partition, number), ("--of", of, size)):
        if given not in (None, theirs):
            raise Refused(f"{option} {given}: the keys in {str(folder)!r} are client {number}'s of {size}")
    return number, size


class _Rejected(Exception):
    """The client answers a message by an error, with a code of Flower's `ErrorCode`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass
class ClientLoop:
    """The loop of one client process, which has joined."""

    connection: Connection
    app: ClientApp
    node_config: UserConfig  # of the app's contexts
    state: State
    only: Sequence[Experiment]  # that this client takes part in; empty: all
    tell: Tell  # called with a line for each message
    runs: dict[int, Admitted | str] = field(
        default_factory=dict
    )  # by id: an admitted run, or why it is refused

    def serve(self) -> NoReturn:
        """Answer messages for ever; raises `Refused` where the server refuses this client."""
        while True:
            try:
                message = self.connection.pull()
                if message is not None:
                    self._handle(message)
            except ReplyDropped as dropped:
                self.tell(f"dropped: {dropped}")

    def _handle(self, message: Message) -> None:
        what, begun = message.metadata.message_type, time.monotonic()
        try:
            run = self._admitted(message.metadata.run_id)
            message.content = _content_of(message)
            what = _title(message)
            reply = self._answer(message, run)
        except _Rejected as rejected:
            reply = Message(Error(rejected.code, str(rejected)), reply_to=message)
        seconds = time.monotonic() - begun
        try:
            size = self.connection.push(reply, seconds)
        except ReplyTooLarge as error:
            failure = Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, f"too large: {error}")
            reply = Message(failure, reply_to=message)
            size = self.connection.push(reply, seconds)
        except ReplyDropped as dropped:
            raise ReplyDropped(f"{what}: {dropped}") from None
        outcome = f": {reply.error.reason}" if reply.has_error() else ""
        self.tell(f"{what}: {seconds:.1f} s, {size / 1024:.1f} KiB{outcome}")

    def _answer(self, message: Message, run: Admitted) -> Message:
        """Return the app's reply, after the state and the note of the round were written; raises `_Rejected`."""
        round_ = _round_of(message)
        training = message.metadata.message_type.partition(".")[0] == "train"
        if training and run.once_a_round:
            if round_ is None:
                raise _refused("the message has no round")
            if self.state.has_noted(run.series, round_):
                raise _refused(f"round {round_}: this client has taken part in it before")
        try:
            state = self.state.load(run.series)
        except (OSError, ValueError) as error:
            log.error("run %s: state can't be read: %s", run.name, error)
            raise _refused("state can't be read") from None
        context = Context(
            run_id=message.metadata.run_id,
            node_id=self.connection.node_id,
            node_config=dict(self.node_config),
            state=state,
            run_config=dict(run.run_config),
            series_id=run.series,
        )
        try:
            reply = play(self.app, message, context)
        except Exception as error:  # an app may raise anything; the client keeps its former state
            log.exception("run %s: %s failed", run.name, _title(message))
            tells = not (
                run.is_private or run.reads_files or self.node_config["data"] or _is_of_a_file(error)
            )
            reason = f"{type(error).__name__}: {error}" if tells else "failed"
            raise _Rejected(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason) from None
        try:
            self.state.save(run.series, context.state)
            if training and round_ is not None and reply.has_content():
                self.state.note(run.series, run.name, round_)
        except OSError as error:
            log.error("run %s: state can't be kept: %s", run.name, error)
            raise _refused("state can't be kept") from None
        return reply

    def _admitted(self, run_id: int) -> Admitted:
        """Return an admitted run; raises `_Rejected`."""
        if run_id not in self.runs:
            try:
                self.runs[run_id] = admit(*self.connection.run(run_id), self.only)
            except ValueError as error:
                self.runs[run_id] = f"refused: {error}"
        run = self.runs[run_id]
        if isinstance(run, str):
            raise _Rejected(ErrorCode.INVALID_FAB, run)
        return run


def _is_of_a_file(error: BaseException | None) -> bool:
    """Return whether an error is the operating system's, or follows from one."""
    return error is not None and (isinstance(error, OSError) or _is_of_a_file(error.__context__))


def _refused(reason: str) -> _Rejected:
    return _Rejected(ErrorCode.MOD_FAILED_PRECONDITION, reason)


def _content_of(message: Message) -> RecordDict:
    """Return a message's content, decoded; raises `_Rejected`."""
    try:
        return decode_content(message.content)
    except ValueError as error:
        raise _refused(str(error)) from None


def _round_of(message: Message) -> int | None:
    for record, key in (("secagg", "round"), ("config", "server-round")):
        if isinstance(round_ := config_in(message.content, record).get(key), int):
            return round_
    return None


def _title(message: Message) -> str:
    """Return the round of a message, and its type or its stage of secure aggregation, for the log."""
    round_, kind = _round_of(message), message.metadata.message_type
    try:
        asked = record_of_stage(message)
    except ValueError:
        asked = None
    if asked is not None:
        kind = f"secagg {asked[1].value}"
    return kind if round_ is None else f"round {round_}: {kind}"
