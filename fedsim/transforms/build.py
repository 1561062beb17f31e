"""Builds an experiment's transforms, and applies them to an update."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.layout import Layout
from fedsim.making import made
from fedsim.sections import TransformSection
from fedsim.streams import numpy_stream
from fedsim.threads import single_threaded
from fedsim.transforms.protocol import Transform, Values


def transforms_of(experiment: Experiment) -> tuple[Transform, ...]:
    """Return an experiment's transforms, in their order.

    A user's own `"module:callable"` is called with the other keys of its table as keyword arguments.

    Raises:
        Refused: The callable is missing, doesn't take the options, or returns no transform.
    """

    def transform_of(index: int, section: TransformSection) -> Transform:
        transform: Transform = made(
            lambda: section.entry.load()(**section.arguments),
            Transform,
            f"transforms.{index}.name = {section.name!r}",
            "an object with apply(update, draws)",
        )
        return transform

    return tuple(itertools.starmap(transform_of, enumerate(experiment.transforms or ())))


def transformed(
    transforms: Sequence[Transform], update: Values, seed: int, round_: int, client: int
) -> Values:
    """Return a client's update, `(dimension,)` finite numbers, after all transforms; it may be overwritten.

    Raises:
        ValueError: A transform returns no vector of the same shape and dtype.
    """
    with single_threaded():
        for index, transform in enumerate(transforms):
            draws = numpy_stream(seed, f"transform-{index}", round_=round_, client=client)
            update = _applied(transform, update, draws)
    return update


def check_transforms(experiment: Experiment, transforms: Sequence[Transform], layout: Layout) -> None:
    """Refuse a transform that fails on a random update, or returns no vector of the same shape and dtype."""
    draws = numpy_stream(experiment.seed, "transform-check")
    for index, transform in enumerate(transforms):
        update = draws.standard_normal(layout.dimension).astype(layout.dtype)
        try:
            _applied(transform, update, draws)
        except Exception as error:
            name = (experiment.transforms or ())[index].name
            said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise Refused(f"transforms.{index}.name = {name!r}: {said}") from error


def _applied(transform: Transform, update: Values, draws: np.random.Generator) -> Values:
    shape, dtype = update.shape, update.dtype
    sent: object = transform.apply(update, draws)
    if not isinstance(sent, np.ndarray) or (sent.shape, sent.dtype) != (shape, dtype):
        said = f"{sent.dtype} of shape {sent.shape}" if isinstance(sent, np.ndarray) else type(sent).__name__
        raise ValueError(
            f"{type(transform).__name__}.apply() returned {said}; {dtype} of shape {shape} is needed"
        )
    return sent
