"""Flower mods: every transform of a client's update is one (more arrive with their mechanisms)."""

from fedsim.clients.mods.clip import clip_mod
from fedsim.clients.mods.faults import faults_mod, nan_mod
from fedsim.clients.mods.local_noise import local_noise_mod
from fedsim.clients.mods.secagg import secagg_mod

__all__ = ["clip_mod", "faults_mod", "local_noise_mod", "nan_mod", "secagg_mod"]
