"""Results: the run directory, and reading it back."""

from fedsim.results.directory import RunDirectory, default_run_path
from fedsim.results.exporting import export
from fedsim.results.frames import load_ledger, load_runs
from fedsim.results.run import Run, load_run

__all__ = ["Run", "RunDirectory", "default_run_path", "export", "load_ledger", "load_run", "load_runs"]
