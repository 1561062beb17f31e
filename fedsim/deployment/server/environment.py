"""The environment variables that `fedsim server` sets for its ServerApps, and the files that it shares with them."""

STATE = "FEDSIM_DEPLOYED"  # the server's state directory
KEYS = "FEDSIM_KEYS"  # the folder of the server's keys; empty: none
APP_LOG = "apps.log"  # a file in the state directory: the log lines of ServerApps
CLIENTS = "clients.json"  # a file in the state directory: the node of each registered client
LOOPBACK = "FEDSIM_LOOPBACK"  # set if the server can be reached from its own machine only
