"""The program of Flower's SuperExec, which starts a ServerApp for each run."""

from __future__ import annotations

import time

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.cli import flower_superexec
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec import run_superexec

TRIES, PAUSE = (
    60,
    1.0,
)  # how often, and after how many seconds, a task is asked for again after an error of the server


class PatientClient(RuntimeHttpClient):
    """Flower's client of the Runtime API, which asks for a task again after an error of the server's (5xx).

    Flower's own raises, so that SuperExec ends, and all runs with it.
    """

    def AcquireTask(self, request: AcquireTaskRequest) -> AcquireTaskResponse:  # noqa: N802
        """Return a task to start, if there is one; raises `httpx.HTTPStatusError` for a refusal."""
        for _ in range(TRIES - 1):
            try:
                return super().AcquireTask(request)
            except httpx.HTTPStatusError as error:
                if error.response.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    raise
            time.sleep(PAUSE)
        return super().AcquireTask(request)


def main() -> None:
    """Run SuperExec with the options of the command line."""
    run_superexec.RuntimeHttpClient = PatientClient  # type: ignore[attr-defined]
    flower_superexec()
