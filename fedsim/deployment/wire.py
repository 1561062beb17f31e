"""The names that the two ends of a connection have to agree on."""

import re

HOLD = "Fedsim-Hold"  # header of a pull: seconds for which an empty answer may be held back
INSTANCE = "Fedsim-Instance"  # header of a client's requests: names its process
RUN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # of a run directory that is asked for
# Messages with their content (`letter.py`): a client takes its next one and gives its reply, a ServerApp sends and
# collects. For each, what Flower's own request for heads alone is called.
TAKE, GIVE = "/v1/fleet/take", "/v1/fleet/give"  # pull-messages, push-messages
SEND, COLLECT = "/v1/runtime/send", "/v1/runtime/collect"  # push-messages, pull-messages
MANY = 64 * 2**20  # bytes of a request or an answer with several messages; one may be larger
