"""What `fedsim budget` shows of a mechanism before a run, as data; the command knows no mechanism."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from fedsim.privacy.accounting.steps import Epsilon
from fedsim.privacy.events import Relation
from fedsim.privacy.settings import kebab

FACTORS = (0.5, math.sqrt(0.5), 1.0, math.sqrt(2), 2.0)  # multiples of the plan's noise in tables
ONE_CLIENT = "one client"
RELATIONS = {
    Relation.ZERO_OUT: "zero-out (the client's update becomes zero; the number of clients is public)",
    Relation.ADD_OR_REMOVE_ONE: "add-or-remove-one (one client more or less; the rate is declared, whatever their number)",
    Relation.REPLACE_ONE: "replace-one (the client's data become any other; that it takes part is public)",
}


@dataclass(frozen=True)
class Table:
    """Right-aligned columns of text, `gap` apart; if `named`, the first column is left-aligned."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    gap: int = 3
    named: bool = False


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line of a panel: only its points that are finite and above 0 are drawn.

    `label` names its colour, and is empty if another curve of that colour has it. `colour` counts from 0; None: the
    plan's own, highlighted.
    """

    xs: Sequence[float]
    ys: Sequence[float]
    label: str = ""
    colour: int | None = None
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves over one axis, and the plan's own points.

    Attributes:
        title: Shown above them.
        axis: What varies along x.
        curves: In the order in which they are drawn.
        marks: Points, each with its text.
        legend: Title of the colours' legend.
        styles: Meaning of solid and dashed lines, for a legend of their own; empty: no such legend.
        logarithmic: Whether x is (y is always).
    """

    title: str
    axis: str
    curves: Sequence[Curve]
    marks: Sequence[tuple[float, float, str]]
    legend: str = ""
    styles: Sequence[str] = ()
    logarithmic: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Panels side by side, with one y axis."""

    title: str
    caption: str
    axis: str
    panels: Sequence[Panel]


class Budget(BaseModel, ABC):
    """Cost of a plan. Its fields are a command's options, and its docstring is the command's help.

    A field's docstring is its option's help; a string in its annotation (`Annotated[int, "N"]`) is its metavar.

    Attributes:
        picture_help: Help of the option that draws `picture`; empty: there is no picture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    picture_help: ClassVar[str] = ""

    @abstractmethod
    def check(self) -> None:
        """Check the options and calibrate the noise; other methods raise nothing after this.

        Raises:
            ValueError: A value is out of its range, or no noise or no theorem gives the epsilon.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return numbers (null: infinite, or no theorem) and inputs."""

    @abstractmethod
    def blocks(self) -> Iterator[str | Table]:
        """Yield paragraphs and tables, in order; in a paragraph, `*words*` are emphasised."""

    def picture(self) -> Picture:
        """Return the picture."""
        raise NotImplementedError("a budget with picture_help has a picture")


class NoiseBudget(Budget):
    """Budget of a mechanism that adds noise, given as a multiplier or calibrated to an epsilon.

    Attributes:
        unit: What is protected.
        columns: Names of the tables' columns, after the one that varies.
        only_with_epsilon: Options that need `epsilon`, and why.
    """

    noise_multiplier: float | None = None
    epsilon: Annotated[float | None, "E"] = None
    """Find the smallest noise multiplier that gives it."""
    unit: ClassVar[str] = ONE_CLIENT
    only_with_epsilon: ClassVar[Mapping[str, str]] = {}

    def check(self) -> None:
        """Check the options that need no accounting. As `Budget` says."""
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise ValueError(
                "--noise-multiplier, --epsilon: exactly one of them is needed; "
                f"given: {'none' if self.epsilon is None else 'both'}"
            )
        for name, why in self.only_with_epsilon.items():
            if self.epsilon is None and (value := getattr(self, name)) is not None:
                raise ValueError(f"--{kebab(name)} {value}: is for --epsilon; {why}")

    def check_noise(self) -> None:
        """Raise `ValueError` for noise that protects nothing."""
        if self.noise_multiplier is not None and self.noise_multiplier <= 0:
            raise ValueError(
                f"--noise-multiplier {self.noise_multiplier}: must be above 0; without noise nothing is private"
            )

    @cached_property
    def noise(self) -> float:
        """Noise multiplier: given, or the smallest for the epsilon."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        if self.epsilon is None:
            raise TypeError("neither epsilon nor noise-multiplier is given")
        return self.noise_for(self.epsilon)

    def varied(self, **options: Any) -> Self:
        """Return the plan with other options and the same noise."""
        return self.having(**({"noise_multiplier": self.noise, "epsilon": None} | options))

    def having(self, **options: Any) -> Self:
        """Return the plan with other options."""
        return type(self)(**({name: getattr(self, name) for name in type(self).model_fields} | options))

    @abstractmethod
    def noise_for(self, epsilon: float) -> float:
        """Return the smallest noise multiplier for an epsilon; raises `ValueError` if there is none."""

    @abstractmethod
    def bounds(self, exact: bool) -> Sequence[float | None]:
        """Return this plan's row of a table, in the order of `columns`; unless exact, quick bounds suffice."""

    @abstractmethod
    def words(self) -> dict[str, str]:
        """Return the inputs in words, by what varies in a table."""

    @property
    @abstractmethod
    def columns(self) -> Sequence[str]:
        """Names of the tables' columns, after the one that varies."""

    @property
    @abstractmethod
    def neighbours(self) -> str:
        """Which data sets are neighbours, in words."""

    def options(self, *names: str) -> dict[str, Any]:
        """Return options for JSON, by their keys."""
        return {kebab(name): getattr(self, name) for name in names}

    def tree(self, answers: dict[str, Any], inputs: dict[str, Any], **target: Any) -> dict[str, Any]:
        """Return epsilons and inputs for JSON, with the target epsilon and its options."""
        tree = answers | {"unit": self.unit, "neighbouring-relation": self.neighbours} | inputs
        return tree if self.epsilon is None else tree | {"epsilon": self.epsilon} | target

    def head(self, title: str, against: str) -> Iterator[str]:
        """Yield the plan, and the noise if it was calibrated."""
        yield title
        yield f"Protects {self.unit}; neighbours: {self.neighbours}."
        if self.epsilon is not None:
            yield f"The smallest noise for epsilon {self.epsilon:g} against {against}: *{self.noise:g}*."

    def said(self, *leaving_out: str) -> str:
        """Return the inputs in words, except those that vary."""
        return ", ".join(words for name, words in self.words().items() if name not in leaving_out)

    def over(self, title: str, column: str, plans: Iterable[tuple[str, NoiseBudget]]) -> Table:
        """Return a table of plans, each with its value of the column that varies."""
        own = self.varied()
        rows = [(name, *map(shown, plan.bounds(exact=plan == own))) for name, plan in plans]
        return Table(title, (column, *self.columns), rows)

    def over_counts(self, name: str, most: int) -> Table:
        """Return a table over `rounds` or `participations`, up to the plan's."""
        plans = [(f"{count:,}", self.varied(**{name: count})) for count in up_to(most)]
        return self.over(f"Over {name}: {self.said(name)}", name, plans)

    def over_noise(self, title: str) -> Table:
        """Return a table over noise."""
        plans = [self.varied(noise_multiplier=scaled(self.noise, factor)) for factor in FACTORS]
        return self.over(title, "noise multiplier", [(f"{plan.noise:.4g}", plan) for plan in plans])


def check_rounds(rounds: int, most: int | None, option: str) -> None:
    """Raise `ValueError` for rounds, or a client's participations (by the option's name), out of range."""
    if rounds < 1:
        raise ValueError(f"--rounds {rounds}: must be 1 or more")
    if most is not None and not 1 <= most <= rounds:
        raise ValueError(f"--{option} {most}: must be 1 to --rounds {rounds}")


def both(epsilon: Epsilon | None) -> tuple[float | None, float | None]:
    """Return both bounds, or None for each."""
    return (None, None) if epsilon is None else (epsilon.pld, epsilon.rdp)


def bounds_to_json(epsilon: Epsilon | None) -> dict[str, float | None]:
    """Return both bounds for JSON, with None for infinity."""
    bounds = (value if value is not None and math.isfinite(value) else None for value in both(epsilon))
    return dict(zip(("pld", "rdp"), bounds, strict=True))


def scaled(noise_multiplier: float, factor: float) -> float:
    """Return a multiple of the plan's noise, to three digits."""
    return noise_multiplier if factor == 1 else float(f"{noise_multiplier * factor:.3g}")


def rates_beside(rate: float) -> list[float]:
    """Return a client rate and some others around it, ascending."""
    return sorted({min(float(f"{rate * factor:.3g}"), 1.0) for factor in (0.1, 0.3, 3)} | {rate})


def counted(count: int, what: str) -> str:
    """Return a count with its noun.

    >>> counted(1, "round"), counted(2000, "round")
    ('1 round', '2,000 rounds')
    """
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def up_to(count: int, points: int = 7) -> list[int]:
    """Return a few counts up to a number, roughly in proportion.

    >>> up_to(100), up_to(3)
    ([1, 2, 5, 10, 22, 46, 100], [1, 2, 3])
    """
    return sorted({round(count ** (k / (points - 1))) for k in range(points)} | {1, count})


def shown(value: float | None) -> str:
    """Format an epsilon.

    >>> shown(7.3), shown(12345.6), shown(float("inf")), shown(None)
    ('7.300', '12,346', 'infinite', 'unavailable')
    """
    if value is None:
        return "unavailable"
    if math.isinf(value):
        return "infinite"
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.4g}"
