"""HTTP paths of a server. This module imports nothing of Flower.

Flower sends a message's head and each of its objects by requests of their own. At TAKE, GIVE, SEND and COLLECT fedsim's server
takes and gives whole messages (`fedsim.flower.wire_message`); each stands beside the path of Flower's request for heads.
"""

CONTROL = "/v1/control/"  # Flower's Control API, for the operator; below it:
START, LIST, STOP = (f"{CONTROL}{name}" for name in ("start-run", "list-runs", "stop-run"))
TAKE = "/v1/fleet/take"  # a client pulls its next message; beside pull-messages
GIVE = "/v1/fleet/give"  # a client pushes its reply; beside push-messages
SEND = "/v1/runtime/send"  # a ServerApp pushes messages; beside push-messages
COLLECT = "/v1/runtime/collect"  # a ServerApp pulls replies; beside pull-messages
HEARTBEAT = "/v1/fleet/send-node-heartbeat"  # Flower's own
