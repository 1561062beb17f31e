"""The server's run directories over HTTP, for the operator: list them, read their files, stop a run.

Only the files that `fedsim.results.disclosure` allows can be read; the others answer 404, like files that don't exist.

GET  /fedsim/server                             version, code, clients
GET  /fedsim/runs                               the runs, each with its status and round
GET  /fedsim/runs/NAME                          its manifest, and its files with their sizes
GET  /fedsim/runs/NAME/files/PATH?offset=N      a file's bytes from N on
POST /fedsim/runs/NAME/stop                     the run ends after its round
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from fedsim.deployment.wire import RUN_NAME
from fedsim.errors import Refused
from fedsim.results.disclosure import may_be_copied
from fedsim.results.files import open_file

STOP = "stop"
CHUNK = 1 << 20
TAIL = 1 << 16  # bytes: the last line of metrics.jsonl is shorter


def run_files(runs: Path, clients: Callable[[], list[dict[str, Any]]]) -> ASGIApp:
    """Return the app over the folder of run directories; `clients` lists the server's clients."""

    def show_server(request: Request) -> Response:
        from fedsim.deployment.bundle import installed_code  # imports Flower, which reads the environment

        return JSONResponse({"version": version("fedsim"), "code": installed_code(), "clients": clients()})

    def list_runs(request: Request) -> Response:
        return JSONResponse([_summary(folder) for folder in sorted(runs.iterdir()) if _is_run(folder)])

    def show_run(request: Request) -> Response:
        folder = _folder(runs, request)
        return JSONResponse({"files": _files(folder), "manifest": _manifest(folder)})

    def read_file(request: Request) -> Response:
        offset = _offset(request)
        file = _open(_folder(runs, request), request.path_params["path"])
        return StreamingResponse(_content(file, offset), media_type="application/octet-stream")

    def stop_run(request: Request) -> Response:
        folder = _folder(runs, request)
        status = _manifest(folder).get("status")
        if status != "running":
            raise HTTPException(409, f"the run has ended: {status}")
        try:
            os.close(open_file(folder / STOP, os.O_WRONLY | os.O_CREAT))
        except (OSError, Refused) as error:
            raise HTTPException(409, f"the run can't be stopped: {error}") from None
        return JSONResponse({"run": folder.name}, status_code=202)

    return Starlette(
        routes=[
            Route("/fedsim/server", show_server),
            Route("/fedsim/runs", list_runs),
            Route("/fedsim/runs/{name}", show_run),
            Route("/fedsim/runs/{name}/files/{path:path}", read_file),
            Route("/fedsim/runs/{name}/stop", stop_run, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refuse},
    )


def _folder(runs: Path, request: Request) -> Path:
    name: str = request.path_params["name"]
    if not RUN_NAME.fullmatch(name) or not _is_run(runs / name):
        raise HTTPException(404, f"there is no run {name!r} here")
    return runs / name


def _is_run(folder: Path) -> bool:
    return bool(RUN_NAME.fullmatch(folder.name)) and folder.is_dir() and not folder.is_symlink()


def _offset(request: Request) -> int:
    text = request.query_params.get("offset", "0")
    if not text.isdecimal() or len(text) > 18:
        raise HTTPException(400, f"offset = {text!r}: a number of bytes is needed")
    return int(text)


def _open(folder: Path, path: str) -> BinaryIO:
    """Open a file of a run; symbolic links are followed nowhere in the path."""
    *parents, name = path.split("/")
    try:
        if not may_be_copied(path, _manifest(folder).get("noise")):
            raise FileNotFoundError
        with ExitStack() as opened:
            at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            opened.callback(os.close, at)
            for parent in parents:
                at = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                opened.callback(os.close, at)
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise FileNotFoundError
    except (OSError, ValueError):  # of a null byte
        raise HTTPException(404, f"the run {folder.name!r} has no file {path!r}") from None
    return os.fdopen(file, "rb")


def _content(file: BinaryIO, offset: int) -> Iterator[bytes]:
    with file:
        file.seek(offset)
        while chunk := file.read(CHUNK):
            yield chunk


def _files(folder: Path) -> dict[str, int]:
    """Return the sizes of a run's readable files, in bytes; symbolic links are left out."""
    sizes, noise = {}, _manifest(folder).get("noise")
    for path in sorted(folder.iterdir()):
        if may_be_copied(path.name, noise):
            with suppress(OSError):  # it was renamed since the directory was listed
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    sizes[path.name] = status.st_size
    return sizes


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        tree = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _summary(folder: Path) -> dict[str, Any]:
    return {
        "run": folder.name,
        "status": _manifest(folder).get("status"),
        "round": _last_round(folder / "metrics.jsonl"),
        "rounds": _rounds(folder / "experiment.toml"),
    }


def _last_round(path: Path) -> int:
    """Return the round of the last complete line; 0: there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["round"])
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return 0


def _rounds(path: Path) -> int | None:
    try:
        return int(tomllib.loads(path.read_text())["rounds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refuse(request: Request, error: Exception) -> Response:
    reason = getattr(error, "detail", str(error))
    return JSONResponse({"error": reason}, status_code=getattr(error, "status_code", 500))
