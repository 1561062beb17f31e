"""The recording side of a performer: started when needed, and again after it died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedsim.experiments.golden.case import Step

PERFORMER = Path(__file__).with_name("performer.py")


class Performer:
    """A process in which steps are performed.

    Args:
        scratch: A folder for caches, secret states and the process's stderr.
        pythonpath: Where fedsim is imported from; None: by this process's environment.
    """

    def __init__(self, scratch: Path, pythonpath: Path | None = None) -> None:
        self._scratch, self._pythonpath = scratch, pythonpath
        self._process: subprocess.Popen[str] | None = None
        self.code = ""  # the folder that fedsim was imported from

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the process, if there is none, and note where its code is.

        Raises:
            RuntimeError: fedsim can't be imported.
        """
        if self._process is not None:
            return
        log = self._scratch / "performer.log"
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(PERFORMER)],  # -P: this package's folder is not on its path
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment(),
                cwd=self._scratch,
                text=True,
            )
        first = self._read()
        if first is None:
            raise RuntimeError(f"the performer did not start; the end of {log}:\n{log.read_text()[-2000:]}")
        self.code = first["code"]

    def perform(self, step: Step, folder: Path) -> dict[str, Any]:
        """Perform a step; if the process dies in it, `exit` is the negative number of the signal."""
        self.start()
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("there is no performer")
        line = json.dumps({"kind": step.kind, "arguments": step.arguments, "folder": str(folder)})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._read()
        if answer is not None:
            return answer
        code = self._process.wait()
        self.close()
        return {"exit": code, "stdout": "", "stderr": ""}

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.communicate()  # it ends with its input

    def _read(self) -> dict[str, Any] | None:
        if self._process is None or self._process.stdout is None:
            return None
        line = self._process.stdout.readline()
        answer: dict[str, Any] | None = json.loads(line) if line else None
        return answer

    def _environment(self) -> dict[str, str]:
        own = {
            "COLUMNS": "120",
            "FEDSIM_CACHE": str(self._scratch / "cache"),
            "FEDSIM_STATE_HOME": str(self._scratch / "state"),
            "FLWR_HOME": str(self._scratch / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }
        path = {} if self._pythonpath is None else {"PYTHONPATH": str(self._pythonpath)}
        return {**os.environ, **own, **path}
