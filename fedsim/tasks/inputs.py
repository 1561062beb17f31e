"""Examples as tensors, shared by tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.data.federated import Examples


def inputs_of(examples: Examples) -> Tensor:
    """Return inputs: float32 `(examples, *shape)`, uint8 images divided by 255; text int64 `(examples, length)`."""
    import torch

    x = torch.from_numpy(examples.x)
    if examples.kind is Kind.TEXT:
        return x.long()
    return x.float() / 255 if x.dtype == torch.uint8 else x


def targets_of(examples: Examples, dtype: type[np.generic]) -> NDArray[Any]:
    """Return the targets.

    Raises:
        TypeError: There are none, or they have another dtype.
    """
    if examples.y is None or examples.y.dtype != dtype:
        found = "none" if examples.y is None else examples.y.dtype
        raise TypeError(f"{examples.kind} examples with targets of {np.dtype(dtype)} are needed, not {found}")
    return examples.y
