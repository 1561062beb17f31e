"""Attacks on secure aggregation, each run against a vulnerable protocol and against this project's."""

__all__: list[str] = []
