"""Sweeps: many runs, planned and checked together, run in parallel, resumable."""

from fedsim.sweeps.plan import Arm, Plan
from fedsim.sweeps.planned_run import PlannedRun
from fedsim.sweeps.progress import SweepProgress
from fedsim.sweeps.pruning import Pruning
from fedsim.sweeps.run import resume_sweep, sweep
from fedsim.sweeps.state import State, Sweep

__all__ = ["Arm", "Plan", "PlannedRun", "Pruning", "State", "Sweep", "SweepProgress", "resume_sweep", "sweep"]
