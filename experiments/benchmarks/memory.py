"""Memory of a process with all its descendants, from /proc (Linux)."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")


def descendants(pid: int) -> list[int]:
    """Return a process and its running descendants."""
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                # "pid (name) state parent ...", and a name may hold spaces and parentheses.
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):  # it has ended
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def proportional(pid: int) -> int:
    """Return the bytes that a process and its descendants hold: the sum of their proportional set sizes.

    A page shared by n processes counts one nth for each, so a shared map counts once; mapped file pages count too.
    Ended processes count nothing.
    """
    total = 0
    for one in descendants(pid):
        try:
            lines = (PROC / str(one) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


class Peak:
    """The largest memory of periodic samples.

    Attributes:
        bytes: Of a process and its descendants, see `proportional`; 0 before the first sample.
    """

    def __init__(self, every: int = 5) -> None:
        """Sample at each `every`th call only, since adding up a process's pages stalls it briefly."""
        self.bytes = 0
        self._every, self._calls = every, 0

    def look(self, pid: int) -> None:
        """Sample, if due."""
        if self._calls % self._every == 0:
            self.bytes = max(self.bytes, proportional(pid))
        self._calls += 1
