"""The names under which `fedsim server` tells the ServerApps that it starts where they are."""

STATE = "FEDSIM_DEPLOYED"  # the server's state directory
KEYS = "FEDSIM_KEYS"  # the folder of its keys; empty: none
APP_LOG = "apps.log"  # a file there: what ServerApps have to say
CLIENTS = "clients.json"  # a file in the state directory: the node of each registered client
LOOPBACK = "FEDSIM_LOOPBACK"  # set where only this machine can reach it
