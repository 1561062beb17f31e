"""Privacy mechanisms, their ledger and their accounting.

Nothing here knows Flower, a network or an experiment: the package holds pure functions, dataclasses and
protocol state machines over bytes and arrays. The mechanisms arrive one by one; until a mechanism is here,
an experiment that names its section is refused.
"""

__all__: list[str] = []
