"""Benchmarks, each a script that prints a table and writes JSON."""

__all__: list[str] = []
