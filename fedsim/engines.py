"""The engines by name, and starting one."""

from __future__ import annotations

from fedsim.errors import Refused
from fedsim.runtime import AppSpec, ClientsGrid, LocalGrid, RayGrid, SequentialGrid
from fedsim.threads import allow_files, cores

ENGINES = ("local", "ray", "sequential")
MOST_WORKERS = 1024
FILES, FILES_OF_WORKER = 64, 4  # open at a time, at most: the process's own, and for each worker


def check_engine(engine: str, workers: int, address: str) -> None:
    """Refuse an unknown engine, workers outside 0 to 1024, or an address without Ray."""
    if engine not in ENGINES:
        raise Refused(f"engine = {engine!r}: there is no such name; allowed: {', '.join(ENGINES)}")
    if not 0 <= workers <= MOST_WORKERS:
        raise Refused(f"workers = {workers}: must be from 0 to {MOST_WORKERS}")
    if address and engine != "ray":
        raise Refused(f"address = {address!r}: is for engine = 'ray', not {engine!r}")


def start_engine(engine: str, workers: int, address: str, spec: AppSpec, most: int) -> ClientsGrid:
    """Start an engine by the keys of `[runtime]`; `most` is the most useful number of worker processes.

    Raises `Refused` where the process may not have enough files open.
    """
    count = 0 if engine == "sequential" else min(workers or cores(), most)
    allow_files(FILES + count * FILES_OF_WORKER)
    if engine == "sequential":
        return SequentialGrid(spec)
    if engine == "ray":
        return RayGrid(spec, workers, address)
    return LocalGrid(spec, count)
