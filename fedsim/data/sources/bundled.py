"""Data that scikit-learn brings along: digits, and diabetes with real-valued targets."""

from __future__ import annotations

import numpy as np

from fedsim.catalogue import Kind, Targets
from fedsim.data.arrays import as_targets
from fedsim.data.raw import Raw
from fedsim.options import DiabetesOptions, DigitsOptions


def digits(options: DigitsOptions, generator: np.random.Generator, targets: Targets) -> Raw:
    """Return scikit-learn's copy of the UCI optical digits: 1,797 images, 8x8, 17 grey levels, 10 labels.

    Inputs are float32 `(1, 8, 8)` from 0 to 1. (Alpaydin and Kaynak 1998, test part.)
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    x = (bundle.images / 16.0).astype(np.float32)[:, None]
    y = as_targets(bundle.target, targets, "data.source = 'digits'")
    return Raw.split(Kind.IMAGE, x, y, options.test_share, generator)


def diabetes(options: DiabetesOptions, generator: np.random.Generator, targets: Targets) -> Raw:
    """Return the diabetes data of Efron et al. 2004: 442 patients, 10 features, disease progression after a year.

    Features are age, sex, body mass index, blood pressure and six blood values, standardised by scikit-learn over all
    patients: float32 `(10,)`, mean 0 and standard deviation 1. Targets are from 25 to 346.
    """
    from sklearn.datasets import load_diabetes

    bundle = load_diabetes()
    x = (bundle.data * len(bundle.data) ** 0.5).astype(np.float32)  # scikit-learn's columns have norm 1
    y = as_targets(bundle.target, targets, "data.source = 'diabetes'")
    return Raw.split(Kind.FEATURES, x, y, options.test_share, generator)
