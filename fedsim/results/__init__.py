"""Results: the run directory, and reading it back."""

from fedsim.results.directory import RunDirectory
from fedsim.results.exporting import export
from fedsim.results.frames import load_ledger, load_runs
from fedsim.results.run import Run, load_run

__all__ = ["Run", "RunDirectory", "export", "load_ledger", "load_run", "load_runs"]
