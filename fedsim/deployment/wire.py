"""The names that both ends of a connection have to agree on."""

import re

HOLD = "Fedsim-Hold"  # header of a pull: seconds for which the server may hold an empty answer back (long polling)
INSTANCE = "Fedsim-Instance"  # header of a client's requests: random hex digits, which name its process
TASK = "flwr-task-token"  # Flower's header of a ServerApp's requests
NODE = "fedsim.node"  # key of a request's ASGI scope: the node of the client that was authenticated
RUN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # of a run directory
MANY = 64 * 2**20  # bytes of a request or answer with several messages; with one it may be larger
