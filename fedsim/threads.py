"""What this process may use: cores, threads, open files."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fedsim.errors import Refused


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allow_files(least: int) -> None:
    """Let this process have at least that many files open, if it may; raises `Refused` if it may not."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY or now >= least:
        return
    if most != resource.RLIM_INFINITY and most < least:
        raise Refused(f"ulimit -n: allows {most} open files; at least {least} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let PyTorch use one thread inside the block.

    The order of a sum depends on the number of threads; with one, a client's bits are the same in this process, in a
    worker, and on other machines. This does not load PyTorch.
    """
    torch = sys.modules.get("torch")
    before = 1 if torch is None else torch.get_num_threads()
    if torch is None or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
