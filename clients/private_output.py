"""Private output of simulated clients: with the operating system's noise, errors and warnings go to the private log.

An exception or a warning may reveal data (the norm of a record's gradient, a label). A client process writes them to
its own log (`fedsim.deployment.client.run`).
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

FAILED = "failed"  # the whole error that the server gets


def private_output_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Write a client's exceptions and warnings to the private log; the reply says only that it failed."""
    if not has_private_output(context):
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


def has_private_output(context: Context) -> bool:
    """Return whether a client is simulated, in a run with the operating system's noise."""
    if ClientProcess.of(context) is not None:
        return False
    config = context.run_config
    return _is_private(str(config.get("experiment", "")), str(config.get("set", "")))


def note(context: Context, text: str) -> None:
    """Add a text about a client to the private log of its run, if there is one."""
    log = context.run_config.get(private_log.KEY)
    if log:
        private_log.note(str(log), f"client {client_index(context)}: {text}")


@functools.lru_cache(maxsize=4)
def _is_private(experiment: str, overrides: str) -> bool:
    """Return whether an experiment's output is private; not if it is invalid, so that its error is reported."""
    try:
        known = Experiment.from_run_config({"experiment": experiment, "set": overrides})
    except ValueError:
        return False
    return is_restricted(known.privacy.noise)
