"""Optimizers of the clients: one file each, and a catalogue that validation reads without loading PyTorch."""

from fedsim.optimizers.protocol import Optimizer

__all__ = ["Optimizer"]
