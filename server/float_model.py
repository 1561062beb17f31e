"""Checks that updates can be clipped, summed and transformed, for client-level mechanisms and transforms."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord

from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.vectors import why_not_float


def check_float(experiment: Experiment, arrays: ArrayRecord) -> None:
    """Raise `Refused` for a model with arrays that are not floating-point."""
    why = why_not_float({name: np.dtype(array.dtype) for name, array in arrays.items()})
    if why is not None:
        raise Refused(f"model.name = {experiment.model.name!r}: {why}")
