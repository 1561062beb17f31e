"""Schedules of rounds in which the server does not wait for a whole cohort; one file each."""

from fedsim.server.schedules.protocol import Schedule

__all__ = ["Schedule"]
