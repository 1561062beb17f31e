"""Synthetic logistic data with two knobs for heterogeneity."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from fedsim.catalogue import Kind, Targets
from fedsim.data.raw import Raw, held_out_indices
from fedsim.options import SyntheticOptions


def synthetic(options: SyntheticOptions, generator: np.random.Generator, targets: Targets) -> Raw:
    """Draw the synthetic data of Li et al. 2020 (FedProx, section 5.1), with their alpha and beta.

    User k has a true model `y = argmax(W x + b)` with entries of W and b from N(u_k, 1), u_k from
    N(0, alpha), and inputs x from N(v_k, S) with v_k's entries from N(B_k, 1), B_k from N(0, beta), and S
    diagonal with S_jj = j^-1.2. With `iid`, one W and b with entries from N(0, 1) and v = 0 for all. The
    number of a user's examples is 50 + round(exp(N(4, 2))), cut at 1,000 so that one user can't outweigh
    all others together.

    Returns:
        Features, float32 `(features,)`, each user's test share in the central test set.
    """
    width, classes = options.features, options.classes
    deviation = np.arange(1, width + 1) ** -0.6  # the root of S
    weights, bias = generator.normal(size=(width, classes)), generator.normal(size=classes)
    parts = defaultdict[str, list[np.ndarray]](list)
    for user in range(options.users):
        centre = np.zeros(width)
        if not options.iid:
            model_mean = generator.normal(0.0, np.sqrt(options.model_spread))
            input_mean = generator.normal(0.0, np.sqrt(options.input_spread))
            weights = generator.normal(model_mean, 1.0, (width, classes))
            bias = generator.normal(model_mean, 1.0, classes)
            centre = generator.normal(input_mean, 1.0, width)
        count = 50 + min(round(float(generator.lognormal(4.0, 2.0))), 950)
        x = centre + deviation * generator.normal(size=(count, width))
        y = np.argmax(x @ weights + bias, axis=1)
        train, test = held_out_indices(count, options.test_share, generator)
        for side, chosen in (("train", train), ("test", test)):
            parts[f"x_{side}"].append(x[chosen].astype(np.float32))
            parts[f"y_{side}"].append(y[chosen])
        parts["user"].append(np.full(len(train), user))
    arrays: dict[str, Any] = {name: np.concatenate(some) for name, some in parts.items()}
    return Raw(kind=Kind.FEATURES, users=tuple(f"user-{k}" for k in range(options.users)), **arrays)
