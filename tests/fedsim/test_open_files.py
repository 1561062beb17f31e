"""The number of files that a process may have open."""

import resource
from collections.abc import Callable
from typing import Any

import pytest

from fedsim import Experiment, Refused, run
from fedsim.threads import allow_files

Limits = dict[str, Any]


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], Limits]:
    """Return a function that sets limits for `fedsim` alone, and returns what they come to be."""

    def limit(now: int, most: int) -> Limits:
        limits: Limits = {"now": (now, most)}
        monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
        monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.update(now=wanted))
        return limits

    return limit


def test_what_is_needed_is_asked_for(limited: Callable[[int, int], Limits]) -> None:
    limits = limited(16, 4096)
    allow_files(100)
    assert limits["now"] == (100, 4096)
    allow_files(50)
    assert limits["now"] == (100, 4096)


def test_a_run_with_too_few_is_refused_in_one_line(
    tiny: Experiment, limited: Callable[[int, int], Limits]
) -> None:
    limited(16, 16)
    with pytest.raises(Refused, match=r"^ulimit -n: allows 16 open files; at least 64 are needed$"):
        run(tiny, "a")
