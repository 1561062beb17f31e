"""The loop of a client process: pull a message, answer it by the ClientApp, keep the state, push the reply."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from flwr.app import Context, Error, Message, RecordDict, UserConfig

from fedsim.deployment.client.admission import Admitted, admit
from fedsim.deployment.client.connection import Connection, ReplyDropped, ReplyTooLarge
from fedsim.deployment.client.state import State
from fedsim.deployment.content_codec import decode_content
from fedsim.experiment import Experiment
from fedsim.flower.constants import ErrorCode
from fedsim.records import config_in
from fedsim.runtime.spec import play
from fedsim.secagg.messages import record_of_stage

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

log = logging.getLogger("fedsim.client")

Tell = Callable[[str], None]


class _Rejected(Exception):
    """The client answers a message by an error, with a code of Flower's `ErrorCode`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class ClientLoop:
    """The loop of one client process.

    Args:
        connection: To the server; the client has joined.
        app: Answers the messages.
        node_config: Of the app's contexts.
        state: The state directory.
        only: The experiments that this client takes part in; empty: all.
        tell: Called with a line for each message.
    """

    def __init__(
        self,
        connection: Connection,
        app: ClientApp,
        node_config: UserConfig,
        state: State,
        only: Sequence[Experiment],
        tell: Tell,
    ) -> None:
        self._connection, self._app, self._node_config = connection, app, node_config
        self._state, self._only, self._tell = state, only, tell
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
        except _Rejected as rejected:
            reply = Message(Error(rejected.code, str(rejected)), reply_to=message)
        seconds = time.monotonic() - begun
        try:
            size = self._connection.push(reply, seconds)
        except ReplyTooLarge as error:
            failure = Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, f"too large: {error}")
            reply = Message(failure, reply_to=message)
            size = self._connection.push(reply, seconds)
        except ReplyDropped as dropped:
            raise ReplyDropped(f"{what}: {dropped}") from None
        outcome = f": {reply.error.reason}" if reply.has_error() else ""
        self._tell(f"{what}: {seconds:.1f} s, {size / 1024:.1f} KiB{outcome}")

    def _answer(self, message: Message, run: Admitted) -> Message:
        """Return the app's reply, after the state and the note of the round were written; raises `_Rejected`."""
        round_ = _round_of(message)
        training = message.metadata.message_type.partition(".")[0] == "train"
        if training and run.once_a_round:
            if round_ is None:
                raise _refused("the message has no round")
            if self._state.has_noted(run.series, round_):
                raise _refused(f"round {round_}: this client has taken part in it before")
        try:
            state = self._state.load(run.series)
        except (OSError, ValueError) as error:
            log.error("run %s: state can't be read: %s", run.name, error)
            raise _refused("state can't be read") from None
        context = Context(
            run_id=message.metadata.run_id,
            node_id=self._connection.node_id,
            node_config=dict(self._node_config),
            state=state,
            run_config=dict(run.run_config),
            series_id=run.series,
        )
        try:
            reply = play(self._app, message, context)
        except Exception as error:  # an app may raise anything; the client keeps its former state
            log.exception("run %s: %s failed", run.name, _title(message))
            reason = "failed" if run.is_private else f"{type(error).__name__}: {error}"
            raise _Rejected(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason) from None
        try:
            self._state.save(run.series, context.state)
            if training and round_ is not None and reply.has_content():
                self._state.note(run.series, run.name, round_)
        except OSError as error:
            log.error("run %s: state can't be kept: %s", run.name, error)
            raise _refused("state can't be kept") from None
        return reply

    def _admitted(self, run_id: int) -> Admitted:
        """Return an admitted run; raises `_Rejected`."""
        if run_id not in self._runs:
            try:
                self._runs[run_id] = admit(*self._connection.run(run_id), self._only)
            except ValueError as error:
                self._runs[run_id] = f"refused: {error}"
        run = self._runs[run_id]
        if isinstance(run, str):
            raise _Rejected(ErrorCode.INVALID_FAB, run)
        return run


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
