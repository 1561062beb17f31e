"""Comparing runs: scores by privacy budget and mechanism, with their spread over seeds.

A comparison is made by `compare`; `frame_of` gives its table, the `..._figure` functions Matplotlib figures, `page_of`
an HTML page, and `write` files of all of them.
"""

from fedsim.compare.comparison import Comparison, compare
from fedsim.compare.costs import Cost
from fedsim.compare.files import write
from fedsim.compare.frontier import Frontier, Point, View
from fedsim.compare.groups import Group
from fedsim.compare.pictures_of_costs import cost_figure, frontier_figure
from fedsim.compare.pictures_of_rounds import epsilon_figure, fairness_figure, metric_figure
from fedsim.compare.records import frame_of
from fedsim.compare.report import page_of
from fedsim.compare.runs import ComparedRun

__all__ = [
    "ComparedRun",
    "Comparison",
    "Cost",
    "Frontier",
    "Group",
    "Point",
    "View",
    "compare",
    "cost_figure",
    "epsilon_figure",
    "fairness_figure",
    "frame_of",
    "frontier_figure",
    "metric_figure",
    "page_of",
    "write",
]
