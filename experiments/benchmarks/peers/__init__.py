"""What is timed: each competitor a module that runs in a process of its own.

    python -m fedsim.experiments.benchmarks.peers.NAME WORK REPORT [options]

reads the work (see `fedsim.experiments.benchmarks.work`), does it, and writes a report.
"""

__all__: list[str] = []
