"""Scripts whose cells run when they are imported hold no doctests."""

collect_ignore_glob = ["0*.py"]
