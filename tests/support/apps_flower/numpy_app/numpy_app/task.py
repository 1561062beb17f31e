"""A linear model, and each partition's data."""

import numpy as np

FEATURES = 4


def load_data(partition_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a partition's examples; partitions differ in size."""
    generator = np.random.default_rng(partition_id)
    x = generator.normal(size=(5 + 3 * partition_id, FEATURES))
    return x, x @ np.arange(1.0, FEATURES + 1) + 0.1 * generator.normal(size=len(x))


def train(w: np.ndarray, x: np.ndarray, y: np.ndarray, rate: float, steps: int) -> np.ndarray:
    """Take steps of gradient descent on the mean squared error."""
    for _ in range(steps):
        w = w - rate * x.T @ (x @ w - y) / len(x)
    return w
