"""Audits: what mechanisms lose at least, measured, beside what is claimed."""

__all__: list[str] = []
