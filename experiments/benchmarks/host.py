"""Description of the machine of a measurement."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedsim.threads import cores


def describe() -> dict[str, Any]:
    """Return the machine, and its current load."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": cores(),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "load": list(os.getloadavg()),
        "python": platform.python_version(),
    }


def _field(path: str, name: str) -> str | None:
    if not Path(path).exists():
        return None
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), None)
