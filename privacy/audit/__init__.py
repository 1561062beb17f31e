"""Audits: lower bounds on a mechanism's epsilon, measured on its own releases."""

from fedsim.privacy.audit.low_bits import lowest_bit, residues
from fedsim.privacy.audit.one_dimensional import Measured, Release, measure

__all__ = ["Measured", "Release", "lowest_bit", "measure", "residues"]
