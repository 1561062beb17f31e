"""Notebook scripts run on import, so they are not collected for doctests."""

collect_ignore_glob = ["0*.py"]
