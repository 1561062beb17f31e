"""Corner cases: variants of privacy, faults, empty cohorts, rounds without a sum, and real kills."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedsim.experiments.golden.case import FILE, RUN, Case, Tree, cli, merged, resumed, toml, whole
from fedsim.experiments.golden.matrix import FTRL, MECHANISMS, SECURE, mechanism

SGD: Mapping[str, Any] = {"noise_multiplier": 1.0, "delta": 1e-4}
FEDAVG: Mapping[str, Any] = {"noise_multiplier": 0.5, "delta": 1e-2, "clip": 0.5}
VARIANTS: Mapping[str, Tree] = {
    "dp-sgd/epsilon": mechanism("dp-sgd", epsilon=8.0, delta=1e-4),
    "dp-sgd/released-models": mechanism("dp-sgd", "poisson", adversary="released-models", **SGD),
    "dp-sgd/max-participations": mechanism("dp-sgd", "poisson", max_participations=1, **SGD),
    "dp-sgd/max-batch": mechanism("dp-sgd", max_batch=12, **SGD),
    "dp-sgd/add-or-remove-one": merged(
        mechanism("dp-sgd", relation="add-or-remove-one", rate=0.15, **SGD),
        {"server": {"weighting": "uniform"}},
    ),
    "dp-sgd/fast": mechanism("dp-sgd", kernel="fast", **SGD),
    "dp-sgd/float32": merged(mechanism("dp-sgd", **SGD), {"privacy": {"arithmetic": "float32"}}),
    "dp-sgd/uneven": merged(
        mechanism("dp-sgd", epsilon=8.0, delta=1e-4),
        {"data": {"partition": "linear", "clients": 8}, "client": {"steps": None, "epochs": 1}},
    ),
    "local-dp/epsilon": mechanism("local-dp", "poisson", epsilon=20.0, delta=1e-2, clip=0.5),
    "local-dp/max-participations": mechanism(
        "local-dp", "poisson", noise_multiplier=0.5, delta=1e-2, clip=0.5, max_participations=1
    ),
    "local-dp/float32": merged(MECHANISMS["local-dp-gaussian"], {"privacy": {"arithmetic": "float32"}}),
    "dp-fedavg/epsilon": mechanism("dp-fedavg", "poisson", epsilon=8.0, delta=1e-2, clip=0.5),
    "dp-fedavg/known-cohort": mechanism("dp-fedavg", adversary="known-cohort", **FEDAVG),
    "dp-fedavg/poisson": mechanism("dp-fedavg", "poisson", **FEDAVG),
    "dp-fedavg/truncated-poisson": mechanism("dp-fedavg", "truncated-poisson", **FEDAVG),
    "dp-fedavg/add-or-remove-one": mechanism(
        "dp-fedavg", "poisson", relation="add-or-remove-one", rate=0.2, **FEDAVG
    ),
    "dp-fedavg/population": mechanism(
        "dp-fedavg", "poisson", population=100_000, population_cohort=1000, **FEDAVG
    ),
    "dp-fedavg/float32": merged(MECHANISMS["dp-fedavg-adaptive"], {"privacy": {"arithmetic": "float32"}}),
    "dp-ftrl/epsilon": mechanism("dp-ftrl", "b-min-sep", epsilon=8.0, delta=1e-2, clip=0.5, min_separation=2),
    "dp-ftrl/bands": mechanism("dp-ftrl", "b-min-sep", bands=1, **FTRL),
    "dp-ftrl/buffers": mechanism("dp-ftrl", "b-min-sep", mechanism="blt", buffers=1, **FTRL),
    "dp-ftrl/max-participations": mechanism("dp-ftrl", "b-min-sep", max_participations=1, **FTRL),
    "dp-ftrl/float32": merged(MECHANISMS["dp-ftrl-blt"], {"privacy": {"arithmetic": "float32"}}),
    "secagg/malicious-server": {"privacy": {"secagg": {"adversary": "malicious-server", "corrupt": 0.0}}},
    "secagg/uniform": {"privacy": {"secagg": {"input-bits": 12}}, "server": {"weighting": "uniform"}},
    "secagg/clipped": {"privacy": {"secagg": {"clip": 0.01}}},
    "secagg/max-weight": {"privacy": {"secagg": {"max-weight": 100}}},
}
FAULTS: Mapping[str, Tree] = {
    "dropout": {"dropout": 0.3},
    "crash": {"crash": 0.4},
    "nan": {"nan": 0.4},
    "straggler": {"straggler": 0.8, "delay": 2.0, "deadline": 2.0},
    "all": {
        "dropout": 0.2, "crash": 0.2, "nan": 0.2, "straggler": 0.2, "delay": 2.0, "deadline": 2.0
    },
    "everyone": {"dropout": 1.0},
}  # fmt: skip
FAULTY = ("none", "dp-sgd", "local-dp-gaussian", "dp-fedavg-adaptive", "dp-ftrl-banded")
ALONE: Tree = {"rounds": 6, "server": {"cohort": 1}}  # of 24, by Poisson sampling: some cohorts are empty
NOBODY: Mapping[str, Tree] = {
    "none": {"server": {"sampling": "poisson"}},
    "dp-sgd": mechanism("dp-sgd", "poisson", adversary="released-models", **SGD),
    "local-dp": mechanism("local-dp", "poisson", noise_multiplier=0.5, delta=1e-2, clip=0.5),
    "dp-fedavg": mechanism("dp-fedavg", "poisson", **FEDAVG),
    "dp-fedavg-adaptive": merged(
        MECHANISMS["dp-fedavg-adaptive"],
        {"server": {"sampling": "poisson"}, "privacy": {"dp-fedavg": {"noise-multiplier": 0.02}}},
    ),
    "dp-ftrl": MECHANISMS["dp-ftrl-banded"],
}
# A round needs 5 of 6 updates, and one client in three is lost.
FEW: Tree = {"rounds": 6, "faults": {"dropout": 0.3}, "privacy": {"secagg": {"dropout": 0.17}}}
# The model kills the process once, when one round has been written: while a client trains in the next, or while the
# server evaluates what was released in it.
OWN_MODEL = b'''"""A linear model that kills its process in round 2."""

import os
import signal
from pathlib import Path

from torch import nn


class Deadly(nn.Module):
    def __init__(self, task, training):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.in_training = training

    def forward(self, x):
        rows, mark = Path("run/metrics.jsonl"), Path("died")
        if self.training == self.in_training and rows.exists() and not mark.exists():
            if rows.read_bytes().count(b"\\n") == 1:
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.layer(x.flatten(1))


def in_training(task):
    return Deadly(task, True)


def in_evaluation(task):
    return Deadly(task, False)
'''
# Each kill costs two process starts, so not every mechanism is killed at both places.
KILLED = (
    ("none", "in_training"),
    ("none", "in_evaluation"),
    ("dp-sgd", "in_evaluation"),
    ("dp-fedavg-adaptive", "in_evaluation"),
    ("dp-ftrl-banded", "in_training"),
    ("dp-ftrl-banded", "in_evaluation"),
)
# With the operating system's randomness cohorts vary: all clients take part, or the ledger has no client events.
ALL: Tree = {"server": {"cohort": 24}}
KILLED_WITH_REAL_NOISE: Mapping[tuple[str, str], Tree] = {
    ("dp-sgd", "in_training"): ALL,
    ("local-dp-gaussian", "in_evaluation"): ALL,
    ("dp-fedavg", "in_evaluation"): {},
    ("dp-ftrl-banded", "in_training"): {},
    ("dp-ftrl-banded", "in_evaluation"): {},
}


def killed(name: str, *changes: Tree, place: str, seeded: bool) -> Case:
    """Return the case of a run that SIGKILL ends in round 2, at a place, and its resumption."""
    model = {"model": {"name": f"own_model:{place}"}}
    return Case(
        name=name,
        steps=(cli("run", FILE, "--out", RUN), cli("resume", RUN)),
        files={FILE: toml(*changes, model), "own_model.py": OWN_MODEL},
        seeded=seeded,
    )


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for name, tree in VARIANTS.items():
        yield resumed(f"variants/{name}", tree, after=2)
    for name, table in FAULTS.items():
        for private, tree in MECHANISMS.items():
            if private in FAULTY:
                yield whole(f"faults/{name}/{private}", tree, {"faults": table})
        for secure in ("ideal", "real"):
            for private in ("none", "dp-fedavg"):
                trees = (SECURE[secure], MECHANISMS[private], {"faults": table})
                yield whole(f"faults/{name}/{private}/{secure}", *trees)
    local: Tree = {"runtime": {"engine": "local"}}
    yield whole("faults/all/none/local", {"faults": FAULTS["all"]}, local)
    yield whole("faults/all/none/real/local", {"faults": FAULTS["all"]}, SECURE["real"], local)
    yield whole("faults/min-clients", {"faults": {"dropout": 0.5}, "server": {"min-clients": 4}})
    for name, tree in NOBODY.items():
        yield whole(f"nobody/{name}", tree, ALONE)
        yield resumed(f"nobody/{name}/resumed", tree, ALONE, after=3)
    for secure in ("ideal", "real"):
        for name in ("none", "dp-sgd", "local-dp-gaussian", "dp-fedavg-adaptive", "dp-ftrl-banded"):
            yield whole(f"no-sum/{name}/{secure}", MECHANISMS[name], FEW, SECURE[secure])
    for name, place in KILLED:
        yield killed(f"kills/{name}/{place}", MECHANISMS[name], place=place, seeded=True)
    for (name, place), tree in KILLED_WITH_REAL_NOISE.items():
        trees = (MECHANISMS[name], tree, {"privacy": {"noise": "os"}})
        yield killed(f"kills/os/{name}/{place}", *trees, place=place, seeded=False)
    yield Case(
        name="export/os",
        steps=(cli("run", FILE, "--out", RUN), cli("export", RUN, "exported")),
        files={FILE: toml(MECHANISMS["dp-fedavg"], {"privacy": {"noise": "os"}})},
        runs=(RUN, "exported"),
        seeded=False,
    )
