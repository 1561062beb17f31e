"""Every mechanism, with every kind of secure aggregation, on two engines, whole and resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedsim.experiments.golden.case import Case, Tree, resumed, whole


def mechanism(name: str, sampling: str = "fixed", **options: Any) -> Tree:
    """Return a mechanism's settings: a noise multiplier, a delta, and its cohorts."""
    table = {key.replace("_", "-"): value for key, value in options.items()}
    return {"privacy": {name: table}, "server": {"sampling": sampling}}


FTRL: Mapping[str, Any] = {"noise_multiplier": 0.5, "delta": 1e-2, "clip": 0.5, "min_separation": 2}
MECHANISMS: Mapping[str, Tree] = {
    "none": {},
    "dp-sgd": mechanism("dp-sgd", noise_multiplier=1.0, delta=1e-4),
    "dp-sgd-opacus": mechanism("dp-sgd", noise_multiplier=1.0, delta=1e-4, kernel="opacus"),
    "local-dp-gaussian": mechanism("local-dp", noise_multiplier=0.5, delta=1e-2, clip=0.5),
    "local-dp-laplace": mechanism("local-dp", noise_multiplier=0.1, clip=2.0, law="laplace"),
    "dp-fedavg": mechanism("dp-fedavg", noise_multiplier=0.5, delta=1e-2, clip=0.5),
    "dp-fedavg-adaptive": mechanism(
        "dp-fedavg",
        noise_multiplier=0.2,
        delta=1e-2,
        clip=0.5,
        adaptive={"quantile": 0.5, "rate": 0.4},
        release={"train-loss": {"bound": 5.0}, "num-examples": {"bound": 200.0}},
    ),
    "dp-ftrl-banded": mechanism("dp-ftrl", "b-min-sep", **FTRL),
    "dp-ftrl-banded-released-models": mechanism("dp-ftrl", "b-min-sep", adversary="released-models", **FTRL),
    "dp-ftrl-blt": mechanism("dp-ftrl", "b-min-sep", mechanism="blt", **FTRL),
    "dp-ftrl-sqrt-toeplitz": mechanism("dp-ftrl", "b-min-sep", mechanism="sqrt-toeplitz", **FTRL),
}
SECURE: Mapping[str, Tree] = {
    "plain": {},
    "ideal": {"privacy": {"secagg": {"mode": "ideal"}}},
    "real": {"privacy": {"secagg": {"mode": "real"}}},
}
ROUNDS: Tree = {"rounds": 4}
LOCAL: Tree = {"runtime": {"engine": "local"}}
# Starting worker processes takes seconds, so only a part of the matrix uses them.
ON_WORKERS = ("none", "dp-sgd", "local-dp-gaussian", "dp-fedavg-adaptive", "dp-ftrl-banded")


def cases() -> Iterator[Case]:
    """Yield the cases; for a refused combination, the refusal is recorded."""
    for name, tree in MECHANISMS.items():
        for secure, table in SECURE.items():
            path = f"matrix/{name}/{secure}"
            yield whole(f"{path}/sequential/whole", ROUNDS, tree, table)
            yield resumed(f"{path}/sequential/resumed", ROUNDS, tree, table)
            if name in ON_WORKERS:
                yield whole(f"{path}/local/whole", ROUNDS, tree, table, LOCAL)
            if name in ON_WORKERS and secure != "ideal":
                yield resumed(f"{path}/local/resumed", ROUNDS, tree, table, LOCAL)
