"""Attacks on secure aggregation, each run against a protocol that falls to it, and against this project's."""

__all__: list[str] = []
