"""Transforms of a client's update, between its training and its privacy mechanism: sparsification, quantisation; one file each."""

from fedsim.transforms.protocol import Transform, Values

__all__ = ["Transform", "Values"]
