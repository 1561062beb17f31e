"""Rounding errors of floating-point sums of clipped gradients, and the clip norm that compensates for them.

A step of DP-SGD releases a sum of per-example gradients clipped to C. Noise hides one example if it moves the sum *as
computed* by at most C. So gradients are clipped to `KEPT * C = (1 - 2^-9) C`, and the rest covers the following, with
u = 2^-24, half of a float32's precision:

1. **The factor.** Norms are float64 sums of the squares of what is added up, so that they are exact to some 2^-40, or
   err upwards (`param_gradients.py`); a factor is rounded to a float32 that is no larger. An example adds at most
   KEPT C. Of more examples than `SINGLE` factors are float64: with the last of them the others' change by `n u C`,
   7e-6 C, at most.
2. **The sum over examples**, a matrix product with `n <= SINGLE` examples in float32. In whatever order it adds, each
   number is off by at most `(n + 1) u` times the sum of its terms' magnitudes (Higham 2002, section 3.1), and so the sum
   by `(n + 1) u n C` in L2 norm. The sums with and without one example are off by `(n + 1) u (2 n - 1) C` together:
   1.73e-3 C for 120 examples. All else is summed in float64: more examples than that, and layers whose positions are
   added up in the same product. There an example's terms may cancel; `MARGIN` keeps them below 2^11 C together (2^17 C in
   a float64 model), so that for up to `most_examples`, and 2^20 positions in all (2^14), the sums are off by less than
   2^-14 C = 6.1e-5 C, and by `2 n u C` more, 1.5e-5 C, where they are rounded to a float32.
3. **The grid** (`fedsim.privacy.arithmetic`): two sums are rounded to multiples of g, a power of two of at most
   `2^-15 C / sqrt(d)`, which moves them apart by at most `sqrt(d) g <= 3.1e-5 C`.

Together 1.85e-3 C, below 2^-9 C = 1.95e-3 C. It takes the products for sums of products, as BLAS computes them;
`check_precision` refuses PyTorch's settings that trade digits for speed.

What remains: an example's own gradient is taken as the machine computes it. It is the same, to the last bit, whatever
the other examples of a batch of this size are (`independence.py` tests that), but a library may choose another order
of addition for a batch of another size, and so move last digits of gradients before they are clipped.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedsim.privacy.arithmetic import Grid

KEPT = 1 - 2.0**-9
SINGLE = 120  # examples: more are summed in float64
MARGIN = 2.0**-34  # least share of (the sum of the norms of an example's terms)^2 added to its squared norm
_DOWN = 1 - 2.0**-22  # so that rounding to float32 does not raise a factor
_LEAST = 2.0**-100  # a factor below is zero: float32 would round it by more


def clip_factors(squares: Tensor, clip: float, dtype: torch.dtype) -> Tensor:
    """Return the clip factor of each example's gradient, `(B,)`: at most `clip / norm`, and at most 1.

    Args:
        squares: Squared norms, `(B,)`, float64, finite.
        clip: Norm to clip to; Opacus' 1e-6 is added to the norms.
        dtype: Dtype of the gradients. For more examples than `SINGLE`, factors and sums are float64.
    """
    if dtype == torch.float32:
        clip *= _DOWN
    factors = (clip / (squares.sqrt() + 1e-6)).clamp_(max=1.0)
    factors.masked_fill_(factors < _LEAST, 0.0)
    return factors if len(squares) > SINGLE else factors.to(dtype)


def most_examples(dtype: torch.dtype) -> int:
    """Return the most examples for which sums of gradients of a dtype have an error bound."""
    return 2**14 if dtype == torch.float32 else 2**8


def step_grid(clip: float, dimension: int) -> Grid:
    """Return the grid of a step's sum of `dimension` numbers, for gradients clipped to `clip`.

    It does not depend on the noise: for noise multipliers up to `2^25 / sqrt(dimension)` (`most_noise`), thousands of
    a normal's float64s lie between two of its points.
    """
    return Grid.at_most(clip * 2.0**-15 / math.sqrt(dimension))


def most_noise(dimension: int) -> float:
    """Return the largest noise multiplier for `step_grid`."""
    return 2.0**25 / math.sqrt(dimension)


def check_precision(dtypes: set[torch.dtype]) -> torch.dtype:
    """Return the dtype of a model's parameters: float64 if some are.

    Raises:
        ValueError: Their sums, or matrix products under PyTorch's settings, exceed the error bounds above.
    """
    if not dtypes <= {torch.float32, torch.float64}:
        raise ValueError(f"parameters of {', '.join(sorted(map(str, dtypes)))}: must be float32 or float64")
    if (precision := torch.get_float32_matmul_precision()) != "highest":
        raise ValueError(
            f"torch.set_float32_matmul_precision({precision!r}): sums of gradients would be off by more than their "
            "noise allows for; 'highest' is needed"
        )
    return torch.float32 if dtypes == {torch.float32} else torch.float64
