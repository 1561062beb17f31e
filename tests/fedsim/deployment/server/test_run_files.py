"""Run directories over HTTP: their files, and nothing else."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from fedsim.deployment.server.run_files import run_files


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A running run, with other files that may be in its directory."""
    run = tmp_path / "runs" / "tiny-1"
    (run / "checkpoint").mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps({"status": "running", "name": "tiny", "noise": "seeded"}))
    (run / "experiment.toml").write_text('name = "tiny"\nrounds = 30\n')
    (run / "metrics.jsonl").write_text('{"round": 1}\n{"round": 2}\n{"rou')
    (run / "checkpoint" / "arrays").write_bytes(b"0123456789")
    (run / "model.safetensors").write_bytes(b"0123456789")
    (run / "ledger.jsonl").write_bytes(b"{}\n")
    (run / "private").mkdir()
    (run / "private" / "metrics.jsonl").write_bytes(b"0123456789")
    (run / ".lock").touch()
    (run / "round-begun").write_text("2")
    (run / ".manifest.json.draft").touch()
    (tmp_path / "secret").write_text("secret")
    (run / "link").symlink_to(tmp_path / "secret")
    (run / "folder").symlink_to(tmp_path)
    (tmp_path / "runs" / ".fedsim-draft-1").mkdir()
    (tmp_path / "runs" / "other").symlink_to(tmp_path)
    return tmp_path / "runs"


def ask(runs: Path, path: str, method: str = "GET") -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(
            run_files(runs, lambda: [{"client": 0, "node-id": 7, "online": True}])
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path)

    return asyncio.run(request())


def test_the_runs_are_listed(runs: Path) -> None:
    rows = [{"run": "tiny-1", "status": "running", "round": 2, "rounds": 30}]
    assert ask(runs, "/fedsim/runs").json() == rows
    (runs / "begun").mkdir()  # nothing is in it yet
    rows.insert(0, {"run": "begun", "status": None, "round": 0, "rounds": None})  # type: ignore[dict-item]
    assert ask(runs, "/fedsim/runs").json() == rows


def test_a_run_has_its_manifest_and_its_files(runs: Path) -> None:
    assert ask(runs, "/fedsim/runs/tiny-1").json() == {
        "manifest": {"status": "running", "name": "tiny", "noise": "seeded"},
        "files": {
            "experiment.toml": 26,
            "ledger.jsonl": 3,
            "manifest.json": 56,
            "metrics.jsonl": 31,
            "model.safetensors": 10,
        },
    }


@pytest.mark.parametrize("noise", ["os", None])
def test_what_is_private_stays_there(runs: Path, noise: str | None) -> None:
    """So does a ledger that names clients, whether or not it is where it should be."""
    manifest = {"status": "running"} | ({} if noise is None else {"noise": noise})
    (runs / "tiny-1" / "manifest.json").write_text(json.dumps(manifest))
    assert ask(runs, "/fedsim/runs/tiny-1/files/model.safetensors").content == b"0123456789"
    assert [*ask(runs, "/fedsim/runs/tiny-1").json()["files"]] == [
        "experiment.toml",
        "manifest.json",
        "metrics.jsonl",
        "model.safetensors",
    ]
    for path in ("private/metrics.jsonl", "ledger.jsonl", "checkpoint/arrays", "round-begun"):
        assert ask(runs, f"/fedsim/runs/tiny-1/files/{path}").status_code == 404


def test_a_link_in_the_place_of_a_file_is_not_followed(runs: Path) -> None:
    (runs / "tiny-1" / "model.safetensors").unlink()
    (runs / "tiny-1" / "model.safetensors").symlink_to(runs.parent / "secret")
    assert "model.safetensors" not in ask(runs, "/fedsim/runs/tiny-1").json()["files"]
    assert ask(runs, "/fedsim/runs/tiny-1/files/model.safetensors").status_code == 404


@pytest.mark.parametrize(
    ("offset", "content"),
    [("", b"0123456789"), ("?offset=7", b"789"), ("?offset=10", b""), ("?offset=99", b"")],
)
def test_a_file_is_read_from_a_byte_on(runs: Path, offset: str, content: bytes) -> None:
    assert ask(runs, f"/fedsim/runs/tiny-1/files/model.safetensors{offset}").content == content


@pytest.mark.parametrize("offset", ["-1", "x", "", "1e3", "9" * 30])
def test_another_offset_is_refused(runs: Path, offset: str) -> None:
    assert ask(runs, f"/fedsim/runs/tiny-1/files/metrics.jsonl?offset={offset}").status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "link",
        "folder/secret",
        "../../secret",
        "%2e%2e/%2e%2e/secret",
        "checkpoint/../../../secret",
        "checkpoint%2F..%2F..%2F..%2Fsecret",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "checkpoint",
        "checkpoint/",
        "checkpoint/arrays",
        "private/metrics.jsonl",
        "round-begun",
        "nothing",
        "metrics.jsonl/x",
        ".lock",
        "",
        "%00",
    ],
)
def test_nothing_else_is_read(runs: Path, path: str) -> None:
    answer = ask(runs, f"/fedsim/runs/tiny-1/files/{path}")
    assert answer.status_code == 404
    assert b"root:" not in answer.content
    assert answer.content != b"secret"


@pytest.mark.parametrize("name", ["nothing", "other", ".fedsim-draft-1", "..", "%2e%2e", "a%2Fb", "a b"])
@pytest.mark.parametrize("rest", ["", "/files/secret", "/stop"])
def test_another_run_is_not_there(runs: Path, name: str, rest: str) -> None:
    method = "POST" if rest == "/stop" else "GET"
    assert ask(runs, f"/fedsim/runs/{name}{rest}", method).status_code in (404, 405)
    assert not list(runs.parent.rglob("stop"))


def test_a_run_is_asked_to_stop(runs: Path) -> None:
    assert ask(runs, "/fedsim/runs/tiny-1/stop", "POST").status_code == 202
    assert (runs / "tiny-1" / "stop").read_bytes() == b""
    assert "stop" not in ask(runs, "/fedsim/runs/tiny-1").json()["files"]
    assert ask(runs, "/fedsim/runs/tiny-1/stop").status_code == 405


def test_a_run_that_has_ended_is_not(runs: Path) -> None:
    (runs / "tiny-1" / "manifest.json").write_text('{"status": "completed"}')
    answer = ask(runs, "/fedsim/runs/tiny-1/stop", "POST")
    assert (answer.status_code, answer.json()) == (409, {"error": "the run has ended: completed"})


def test_the_server_says_what_it_runs(runs: Path) -> None:
    tree: dict[str, Any] = ask(runs, "/fedsim/server").json()
    assert tree["version"] == "0.1.0"
    assert len(bytes.fromhex(tree["code"])) == 32
    assert tree["clients"] == [{"client": 0, "node-id": 7, "online": True}]
