"""Transforms of clients' updates: sparsification, quantisation."""

from __future__ import annotations

from fedsim import options as o
from fedsim.catalogue.entries import TransformEntry, find, table

TRANSFORMS = table(
    TransformEntry(
        name="top-k",
        reference="fedsim.transforms.topk:TopK",
        summary="the coordinates of largest magnitude, the others zero (Aji and Heafield 2017)",
        options=o.TopKOptions,
    ),
    TransformEntry(
        name="quantise",
        reference="fedsim.transforms.quantise:Quantise",
        summary="unbiased stochastic rounding to levels of the update's L2 norm (QSGD, Alistarh et al. 2017)",
        options=o.QuantiseOptions,
    ),
)


def find_transform(name: str) -> TransformEntry:
    """Return the entry of a transform; `"module:callable"` is the user's own; raises `Refused` for an unknown name."""
    if ":" in name:
        return TransformEntry(name=name, reference=name, summary="", options=o.FreeOptions)
    return find(TRANSFORMS, name, ', or "module:callable"')
