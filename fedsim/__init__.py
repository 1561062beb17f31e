"""fedsim: a federated learning simulator in which privacy is measured, not assumed.

>>> import fedsim
>>> fedsim.Experiment(rounds=3, server={"cohort": 5}).server.cohort
5
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import Interrupted, Refused, RunFailed

if TYPE_CHECKING:
    from fedsim.experiment import Experiment
    from fedsim.results import Run, export, load_ledger, load_run, load_runs
    from fedsim.simulate import resume, run
    from fedsim.simulate_app import run_app
    from fedsim.sweeps import Pruning, Sweep, resume_sweep, sweep

__all__ = [
    "Experiment",
    "Interrupted",
    "Pruning",
    "Refused",
    "Run",
    "RunFailed",
    "Sweep",
    "export",
    "load_ledger",
    "load_run",
    "load_runs",
    "resume",
    "resume_sweep",
    "run",
    "run_app",
    "sweep",
]

# In a checkout `fedsim/server` and its like are links to the folders beside `fedsim/`, which `flwr build` leaves out of a
# bundle, and which some systems don't make: the folders themselves are found then.
if not (Path(__file__).parent / "server" / "__init__.py").exists():
    __path__.append(str(Path(__file__).parents[1]))

# Loaded on first use, so that `fedsim --help` and validation need neither PyTorch nor Flower, and a Flower app needs
# nothing of experiments.
_LATER = {
    "fedsim.experiment": ("Experiment",),
    "fedsim.results": ("Run", "export", "load_ledger", "load_run", "load_runs"),
    "fedsim.simulate": ("resume", "run"),
    "fedsim.simulate_app": ("run_app",),
    "fedsim.sweeps": ("Pruning", "Sweep", "resume_sweep", "sweep"),
}


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
