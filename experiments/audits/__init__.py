"""Audits: measured lower bounds on mechanisms' epsilons, beside the claimed ones."""

__all__: list[str] = []
