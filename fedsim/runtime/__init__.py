"""Engines: Flower Grids that run all clients of a simulation.

The engine changes the duration of a run, never its results.
"""

from fedsim.runtime.grid import ClientsGrid, SequentialGrid
from fedsim.runtime.jobs import Fold, fold_groups
from fedsim.runtime.local import LocalGrid
from fedsim.runtime.ray_cluster import RayGrid
from fedsim.runtime.spec import AppSpec

__all__ = ["AppSpec", "ClientsGrid", "Fold", "LocalGrid", "RayGrid", "SequentialGrid", "fold_groups"]
