"""Flower mods around a client's training."""

from fedsim.clients.mods.faults import faults_mod, nan_mod
from fedsim.clients.mods.fields import fields_mod
from fedsim.clients.mods.secagg import secagg_mod
from fedsim.clients.mods.update import protect_mod, transform_mod

__all__ = ["faults_mod", "fields_mod", "nan_mod", "protect_mod", "secagg_mod", "transform_mod"]
