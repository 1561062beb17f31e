"""The process of one worker: `python -m fedsim.runtime.worker FD`, started by `fedsim.runtime.local`."""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection

import torch
from flwr.supercore.task_identity import TaskIdentity

from fedsim.runtime.spec import RUN_ID, AppSpec, answer


def main() -> None:
    """Answer messages until the other end closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the parent decides when to stop
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    connection = Connection(int(sys.argv[1]))
    try:
        spec: AppSpec = connection.recv()
        app = spec.load()
        while True:
            message, context = connection.recv()
            TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, context.node_id, 0
            connection.send((answer(app, message, context), context))
    except (EOFError, OSError):  # the other end is gone, perhaps in the middle of a message
        return


if __name__ == "__main__":
    main()
