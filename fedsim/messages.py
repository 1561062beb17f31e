"""The records of train messages and of their replies, by name.

A request holds `arrays` (the global model), `config` (what the strategy and the mechanism tell), a record for each field of
the algorithm, and `own`: what the server tells this client alone. A reply holds `metrics`, and either `arrays` (the trained
model) and by how much each field changed, or `update`, all of that as one vector; beside them `ledger`, the events of what
the client has released.
"""

from __future__ import annotations

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
LEDGER = "ledger"
OWN = "own"
SECAGG = "secagg"  # a stage of secure aggregation, beside or in the place of the others
VECTOR = "clipped-update"  # the record, and its only array: an update as one vector, `(dimension,)`
NAMES = frozenset({ARRAYS, CONFIG, METRICS, LEDGER, OWN, SECAGG, VECTOR})  # which no field may have
