"""The loop of a client process: pull a message, answer it by the ClientApp, keep the state, push the reply."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from flwr.app import Context, Error, Message, RecordDict, UserConfig

from fedsim.deployment.client.admission import Admitted, admit
from fedsim.deployment.client.connection import Connection
from fedsim.deployment.client.state import State
from fedsim.deployment.content_codec import decode_content
from fedsim.deployment.errors import ClientRejected, ReplyDropped, ReplyTooLarge
from fedsim.experiment import Experiment
from fedsim.flower.constants import ErrorCode
from fedsim.records import config_in
from fedsim.runtime.spec import play
from fedsim.secagg.messages import record_of_stage

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

log = logging.getLogger("fedsim.client")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Identity:
    """A client's number in its federation, and the folders that its ClientApp reads.

    Attributes:
        client: Its number, from 0 on.
        clients: Number of clients.
        keys: Its key folder; None: the server asks for no keys.
        data: File of its own examples; None: it trains on its share of the experiment's data.
        loopback: Whether the server is on this machine.
    """

    client: int
    clients: int
    keys: Path | None = None
    data: Path | None = None
    loopback: bool = False

    def node_config(self, state: Path) -> UserConfig:
        """Return the node config of a client with a state directory."""
        return {
            "partition-id": self.client,
            "num-partitions": self.clients,
            "deployed": True,
            "state": str(state),
            "keys": "" if self.keys is None else str(self.keys.absolute()),
            "data": "" if self.data is None else str(self.data.absolute()),
            "loopback": self.loopback,
        }


class ClientLoop:
    """The loop of one client process.

    Args:
        connection: To the server; the client has joined.
        app: Answers the messages.
        identity: This client's.
        state: The state directory.
        only: The experiments that this client takes part in; empty: all.
        tell: Called with a line for each message.
    """

    def __init__(
        self,
        connection: Connection,
        app: ClientApp,
        identity: Identity,
        state: State,
        only: Sequence[Experiment],
        tell: Tell,
    ) -> None:
        self._connection, self._app, self._state = connection, app, state
        self._node_config = identity.node_config(state.folder)
        self._only, self._tell = only, tell
        self._runs: dict[int, Admitted | str] = {}  # by id: an admitted run, or why it is refused

    def serve(self) -> NoReturn:
        """Answer messages for ever; raises `Refused` where the server refuses this client."""
        while True:
            try:
                message = self._connection.pull()
                if message is not None:
                    self._handle(message)
            except ReplyDropped as dropped:
                self._tell(f"dropped: {dropped}")

    def _handle(self, message: Message) -> None:
        what, begun = message.metadata.message_type, time.monotonic()
        try:
            run = self._admitted(message.metadata.run_id)
            message.content = _content_of(message)
            what = _title(message)
            reply = self._answer(message, run)
        except ClientRejected as rejected:
            reply = Message(Error(rejected.code, str(rejected)), reply_to=message)
        seconds = time.monotonic() - begun
        try:
            size = self._connection.push(reply, seconds)
        except ReplyTooLarge as error:
            reply = Message(
                Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, f"too large: {error}"), reply_to=message
            )
            size = self._connection.push(reply, seconds)
        except ReplyDropped as dropped:
            raise ReplyDropped(f"{what}: {dropped}") from None
        outcome = f": {reply.error.reason}" if reply.has_error() else ""
        self._tell(f"{what}: {seconds:.1f} s, {size / 1024:.1f} KiB{outcome}")

    def _answer(self, message: Message, run: Admitted) -> Message:
        """Return the app's reply, after the state and the note of the round were written; raises `ClientRejected`."""
        round_ = _round_of(message)
        training = message.metadata.message_type.partition(".")[0] == "train"
        if training and run.once_a_round and (round_ is None or self._state.has_noted(run.series, round_)):
            said = (
                "the message has no round"
                if round_ is None
                else f"round {round_}: this client has taken part in it before"
            )
            raise ClientRejected(ErrorCode.MOD_FAILED_PRECONDITION, said)
        context = self._context(message, run)
        try:
            reply = play(self._app, message, context)
        except Exception as error:  # an app may raise anything; the client keeps its former state
            log.exception("run %s: %s failed", run.name, _title(message))
            reason = "failed" if run.is_private else f"{type(error).__name__}: {error}"
            raise ClientRejected(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason) from None
        try:
            self._state.save(run.series, context.state)
            if training and round_ is not None and reply.has_content():
                self._state.note(run.series, run.name, round_)
        except OSError as error:
            log.error("run %s: state can't be kept: %s", run.name, error)
            raise ClientRejected(ErrorCode.MOD_FAILED_PRECONDITION, "state can't be kept") from None
        return reply

    def _context(self, message: Message, run: Admitted) -> Context:
        try:
            state = self._state.load(run.series)
        except (OSError, ValueError) as error:
            log.error("run %s: state can't be read: %s", run.name, error)
            raise ClientRejected(ErrorCode.MOD_FAILED_PRECONDITION, "state can't be read") from None
        return Context(
            run_id=message.metadata.run_id,
            node_id=self._connection.node_id,
            node_config=dict(self._node_config),
            state=state,
            run_config=dict(run.run_config),
            series_id=run.series,
        )

    def _admitted(self, run_id: int) -> Admitted:
        """Return an admitted run; raises `ClientRejected`."""
        if run_id not in self._runs:
            try:
                self._runs[run_id] = admit(*self._connection.run(run_id), self._only)
            except ValueError as error:
                self._runs[run_id] = f"refused: {error}"
        run = self._runs[run_id]
        if isinstance(run, str):
            raise ClientRejected(ErrorCode.INVALID_FAB, run)
        return run


def _content_of(message: Message) -> RecordDict:
    """Return a message's content, decoded; raises `ClientRejected`."""
    try:
        return decode_content(message.content)
    except ValueError as error:
        raise ClientRejected(ErrorCode.MOD_FAILED_PRECONDITION, str(error)) from None


def _round_of(message: Message) -> int | None:
    """Return the round of a message; None: it names none."""
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
