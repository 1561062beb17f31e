"""The names that the two ends of a connection have to agree on."""

import re

HOLD = "Fedsim-Hold"  # header of a pull: seconds for which an empty answer may be held back
INSTANCE = "Fedsim-Instance"  # header of a client's requests: names its process
RUN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # of a run directory that is asked for
