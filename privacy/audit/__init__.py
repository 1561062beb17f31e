"""Privacy measured, not assumed: lower bounds on epsilon from what a mechanism releases."""

from privacy.audit.one_dimensional import Measured, Release, measure

__all__ = ["Measured", "Release", "measure"]
