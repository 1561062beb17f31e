"""Encoding of a client's update, weight and metrics as one vector of integers; a sum of such vectors decodes to a mean.

An update is clipped coordinate by coordinate, scaled by the client's weight and stochastically rounded to centred
integers. The weight, the number of clipped coordinates and the metrics follow in a *tail*, so that the server sees
only their sums. The ring is large enough for any sum of the cohort's vectors: nothing wraps.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.secagg.ring import MOST_BITS, SEED_SIZE, Ring, key_stream

METRIC_BITS = 20  # after the point
METRIC_LIMIT = 2**31  # magnitude of a metric
MOST_INPUT_BITS = 32
_PIECE = 1 << 15  # coordinates: intermediate results stay in the cache


@dataclass(frozen=True)
class Decoded:
    """A decoded sum: all that the server learns."""

    coordinates: NDArray[np.int64]
    """Of the sum of the clipped, weighted and rounded updates, whole numbers, `(dimension,)`."""
    unit: float  # what a coordinate counts in that sum
    mean_unit: float  # what it counts in the weighted mean
    weight: int  # sum of the weights
    clients: int  # number of summands
    clipped: int  # coordinates that were clipped, over all clients
    metrics: dict[str, float]  # weighted means, by name
    metric_totals: dict[str, float]  # weighted sums, by name

    @property
    def rounding(self) -> float:
        """Bound on the L2 norm of the sum's rounding errors, relative to the sum's (or to one unit, if it is zero).

        It is the root of the expected square: of a client's coordinate that is at most a quarter of a unit.
        """
        error = 0.5 * math.sqrt(self.clients * self.coordinates.size)
        return error / max(float(np.linalg.norm(self.coordinates)), 1.0)

    @property
    def total(self) -> NDArray[np.float64]:
        """Weighted sum of the updates, `(dimension,)`."""
        return np.multiply(self.coordinates, self.unit, dtype=np.float64)

    @property
    def update(self) -> NDArray[np.float64]:
        """Weighted mean of the updates, `(dimension,)`."""
        return np.multiply(self.coordinates, self.mean_unit, dtype=np.float64)


@dataclass(frozen=True)
class Encoding:
    """Format of a client's vector. All of it is public.

    A coordinate x of an update of weight w becomes the integer
    `stochastic_round(clip(x) / clip * (w / max_weight) * B)` with `B = 2^(input_bits - 1) - 1`.

    The rounding is unbiased up to arithmetic precision: the expected integer differs from the real number by at most
    2^-17 of a step (2^-33 from 17 input bits on) and a relative 2^-22 (2^-50 if the update is float64 or has more
    than 16 input bits). A single integer differs by less than a step, plus these errors.

    Attributes:
        dimension: Numbers in an update.
        cohort: Most vectors in a sum.
        input_bits: Bits p of a rounded coordinate, 2 to 32.
        clip: A coordinate is clipped to [-clip, clip]; 1e-12 to 1e12.
        max_weight: A client's weight is a whole number from 1 to this. A weight far below it costs precision: a
            coordinate then has only `B * w / max_weight` steps.
        metrics: Names of the averaged metrics (weighted means), in the order of the tail.

    Raises:
        ValueError: A field is out of range, or sums need more than 62 bits.

    >>> encoding = Encoding(2, cohort=100, max_weight=50, metrics=("loss",))
    >>> encoding.ring.bits, encoding.length
    (23, 8)
    """

    dimension: int
    _: KW_ONLY
    cohort: int
    input_bits: int = 16
    clip: float = 1.0
    max_weight: int = 1
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, least, most in (
            ("dimension", 1, 2**40),
            ("cohort", 1, 2**62),
            ("input_bits", 2, MOST_INPUT_BITS),
            ("max_weight", 1, 2**31 - 1),
        ):
            object.__setattr__(self, key, _whole(key, getattr(self, key), least, most))
        if not _is_real(self.clip) or not 1e-12 <= self.clip <= 1e12:
            raise ValueError(f"clip = {self.clip!r}: must be a number from 1e-12 to 1e12")
        object.__setattr__(self, "clip", float(self.clip))
        names = self.metrics
        if not isinstance(names, tuple) or not all(isinstance(n, str) and n for n in names):
            raise ValueError(f"metrics = {names!r}: must be a tuple of names")
        if len(set(names)) < len(names):
            raise ValueError(f"metrics = {names!r}: must differ from each other")
        if self._bits > MOST_BITS:
            room = 2 ** (MOST_BITS - 1) - 1
            raise ValueError(
                f"cohort = {self.cohort}, input_bits = {self.input_bits}: sums need {self._bits} bits, of at most "
                f"{MOST_BITS}; allowed: a cohort of at most {room // self._bound}, "
                f"or at most {(room // self.cohort + 1).bit_length()} input bits"
            )

    @property
    def ring(self) -> Ring:
        """The smallest ring for all sums of `cohort` vectors: `2^bits >= 2 * cohort * B + 1`."""
        return Ring(self._bits)

    @property
    def length(self) -> int:
        """Elements of a vector: the dimension and the tail."""
        return self.dimension + sum(self._digits(limit) for limit in self._tail_limits)

    @property
    def _bound(self) -> int:
        return (1 << self.input_bits - 1) - 1

    @property
    def _bits(self) -> int:
        return (2 * self.cohort * self._bound).bit_length()

    @property
    def _tail_limits(self) -> list[int]:
        """Largest magnitudes of the tail's integers: the weight, the number of clipped coordinates, the metrics."""
        metric = self.max_weight * METRIC_LIMIT * 2**METRIC_BITS
        return [self.max_weight, self.dimension] + [metric] * len(self.metrics)

    def encode(
        self,
        update: NDArray[np.floating[Any]],
        weight: int,
        metrics: Mapping[str, float],
        rounding: np.random.Generator,
    ) -> NDArray[Any]:
        """Return a client's vector, `(length,)` words of the ring. It is as secret as the update.

        Args:
            update: `(dimension,)`; float16, float32 or float64; finite.
            weight: A whole number from 1 to `max_weight`.
            metrics: Includes those in `self.metrics`, finite, of magnitude at most 2^31; others are ignored.
            rounding: Draws a 32-byte key; its AES key stream rounds the coordinates.

        Raises:
            ValueError: An argument is invalid.
        """
        if update.dtype not in (np.float16, np.float32, np.float64):
            raise ValueError(f"update: dtype {update.dtype}, must be float16, float32 or float64")
        if update.shape != (self.dimension,):
            raise ValueError(f"update: shape {update.shape}, must be ({self.dimension},)")
        weight = _whole("weight", weight, 1, self.max_weight)
        weighted = [weight * _fixed(name, metrics) for name in self.metrics]
        vector = np.empty(self.length, dtype=self.ring.dtype)
        clipped = self._round(update, weight, rounding, vector[: self.dimension])
        self._write_tail([weight, clipped, *weighted], vector[self.dimension :])
        return vector

    def decode(self, total: NDArray[Any], clients: int) -> Decoded:
        """Decode the sum of `clients` vectors.

        Args:
            total: `(length,)` words of the ring, without masks.
            clients: Number of summands, 1 to `cohort`.

        Raises:
            ValueError: An argument is invalid, or the total is impossible: the masks did not cancel, or a client
                broke the encoding. (Passing proves neither.)
        """
        clients = _whole("clients", clients, 1, self.cohort)
        if total.shape != (self.length,):
            raise ValueError(f"total: shape {total.shape}, must be ({self.length},)")
        sums = self.ring.centred(total)
        weight, clipped, *metrics = self._read_tail(sums[self.dimension :].tolist(), clients)
        _check_sum("weight", weight, clients, clients * self.max_weight)
        _check_sum("clipped coordinates", clipped, 0, clients * self.dimension)
        limit = weight * METRIC_LIMIT << METRIC_BITS
        for name, metric in zip(self.metrics, metrics, strict=True):
            _check_sum(f"metric {name}", metric, -limit, limit)
        coordinates = sums[: self.dimension]
        most = self._bound * weight // self.max_weight + 2 * clients
        for value in (coordinates.min(), coordinates.max()):
            _check_sum("a coordinate", int(value), -most, most)
        return Decoded(
            coordinates=coordinates,
            unit=self.clip * self.max_weight / self._bound,
            mean_unit=self.clip * self.max_weight / (self._bound * weight),
            weight=weight,
            clients=clients,
            clipped=clipped,
            metrics={n: m / (weight << METRIC_BITS) for n, m in zip(self.metrics, metrics, strict=True)},
            metric_totals={n: m / (1 << METRIC_BITS) for n, m in zip(self.metrics, metrics, strict=True)},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, exactly."""
        return {**asdict(self), "metrics": list(self.metrics)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the encoding that `to_dict` wrote; raises `ValueError` if a field is missing, unknown or invalid."""
        names = {field.name for field in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != names:
            raise ValueError(f"encoding = {data!r}: must have {', '.join(sorted(names))}")
        if not isinstance(data["metrics"], list):
            raise ValueError(f"metrics = {data['metrics']!r}: must be a list of names")
        return cls(**{**data, "metrics": tuple(data["metrics"])})

    def _round(
        self, update: NDArray[Any], weight: int, rounding: np.random.Generator, out: NDArray[Any]
    ) -> int:
        """Write the update's integers and return the number of clipped coordinates.

        In fixed point: a random integer with as many bits as the scaled number has after the point is added, and the
        part before the point is the rounded number. B never becomes B + 1.
        """
        narrow = self.input_bits <= 16
        points = 16 if narrow else 32  # bits after the point: not even (B + 1) * 2^points - 1 overflows
        fixed = np.dtype(np.int32 if narrow else np.int64)
        real = np.dtype(np.float32 if narrow and update.dtype.itemsize <= 4 else np.float64)
        most = float(self._bound << points)
        scale = most * (weight / self.max_weight) / self.clip
        scaled = np.empty(min(_PIECE, self.dimension), dtype=real)
        integers = np.empty(len(scaled), dtype=fixed)
        signed = out.view(f"<i{out.dtype.itemsize}")
        size = points // 8
        stream = key_stream(rounding.bytes(SEED_SIZE), self.dimension * size, piece=_PIECE * size)
        clipped = 0
        for start, draws in zip(range(0, self.dimension, _PIECE), stream, strict=True):
            piece = update[start : start + _PIECE]
            scaled, integers = scaled[: len(piece)], integers[: len(piece)]
            np.copyto(scaled, piece)
            high, low = float(scaled.max()), float(scaled.min())
            if not (math.isfinite(high) and math.isfinite(low)):
                first = int(np.flatnonzero(~np.isfinite(scaled))[0])
                raise ValueError(f"update[{start + first}] = {scaled[first]}: must be finite")
            if max(high, -low) > self.clip:
                clipped += int(np.count_nonzero(np.abs(scaled) > self.clip))
                np.clip(scaled, -self.clip, self.clip, out=scaled)
            scaled *= scale
            np.clip(scaled, -most, most, out=scaled)
            np.rint(scaled, out=scaled)
            np.copyto(integers, scaled, casting="unsafe")
            integers += draws.view(f"<u{size}")
            np.right_shift(integers, points, out=signed[start : start + _PIECE], casting="same_kind")
        return clipped

    def _digits(self, limit: int) -> int:
        """Return the number of digits of an integer of magnitude up to `limit`, with the top one within [-B, B]."""
        base = self.input_bits - 1
        digits = 1
        while limit > self._bound << (digits - 1) * base:
            digits += 1
        return digits

    def _write_tail(self, values: list[int], out: NDArray[Any]) -> None:
        """Write each integer as digits to the base 2^(input_bits - 1), the lowest first, the top one signed."""
        base = self.input_bits - 1
        digits = []
        for value, limit in zip(values, self._tail_limits, strict=True):
            count = self._digits(limit)
            digits += [(value >> i * base) & (2**base - 1) for i in range(count - 1)]
            digits.append(value >> (count - 1) * base)
        out[:] = np.array(digits, dtype=np.int64).astype(out.dtype)

    def _read_tail(self, digits: list[int], clients: int) -> list[int]:
        base = self.input_bits - 1
        values = []
        for limit in self._tail_limits:
            count = self._digits(limit)
            own, digits = digits[:count], digits[count:]
            most = clients * self._bound
            for i, digit in enumerate(own):
                _check_sum("a digit of the tail", digit, -most if i == count - 1 else 0, most)
            values.append(sum(digit << i * base for i, digit in enumerate(own)))
        return values


def _fixed(name: str, metrics: Mapping[str, float]) -> int:
    """Return a metric as an integer number of 2^-20."""
    if name not in metrics:
        raise ValueError(f"metrics: {name!r} is missing; given: {', '.join(sorted(metrics)) or 'none'}")
    value = metrics[name]
    if not _is_real(value) or not -METRIC_LIMIT <= value <= METRIC_LIMIT:
        raise ValueError(f"metrics: {name} = {value!r}, must be a finite number from -2^31 to 2^31")
    return round(float(value) * (1 << METRIC_BITS))


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _whole(key: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{key} = {value!r}: must be a whole number from {least} to {most}")
    return int(value)


def _check_sum(key: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"total: {key} = {value}, must be from {least} to {most}")
