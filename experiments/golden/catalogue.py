"""Every strategy, partition, model and source once, and the settings of clients and server."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping

import numpy as np

from fedsim.experiments.golden.case import Case, Tree, resumed, whole
from fedsim.experiments.golden.matrix import MECHANISMS, SECURE

STRATEGIES: Mapping[str, Tree] = {
    "fedavg": {},
    "fedavgm": {"server-learning-rate": 0.7},
    "fedprox": {"proximal-mu": 0.1},
    "fedadagrad": {},
    "fedadam": {},
    "fedyogi": {},
    "fedmedian": {},
    "fedtrimmedavg": {"beta": 0.3},
    "krum": {"num-malicious-nodes": 1},
    "multikrum": {"num-malicious-nodes": 1, "num-nodes-to-select": 3},
    "bulyan": {},
    "qfedavg": {"q": 0.5},
}
WITH_STATE = ("fedavgm", "fedadagrad", "fedadam", "fedyogi", "qfedavg")
USERS: Tree = {
    "data": {"source": "synthetic", "users": 24, "features": 6, "classes": 3, "clients": None},
    "server": {"cohort": 4},
}
PARTITIONS: Mapping[str, Tree] = {
    "iid": {},
    "dirichlet": {"data": {"alpha": 1.0}},
    "inner-dirichlet": {"data": {"alpha": 1.0}},
    "pathological": {"data": {"classes-per-client": 3, "assignment": "random"}},
    "shard": {},
    "size": {"data": {"sizes": [100, 200, 300, 400, 438], "clients": 5}, "server": {"cohort": 3}},
    "linear": {"data": {"clients": 8}},
    "square": {"data": {"clients": 8}},
    "exponential": {"data": {"clients": 5}, "server": {"cohort": 3}},
    "natural": USERS,
    "grouped-natural": USERS,
}
MODELS: Mapping[str, Tree] = {
    "linear": {"classes": 12},
    "mlp": {"hidden": [7, 5]},
    "cnn": {"width": 0.1, "hidden": 8},
    "cnn-group-norm": {"name": "cnn", "width": 0.1, "hidden": 8, "group-norm": True},
}
TEXTS: Tree = {
    "data": {
        "source": "text-json",
        "path": "texts.json",
        "partition": "natural",
        "clients": None,
        "sequence-length": 12,
        "min-characters": 100,
    },
    "model": {"name": "lstm", "embedding": 4, "hidden": 6, "layers": 2},
    "server": {"cohort": 4},
}
SCAFFOLD: Tree = {
    "algorithm": {"name": "scaffold", "control-scale": 0.2},
    "server": {"weighting": "uniform"},
}
BUFFERED: Tree = {"server": {"schedule": "buffered"}, "rounds": 5}
TRANSFORMS: Mapping[str, Tree] = {
    "top-k": {"transforms": [{"name": "top-k", "share": 0.1}]},
    "both": {"transforms": [{"name": "top-k", "share": 0.5}, {"name": "quantise", "levels": 16}]},
}
SETTINGS: Mapping[str, Tree] = {
    "epochs": {"client": {"steps": None, "epochs": 2, "batch-size": 16}},
    "momentum": {"client": {"momentum": 0.9, "weight-decay": 0.01, "learning-rate-decay": 0.8}},
    "proximal": {"client": {"proximal-mu": 0.5, "steps": 4}},
    "another-seed": {"seed": 8},
    "one-client": {"server": {"cohort": 1}},
    "poisson": {"server": {"sampling": "poisson"}},
    "truncated-poisson": {"server": {"sampling": "truncated-poisson", "max-cohort": 7}},
    "uniform": {"server": {"weighting": "uniform"}, "data": {"partition": "linear", "clients": 8}},
    "evaluate-every": {"rounds": 5, "server": {"evaluate-every": 2}},
    "cohort-evaluates": {"data": {"held-out": 0.2}, "server": {"client-evaluation": "cohort"}},
    "all-evaluate": {
        "data": {"held-out": 0.2},
        "server": {"client-evaluation": "all", "evaluate-every": 2},
    },
    "target": {"rounds": 20, "server": {"target-accuracy": 0.2}},
    "patience": {"rounds": 20, "client": {"learning-rate": 3.0}, "server": {"patience": 1}},
}


def texts() -> bytes:
    """Return texts of 8 users, for next-character prediction: words from short lists, which differ by user."""
    words = ["sun", "moon", "rain", "snow", "wind", "leaf", "stone", "river"]
    users = {
        f"user-{user}": [" ".join(words[(user + i * i) % len(words)] for i in range(60 + 5 * user))]
        for user in range(8)
    }
    return json.dumps(users).encode()


def images() -> bytes:
    """Return a small data set as a NumPy file."""
    train, test = np.arange(240), np.arange(60)
    file = io.BytesIO()
    np.savez(
        file,
        x_train=np.sin(np.outer(train + 1, np.arange(5))).astype(np.float32),
        y_train=train % 3,
        x_test=np.sin(np.outer(test + 1, np.arange(5))).astype(np.float32),
        y_test=test % 3,
    )
    return file.getvalue()


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for name, options in STRATEGIES.items():
        strategy: Tree = {"server": {"strategy": name, "options": options}}
        yield whole(f"strategies/{name}", strategy)
        if name in WITH_STATE:
            yield resumed(f"strategies/{name}/resumed", strategy, after=2)
    adam = {"server": {"strategy": "fedadam"}}
    for name in ("dp-sgd", "local-dp-gaussian", "dp-fedavg-adaptive", "dp-ftrl-banded"):
        yield resumed(f"strategies/fedadam/{name}", adam, MECHANISMS[name], after=2)
    yield whole("strategies/fedadam/real", adam, SECURE["real"])
    for name in ("none", "dp-sgd", "local-dp-gaussian", "dp-fedavg-adaptive", "dp-ftrl-banded"):
        yield resumed(f"algorithms/scaffold/{name}", SCAFFOLD, MECHANISMS[name], after=2)
    for name in ("ideal", "real"):
        yield whole(f"algorithms/scaffold/{name}", SCAFFOLD, SECURE[name])
    for name in ("none", "dp-sgd", "local-dp-gaussian"):
        yield resumed(f"schedules/buffered/{name}", BUFFERED, MECHANISMS[name], after=2)
    for name, tree in TRANSFORMS.items():
        yield whole(f"transforms/{name}", tree)
    for name, tree in PARTITIONS.items():
        yield whole(f"partitions/{name}", {"data": {"partition": name}}, tree)
    for name, table in MODELS.items():
        model: Tree = {"model": {"name": name, **table}}
        yield whole(f"models/{name}", model)
        for private in ("dp-sgd", "dp-fedavg", "dp-ftrl-banded"):
            yield whole(f"models/{name}/{private}", model, MECHANISMS[private])
    for name in ("none", "dp-sgd", "local-dp-gaussian", "dp-fedavg"):
        yield whole(f"models/lstm/{name}", TEXTS, MECHANISMS[name], files={"texts.json": texts()})
    npz: Tree = {"data": {"source": "npz", "path": "images.npz", "clients": 8}}
    yield whole("sources/npz", npz, files={"images.npz": images()})
    for name, tree in SETTINGS.items():
        yield whole(f"settings/{name}", tree)
