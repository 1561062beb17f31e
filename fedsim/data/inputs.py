"""Inputs in fedsim's form: uint8, read as value / 255, or finite float32; images with their channels first.

One rule for every source says what is scaled. Images of whole numbers, and uint8 in any shape, are pixels: where all
are 0 or 1 they are taken as they are, else divided by 255, or by 65,535 if one is above 255. Real numbers, features of
other whole numbers, and whole numbers below 0 or above 65,535 are taken as they are. `data.scale` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import Refused
from fedsim.options import InputOptions

LIKELY = {1: 2, 3: 2, 2: 1, 4: 1}  # numbers of channels: grey and RGB before those with transparency


def check_inputs(x: NDArray[Any], where: str) -> None:
    """Refuse inputs that are not numbers, not finite, or neither features nor images."""
    if x.dtype.kind not in "biuf":
        raise Refused(f"{where}: has dtype {x.dtype}; numbers are needed")
    if x.dtype.kind == "f" and not np.isfinite(_real(x)).all():
        raise Refused(f"{where}: holds NaN or infinity; finite numbers are needed")
    if x.ndim not in (2, 3, 4):
        raise Refused(f"{where}: has shape {x.shape}; features (2 axes) or images (3 or 4 axes) are needed")


def as_inputs(
    parts: Mapping[str, NDArray[Any]], where: str, options: InputOptions
) -> tuple[list[NDArray[Any]], float | None]:
    """Return a source's inputs in fedsim's form, and what whole numbers among them were divided by.

    `parts` are its training and test inputs by the names that they have in errors: all are read alike.

    Raises:
        Refused: They can't be used, are not alike, or it isn't clear which axis holds the channels.
    """
    for name, x in parts.items():
        check_inputs(x, f"{where}: {name}")
    arrays = list(parts.values())
    divisor = divisor_of(arrays)
    if len({x.shape[1:] for x in arrays}) > 1 or (
        divisor not in (None, 1) and options.scale is None and len({x.dtype.kind == "f" for x in arrays}) > 1
    ):
        said = [f"{x.dtype} {x.shape[1:]}" for x in arrays]
        (one, *_), (first, *others) = parts, said
        rest = [f" and {name} {kind}" for name, kind in zip(list(parts)[1:], others, strict=True)]
        raise Refused(f"{where}: {one} holds {first}{''.join(rest)}; they must be alike")
    last = channels_last(arrays[0].shape, options.layout, f"{where}: {next(iter(parts))}")
    return [converted(x, last, divisor, options.scale) for x in arrays], options.scale or divisor


def channels_last(shape: tuple[int, ...], layout: str | None, where: str) -> bool:
    """Return whether images of this shape have their channels last; `Refused` if neither that nor `layout` says it."""
    if len(shape) != 4:
        return False
    if layout is not None:
        return layout == "channels-last"
    first, last = LIKELY.get(shape[1], 0), LIKELY.get(shape[3], 0)
    if first == last:
        raise Refused(
            f"{where}: has shape {shape}, whose channels may be axis 1 or axis 3; data.layout must say it: "
            "'channels-first' or 'channels-last'"
        )
    return last > first


def divisor_of(arrays: Sequence[NDArray[Any]]) -> float | None:
    """Return what the rule divides whole numbers by, 1 for as they are; None if there are none."""
    whole = [x for x in arrays if x.dtype.kind != "f" and x.size]
    if not whole:
        return None
    low, high = (int(bound) for bound in _range(whole))
    pixels = any(x.ndim > 2 or x.dtype == np.uint8 for x in whole)
    if not pixels or low < 0 or high <= 1 or high > 65535:
        return 1
    return 255 if high <= 255 else 65535


def converted(x: NDArray[Any], last: bool, divisor: float | None, scale: float | None) -> NDArray[Any]:
    """Return inputs in fedsim's form: whole numbers divided by `divisor`, or all by `scale` if it is set."""
    by = scale or (divisor if x.dtype.kind != "f" else None) or 1
    if x.ndim == 3:
        x = x[:, None]
    if last:
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if by == 255 and x.dtype.kind != "f" and x.min(initial=0) >= 0 and x.max(initial=0) <= 255:
        return x.astype(np.uint8)
    return _real(x) if by == 1 else _real(x) / np.float32(by)


def told(arrays: Sequence[NDArray[Any]], divisor: float | None, scale: float | None = None) -> str:
    """Return the dtypes and the range of inputs, as they came, and how they are scaled, in words."""
    low, high = _range(arrays)
    by = scale or divisor or 1
    dtypes = " and ".join(dict.fromkeys(str(x.dtype) for x in arrays))
    return f"{dtypes} from {low:g} to {high:g}, " + ("as they are" if by == 1 else f"divided by {by:g}")


def _range(arrays: Sequence[NDArray[Any]]) -> tuple[Any, Any]:
    some = [x for x in arrays if x.size]
    return (min(x.min() for x in some), max(x.max() for x in some)) if some else (0, 0)


def _real(x: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # infinity is refused
        return x.astype(np.float32)
