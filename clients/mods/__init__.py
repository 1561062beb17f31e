"""Flower mods: every transform of a client's update is one (more arrive with their mechanisms)."""

from clients.mods.faults import faults_mod

__all__ = ["faults_mod"]
