"""AdamW: Adam with weight decay outside the moments (Loshchilov and Hutter 2019)."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim.adamw import adamw

from fedsim.optimizers.adam import Adam


class AdamW(Adam):
    """Adam that multiplies the parameters by `1 - lr * weight_decay` before each step (`torch.optim.AdamW`).

    Arguments as `Adam`'s; with `weight_decay = 0` it is Adam.
    """

    _update: Callable[..., None] = staticmethod(adamw)
