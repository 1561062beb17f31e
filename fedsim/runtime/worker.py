"""The process of one worker: `python -m fedsim.runtime.worker FD`, started by `fedsim.runtime.local`.

It reports that it is ready, with an empty reason, or why not; then it answers jobs until the other end closes.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from fedsim.errors import Refused
from fedsim.interruption import SIGNALS
from fedsim.output import lasting_output
from fedsim.runtime.jobs import perform
from fedsim.runtime.packing import Packer, unpack
from fedsim.runtime.sharing import Channel, Lender


def end_with_parent() -> None:
    """End this process as soon as its parent has, even in the middle of a job."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Answer jobs."""
    end_with_parent()
    for number in SIGNALS:  # sent to the whole group; the parent decides when to stop
        signal.signal(number, signal.SIG_IGN)
    lender = Lender()
    connection = Connection(int(sys.argv[1]))
    channel = Channel(connection, lender)
    try:
        spec = connection.recv()
        try:
            app = spec.load_in_worker()
        except Refused as refused:
            connection.send(str(refused))
            return
        connection.send("")
        while True:
            payload, (arrays, state_arrays) = channel.receive()
            job, states = pickle.loads(payload)  # noqa: S301 (from our parent)
            outcome = perform(app, spec, job, arrays, unpack(states, state_arrays))
            del arrays, state_arrays
            packer = Packer()
            packed = packer.pack(outcome)
            del outcome
            loan = lender.lend(packer.arrays, sole=True)
            channel.send(packed, loan)
            lender.release(loan)
            del packer
    except (EOFError, OSError):  # the other end is gone, perhaps in the middle of a frame
        return


if __name__ == "__main__":
    with lasting_output():  # of what a user's app prints
        main()
