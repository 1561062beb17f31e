"""The competitors: modules that each run in their own process.

    python -m fedsim.experiments.benchmarks.peers.NAME WORK REPORT [options]

reads the work (see `fedsim.experiments.benchmarks.work`), does it, and writes a report.
"""

__all__: list[str] = []
