"""fedsim's ClientApp; one client's worker dies once, after its event is written and before it answers."""

import os
import signal
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from fedsim.clients.app import on_train
from fedsim.clients.mods import faults_mod, nan_mod, protect_mod, secagg_mod

VICTIM = 4
MARK = "died"  # a file in the current folder: the worker has died

app = ClientApp()


def die_once(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let the victim's worker end before its first answer leaves it."""
    reply = call_next(message, context)
    if context.node_config["partition-id"] == VICTIM and not Path(MARK).exists():
        Path(MARK).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return reply


app.train(mods=[die_once, faults_mod, secagg_mod, protect_mod, nan_mod])(on_train)
