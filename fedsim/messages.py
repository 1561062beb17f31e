"""The records of train messages and of their replies, by name.

A request has `arrays` (the global model), `config` (keys of the strategy and the mechanism), a record for each field of the
algorithm, and `own` (keys for this client only). A reply has `metrics`, and either `arrays` (the trained model) and the
change to each field, or `clipped-update`, both as one vector; also `ledger`, the events of what the client has released.
"""

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
LEDGER = "ledger"
OWN = "own"
SECAGG = "secagg"  # a stage of secure aggregation, beside or in the place of the others
VECTOR = "clipped-update"  # the record, and its only array: an update as one vector, `(dimension,)`
CONSTANTS = "constants-sha256"  # key of a request's config: hash of the arrays that are not sent
NAMES = frozenset({ARRAYS, CONFIG, METRICS, LEDGER, OWN, SECAGG, VECTOR})  # reserved: no field may have them
RUN = "run-token"  # key of the run config: names one run of a process
