"""Remaining time in the progress display."""

from pathlib import Path
from typing import Any

import pytest

from fedsim.cli.display import PlainLines


def row(number: int, seconds: float) -> dict[str, Any]:
    return {"round": number, "clients": 1, "failures": 0, "seconds": seconds}


def test_rounds_that_were_over_before_they_were_seen_took_time_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = PlainLines("x")
    lines.started(Path("x"), 10, 0)
    lines.round_done(row(1, 2.0))
    lines.round_done(row(2, 4.0))
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.endswith("2.0 s, 18.0 s left")
    assert second.endswith("4.0 s, 24.0 s left")
