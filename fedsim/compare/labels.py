"""Places numbers beside the points of a picture without overlap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = 8.0  # font size, in points, as all lengths here
WIDTH, HEIGHT = 0.64 * SIZE, 1.15 * SIZE  # of a letter, with padding
MARKER = 9.0  # diameter
NEAR = 8.0  # from a point to its number
FAR = (20.0, 32.0, 44.0, 56.0)  # the same, with a line from one to the other
STEPS = 12  # in which a line is checked
DARK = 0.6
ANGLES = (0, 180, 45, -45, 135, -135, 90, -90, 22, -22, 158, -158)  # degrees, the first that fits


class Label(NamedTuple):
    """A point, in the axes' coordinates, and its number."""

    x: float
    y: float
    text: str
    colour: str


class Box(NamedTuple):
    """A rectangle: two corners, in points."""

    left: float
    low: float
    right: float
    high: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        """Return the box with this centre and size."""
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    def meets(self, other: Box) -> bool:
        """Return whether they overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.low < other.high
            and other.low < self.high
        )

    def is_within(self, other: Box) -> bool:
        """Return whether it is inside another."""
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.low <= self.low
            and self.high <= other.high
        )


def write_labels(figure: Figure, axes: Axes, points: Sequence[Label]) -> None:
    """Write numbers beside their points, clear of points, the legend and each other if there is room.

    Args:
        figure: Final layout; it must not change any more.
        axes: A part of it.
        points: All drawn points; those without a number have an empty text.
    """
    scale = 72 / figure.dpi
    there = [tuple(scale * axes.transData.transform((point.x, point.y))) for point in points]
    taken = [Box.around(x, y, MARKER, MARKER) for x, y in there]
    if (legend := axes.get_legend()) is not None:
        taken.append(Box(*(scale * edge for edge in legend.get_window_extent().extents)))
    frame = Box(*(scale * edge for edge in axes.bbox.extents))
    labels = [point for point in points if point.text]
    places = [place for place, point in zip(there, points, strict=True) if point.text]
    for label, (right, up) in zip(labels, placed(labels, places, taken, frame), strict=True):
        leads = math.hypot(right, up) > NEAR + len(label.text) * WIDTH
        line = {"arrowstyle": "-", "color": label.colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            label.text,
            (label.x, label.y),
            (right, up),
            textcoords="offset points",
            fontsize=SIZE,
            color=_darker(label.colour),
            ha="center",
            va="center",
            arrowprops=line if leads else None,
        )


def placed(
    labels: Sequence[Label], places: Sequence[tuple[float, ...]], taken: Sequence[Box], frame: Box
) -> list[tuple[float, float]]:
    """Return the offset of each label's centre from its point: the first free one, else the first."""
    written: list[Box] = []
    offsets = []
    for label, (x, y) in zip(labels, places, strict=True):
        width = len(label.text) * WIDTH
        ways = [(dx, dy, Box.around(x + dx, y + dy, width, HEIGHT)) for dx, dy in _ways(width)]
        free = (
            (dx, dy, box)
            for dx, dy, box in ways
            if box.is_within(frame)
            and not any(map(box.meets, [*taken, *written]))
            and not any(_crosses(x, y, dx, dy, other) for other in written)
        )
        right, up, box = next(free, ways[0])
        written.append(box)
        offsets.append((right, up))
    return offsets


def _crosses(x: float, y: float, right: float, up: float, box: Box) -> bool:
    """Return whether a line from a point to its label crosses a box."""
    parts = [part / STEPS for part in range(STEPS)]
    return any(Box.around(x + part * right, y + part * up, 1, 1).meets(box) for part in parts)


def _darker(colour: str) -> str:
    """Return a darker colour, for legible text.

    >>> _darker("#E69F00")
    '#8a5f00'
    """
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(DARK * part):02x}" for part in parts)


def _ways(width: float) -> Iterator[tuple[float, float]]:
    """Yield offsets of a label's centre, the nearest first."""
    for distance, angle in itertools.product((NEAR, *FAR), ANGLES):
        along, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        yield along * (distance + width / 2), up * distance
