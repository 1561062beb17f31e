"""Comparing runs: what accuracy a privacy budget leaves, by mechanism, with its spread over seeds."""

from fedsim.compare.comparison import Comparison, compare
from fedsim.compare.costs import Cost
from fedsim.compare.frontier import Frontier, Point, View
from fedsim.compare.groups import Group
from fedsim.compare.members import Member

__all__ = ["Comparison", "Cost", "Frontier", "Group", "Member", "Point", "View", "compare"]
