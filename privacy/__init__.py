"""Privacy mechanisms, their ledger and their accounting.

Pure functions, dataclasses and protocol state machines over bytes and arrays: no Flower, no network, no experiment.
"""

__all__: list[str] = []
