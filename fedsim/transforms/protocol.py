"""The protocol of a transform of updates."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]


@runtime_checkable
class Transform(Protocol):
    """Changes a client's update: the model's difference and the changes to the algorithm's fields, as one vector.

    Transforms are applied on the client, right after its training, and the server gets an update of the usual form: the
    received model plus the transformed difference, and the transformed changes of the fields. So they work with every
    engine, algorithm, strategy and mechanism. Their effect on learning is simulated; bytes are counted as without them. The
    model and the fields are sent in their own dtypes, which round each coordinate; one whose change is zero stays exactly as
    it was received.

    They change no privacy guarantee. A mechanism that protects a whole client clips and noises the output of the last
    one, and secure aggregation sums that. After DP-SGD they are post-processing: their output must depend only on the
    update and the draws.

    A transform is made once per process as `make(**options)`, and applied to updates of many clients: it must be stateless.
    """

    def apply(self, update: Values, draws: np.random.Generator) -> Values:
        """Return the update to send.

        Args:
            update: Finite floating-point numbers, `(dimension,)`: the model's arrays in their order, then each field's times
                the field's scale. May be overwritten.
            draws: The random numbers of this transform, client and round: the named stream "transform-<index>".

        Returns:
            A vector of the same shape and dtype.
        """
