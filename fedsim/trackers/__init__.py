"""Trackers of other people's systems, each behind an extra."""
