"""Audits: what a mechanism loses at least, measured by its own releases."""

from privacy.audit.low_bits import lowest_bit, residues
from privacy.audit.one_dimensional import Measured, Release, measure

__all__ = ["Measured", "Release", "lowest_bit", "measure", "residues"]
