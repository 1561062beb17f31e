"""Real-valued targets: the bundled diabetes data."""

from __future__ import annotations

import numpy as np

from fedsim.catalogue import Kind, Targets
from fedsim.data.arrays import as_targets
from fedsim.data.raw import Raw
from fedsim.data.split import held_out_indices
from fedsim.options import DiabetesOptions


def diabetes(options: DiabetesOptions, generator: np.random.Generator, targets: Targets) -> Raw:
    """Return the diabetes data of Efron et al. 2004: 442 patients, 10 features, disease progression after a year.

    Features are age, sex, body mass index, blood pressure and six blood values, standardised by scikit-learn over all
    patients: float32 `(10,)`, mean 0 and standard deviation 1. Targets are from 25 to 346.
    """
    from sklearn.datasets import load_diabetes

    bundle = load_diabetes()
    x = (bundle.data * len(bundle.data) ** 0.5).astype(np.float32)  # scikit-learn's columns have norm 1
    y = as_targets(bundle.target, targets, "data.source = 'diabetes'")
    train, test = held_out_indices(len(x), options.test_share, generator)
    return Raw(kind=Kind.FEATURES, x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])
