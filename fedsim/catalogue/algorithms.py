"""Federated learning algorithms."""

from __future__ import annotations

from fedsim import options as o
from fedsim.catalogue.entries import AlgorithmEntry, find, table

ALGORITHMS = table(
    AlgorithmEntry(
        name="fedavg",
        reference="fedsim.algorithms.fedavg:FedAvg",
        summary="clients train the model that they receive (McMahan et al. 2017), for every strategy",
    ),
    AlgorithmEntry(
        name="scaffold",
        reference="fedsim.algorithms.scaffold:Scaffold",
        summary="control variates against client drift (Karimireddy et al. 2020)",
        options=o.ScaffoldOptions,
        fields=True,
    ),
)


def find_algorithm(name: str) -> AlgorithmEntry:
    """Return the entry of an algorithm; `"module:callable"` is the user's own; raises `Refused` for an unknown name."""
    if ":" in name:
        return AlgorithmEntry(name=name, reference=name, summary="", options=o.FreeOptions, fields=True)
    return find(ALGORITHMS, name, ', or "module:callable"')
