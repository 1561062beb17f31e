"""What a simulated client says of what went wrong with it: nothing, where noise is the operating system's.

Whatever an exception or a warning says, it may be about the data (the norm of a record's gradient, a label). A client that
is a process of its own writes it to its own log (`fedsim.deployment.client.client_loop`); a simulated one has the run's private log.
"""

from __future__ import annotations

import functools
import traceback
import warnings
from typing import Any

from flwr.app import Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable

from fedsim import private_log
from fedsim.clients.client_runtime import client_index
from fedsim.clients.process import ClientProcess
from fedsim.experiment import Experiment
from fedsim.flower.constants import ErrorCode
from fedsim.results.disclosure import is_restricted

FAILED = "failed"  # all that the server hears


def discreet_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Answer that the client failed, and no more, where it raises; what it raises and warns of is for the private log."""
    if not keeps_quiet(context):
        return call_next(message, context)
    with warnings.catch_warnings():

        def show(warning: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> None:
            note(context, f"{category.__name__}: {warning}")

        warnings.showwarning = show  # type: ignore[assignment]
        try:
            return call_next(message, context)
        except Exception as error:
            note(context, "".join(traceback.format_exception(error)))
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, FAILED), reply_to=message)


def keeps_quiet(context: Context) -> bool:
    """Say whether a client is a simulated one of a run with the operating system's noise."""
    if ClientProcess.of(context) is not None:
        return False
    config = context.run_config
    return _is_discreet(str(config.get("experiment", "")), str(config.get("set", "")))


def note(context: Context, text: str) -> None:
    """Add what a client has to say to the private log of its run, if there is one."""
    log = context.run_config.get(private_log.KEY)
    if log:
        private_log.note(str(log), f"client {client_index(context)}: {text}")


@functools.lru_cache(maxsize=4)
def _is_discreet(experiment: str, overrides: str) -> bool:
    """Say so of an experiment; one that can't be read says what is wrong with itself."""
    try:
        known = Experiment.from_run_config({"experiment": experiment, "set": overrides})
    except ValueError:
        return False
    return is_restricted(known.privacy.noise)
