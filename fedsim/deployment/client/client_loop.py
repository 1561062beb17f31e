"""A client: pulls messages, answers them by its own ClientApp, keeps its state, and sends the answers."""

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
    """Which client of a federation this is, and what its apps are told of it.

    Attributes:
        client: Its number.
        clients: How many there are.
        keys: Its key folder; None where the server asks for no keys.
        data: Its own data; None where the experiment's are dealt.
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
    """One client process.

    Args:
        link: Connects to the server.
        app: Answers.
        seat: Says who this is.
        state: Keeps what is to outlive the process.
        only: The experiments that this client takes part in; empty: in all.
        tell: Called with a line for each message.
    """

    def __init__(
        self,
        link: Connection,
        app: ClientApp,
        seat: Identity,
        state: State,
        only: Sequence[Experiment],
        tell: Tell,
    ) -> None:
        self._link, self._app, self._state = link, app, state
        self._node_config = seat.node_config(state.folder)
        self._only, self._tell = only, tell
        self._runs: dict[int, Admitted | str] = {}  # by id: who takes part, or why not

    def serve(self) -> NoReturn:
        """Answer messages for ever; raises `Refused` where the server doesn't want this client any more."""
        while True:
            try:
                message = self._link.pull()
                if message is not None:
                    self._handle(message)
            except ReplyDropped as dropped:
                self._tell(f"dropped: {dropped}")

    def _handle(self, message: Message) -> None:
        what, begun = message.metadata.message_type, time.monotonic()
        try:
            run = self._admitted(message.metadata.run_id)
            message.content = _opened(message)
            what = _title(message)
            reply = self._answer(message, run)
        except ClientRejected as turned:
            reply = Message(Error(turned.code, str(turned)), reply_to=message)
        seconds = time.monotonic() - begun
        try:
            size = self._link.push(reply, seconds)
        except ReplyTooLarge as error:
            reply = Message(
                Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, f"too large: {error}"), reply_to=message
            )
            size = self._link.push(reply, seconds)
        except ReplyDropped as dropped:
            raise ReplyDropped(f"{what}: {dropped}") from None
        outcome = f": {reply.error.reason}" if reply.has_error() else ""
        self._tell(f"{what}: {seconds:.1f} s, {size / 1024:.1f} KiB{outcome}")

    def _answer(self, message: Message, run: Admitted) -> Message:
        """Return the app's reply, once all that it has to leave on this machine is there; raises `ClientRejected`."""
        round_ = _round_of(message)
        training = message.metadata.message_type.partition(".")[0] == "train"
        if training and run.once_a_round and (round_ is None or self._state.has_noted(run.series, round_)):
            said = (
                "no round is said"
                if round_ is None
                else f"round {round_}: this client has taken part in it before"
            )
            raise ClientRejected(ErrorCode.MOD_FAILED_PRECONDITION, said)
        context = self._context(message, run)
        try:
            reply = play(self._app, message, context)
        except Exception as error:  # a client may raise anything, and it goes on; its state is what it was
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
            node_id=self._link.node_id,
            node_config=dict(self._node_config),
            state=state,
            run_config=dict(run.run_config),
            series_id=run.series,
        )

    def _admitted(self, run_id: int) -> Admitted:
        """Return a run that this client takes part in; raises `ClientRejected`."""
        if run_id not in self._runs:
            try:
                self._runs[run_id] = admit(*self._link.run(run_id), self._only)
            except ValueError as error:
                self._runs[run_id] = f"refused: {error}"
        run = self._runs[run_id]
        if isinstance(run, str):
            raise ClientRejected(ErrorCode.INVALID_FAB, run)
        return run


def _opened(message: Message) -> RecordDict:
    """Return what the server sent in a message; raises `ClientRejected`."""
    try:
        return decode_content(message.content)
    except ValueError as error:
        raise ClientRejected(ErrorCode.MOD_FAILED_PRECONDITION, str(error)) from None


def _round_of(message: Message) -> int | None:
    """Return the round that a message belongs to; None where it says none."""
    for record, key in (("secagg", "round"), ("config", "server-round")):
        if isinstance(round_ := config_in(message.content, record).get(key), int):
            return round_
    return None


def _title(message: Message) -> str:
    """Return the round, and the kind of message or the stage of secure aggregation."""
    round_, kind = _round_of(message), message.metadata.message_type
    try:
        asked = record_of_stage(message)
    except ValueError:
        asked = None
    if asked is not None:
        kind = f"secagg {asked[1].value}"
    return kind if round_ is None else f"round {round_}: {kind}"
