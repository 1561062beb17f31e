"""A data source of one's own, in one file: points on the plane, labelled by the side of a line they are on."""

from __future__ import annotations

import numpy as np

from fedsim.catalogue import Kind
from fedsim.data.raw import Raw


def sides(options, generator, targets):
    """Return `options.points` points for training, of four users, and as many for the test."""
    count, slope = options.points, options.slope
    x = generator.uniform(-1, 1, (2 * count, 2)).astype(np.float32)
    y = (x[:, 1] > slope * x[:, 0]).astype(np.int64)
    user = np.arange(count) % 4
    return Raw(
        kind=Kind.FEATURES,
        x_train=x[:count],
        y_train=y[:count],
        x_test=x[count:],
        y_test=y[count:],
        user=user,
        users=("a", "b", "c", "d"),
    )
