"""Styles of a comparison's lines, in pictures and on the page.

Colours are Okabe and Ito's (2008), which the colour-blind can distinguish; each line also has its own marker and
dash.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.compare.comparison import Comparison

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#666666"  # groups without noise
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES_OF_NONE = ("--", ":", "-.")  # the same
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Style:
    """A line's style, by its position among the lines, or among the groups without noise."""

    place: int | None

    @property
    def colour(self) -> str:
        """As `#rrggbb`."""
        return GREY if self.place is None else COLOURS[self.place % len(COLOURS)]

    @property
    def marker(self) -> str:
        """As Matplotlib names it."""
        return "*" if self.place is None else MARKERS[self.place % len(MARKERS)]

    @property
    def dash(self) -> str | tuple[int, tuple[int, ...]]:
        """As Matplotlib takes it."""
        return DASHES[(self.place or 0) % len(DASHES)]


def styles_of(comparison: Comparison) -> dict[str, Style]:
    """Return each line's style by its name, the same in all pictures."""
    private = dict.fromkeys(comparison.series[group.label] for group in comparison.groups if group.costs)
    styles = {name: Style(place) for place, name in enumerate(private)}
    return {name: styles.get(name, Style(None)) for name in comparison.series.values()}
