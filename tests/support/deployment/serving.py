"""A server in this process that serves run directories, with run states set by a test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from flwr.common.serde import user_config_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListRunsRequest,
    ListRunsResponse,
    StartRunRequest,
    StartRunResponse,
    StopRunRequest,
    StopRunResponse,
)
from flwr.proto.run_pb2 import Run, RunStatus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fedsim.deployment.bundle import installed_code
from tests.support.deployment.directories import Source
from tests.support.waiting import wait_for


@dataclass
class Server:
    """What a server has: `runs/NAME` in a folder, and Flower's runs."""

    folder: Path
    code: str = field(default_factory=installed_code)
    runs: list[Run] = field(default_factory=list)
    is_broken: bool = False

    def start(self, **config: Any) -> Run:
        """Add a running run."""
        run = Run(
            run_id=len(self.runs) + 1,
            series_id=7,
            override_config=user_config_to_proto(config),
            status=RunStatus(status="running"),
            pending_at=datetime.now(UTC).isoformat(),
        )
        self.runs.append(run)
        return run

    def finish(self, outcome: str, details: str = "") -> None:
        """End the latest run."""
        self.runs[-1].status.CopyFrom(RunStatus(status="finished", sub_status=outcome, details=details))

    # --- routes -----------------------------------------------------------------------------------------

    async def about(self, request: Request) -> Response:
        return JSONResponse({"version": "1.0", "code": self.code, "clients": []})

    async def listing(self, request: Request) -> Response:
        path = self.folder / request.path_params["name"]
        if self.is_broken:
            return JSONResponse({"error": "not ready"}, 503)
        if not path.exists():
            return JSONResponse({"error": "none"}, 404)
        listing = Source(path).listing()
        return JSONResponse({"manifest": listing.manifest, "files": listing.files})

    async def file(self, request: Request) -> Response:
        path = self.folder / request.path_params["name"] / request.path_params["path"]
        return Response(path.read_bytes()[int(request.query_params["offset"]) :])

    async def stop(self, request: Request) -> Response:
        path = self.folder / request.path_params["name"]
        if not path.exists():
            return JSONResponse({"error": "none"}, 404)
        (path / "stop").touch()
        return Response(status_code=202)

    async def start_run(self, request: Request) -> Response:
        asked = StartRunRequest.FromString(await request.body())
        run = self.start(**user_config_from_proto(asked.override_config))
        if asked.HasField("series_id"):
            run.series_id = asked.series_id
        return Response(StartRunResponse(run_id=run.run_id, series_id=run.series_id).SerializeToString())

    async def list_runs(self, request: Request) -> Response:
        asked = ListRunsRequest.FromString(await request.body())
        chosen = [run for run in self.runs if not asked.HasField("run_id") or run.run_id == asked.run_id]
        return Response(ListRunsResponse(run_dict={run.run_id: run for run in chosen}).SerializeToString())

    async def stop_run(self, request: Request) -> Response:
        assert StopRunRequest.FromString(await request.body()).run_id == self.runs[-1].run_id
        self.finish("stopped")
        return Response(StopRunResponse(success=True).SerializeToString())

    @property
    def app(self) -> Starlette:
        """All routes."""
        return Starlette(
            routes=[
                Route("/fedsim/server", self.about),
                Route("/fedsim/runs/{name}", self.listing),
                Route("/fedsim/runs/{name}/files/{path:path}", self.file),
                Route("/fedsim/runs/{name}/stop", self.stop, methods=["POST"]),
                Route("/v1/control/start-run", self.start_run, methods=["POST"]),
                Route("/v1/control/list-runs", self.list_runs, methods=["POST"]),
                Route("/v1/control/stop-run", self.stop_run, methods=["POST"]),
            ]
        )


@contextmanager
def served(app: Starlette, port: int = 0) -> Iterator[int]:
    """Serve an app on this machine in a thread; yields the port."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws="none", lifespan="off")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive(), pause=0.01)
        assert server.started
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
