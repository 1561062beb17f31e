"""Run directories that something has damaged or changed: one clear line, and no epsilon below the truth."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedsim
from fedsim import Experiment, Refused
from fedsim.cli import app
from fedsim.deployment.client.state import State
from fedsim.deployment.server.serve import _claimed
from fedsim.results.checkpoint import read_checkpoint
from fedsim.results.files import Position
from tests.conftest import experiment
from tests.support.runs import private_bits
from tests.support.stopping import rewrite, stopped

LOCAL = ("privacy.local-dp.noise-multiplier=0.8", "privacy.local-dp.delta=1e-3", "privacy.local-dp.clip=0.5")
SYSTEM = "privacy.noise=os"


def private(*overrides: str) -> Experiment:
    return experiment(*LOCAL, *overrides)


def without(name: str) -> Callable[[Path], Any]:
    return lambda path: (path / name).unlink()


def edited(name: str, old: bytes, new: bytes) -> Callable[[Path], Any]:
    """Replace some bytes by others, as many as before."""
    assert len(old) == len(new)

    def edit(path: Path) -> None:
        content = (path / name).read_bytes()
        assert old in content
        (path / name).write_bytes(content.replace(old, new, 1))

    return edit


def refusal_of(path: Path) -> str:
    """Return the line by which `fedsim resume` refuses a run, without a change to its files."""
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    result = CliRunner().invoke(app, ["resume", str(path)])
    assert result.exit_code == 2, result.output
    assert (result.stdout, result.stderr.count("\n")) == ("", 1), result.stderr
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    return result.stderr


# --- what a run has spent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "saying"),
    [
        (without("ledger.jsonl"), "ledger.jsonl: is not there, so what the run has spent is unknown"),
        (lambda path: os.truncate(path / "ledger.jsonl", 0), "ledger.jsonl: has 0 bytes; the checkpoint was made at "),
        (edited("ledger.jsonl", b'"noise-multiplier": 0.8', b'"noise-multiplier": 9.8'), "ledger.jsonl: was changed; its first "),
        (edited("ledger.jsonl", b'"round": 2', b'"round": 1'), "ledger.jsonl: was changed; its first "),
        (edited("metrics.jsonl", b'"clients": 4', b'"clients": 3'), "metrics.jsonl: was changed; its first "),
    ],
    ids=["no ledger", "empty", "other noise", "another round", "other metrics"],
)  # fmt: skip
def test_what_a_run_has_spent_is_not_forgotten(spoil: Callable[[Path], Any], saying: str) -> None:
    path = stopped(private(), "a")
    spoil(path)
    assert saying in refusal_of(path)


@pytest.mark.parametrize(
    "spoil",
    [
        without("private/ledger.jsonl"),
        edited("private/ledger.jsonl", b'"noise-multiplier": 0.8', b'"noise-multiplier": 9.8'),
        lambda path: os.truncate(path / "private" / "ledger.jsonl", 100),
    ],
    ids=["no ledger", "other noise", "cut"],
)
def test_nor_is_it_with_the_systems_noise(spoil: Callable[[Path], Any]) -> None:
    path = stopped(private(SYSTEM), "a")
    assert not (path / "checkpoint").exists()
    spoil(path)
    said = refusal_of(path)
    assert "ledger.jsonl: is not " in said
    assert "bytes" not in said, "how many clients have trained is private"


@pytest.mark.parametrize("line", ["[]", "{", '{"mechanism": []}', '{"round": "x"}'])
def test_events_after_the_checkpoint_are_read_or_refused(line: str) -> None:
    path = stopped(private(SYSTEM), "a")
    ledger = path / "private" / "ledger.jsonl"
    last = json.loads(ledger.read_text().splitlines()[-1])
    if line == '{"round": "x"}':
        line = json.dumps({**last, "round": "x"})
    with ledger.open("a") as file:
        file.write(f"{line}\n")
    assert "ledger.jsonl: is damaged: " in refusal_of(path)


def test_a_damaged_note_of_the_round_that_was_begun_is_refused() -> None:
    path = stopped(private(), "a")
    (path / "round-begun").write_text("two")
    with pytest.raises(Refused, match=r"/round-begun': is damaged"):
        fedsim.resume(path)


def test_a_run_without_a_checkpoint_needs_its_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.results.checkpoint.Checkpoint.write", lambda self, state: None)
    path = stopped(private(), "a")
    without("ledger.jsonl")(path)
    assert "ledger.jsonl: is not there" in refusal_of(path)


def test_a_run_without_a_mechanism_takes_no_ledger(tiny: Experiment) -> None:
    path = stopped(tiny, "a")
    (path / "ledger.jsonl").write_bytes(b"")
    assert "ledger.jsonl: is not of this run" in refusal_of(path)


def test_a_checkpoint_of_a_version_that_hashed_no_lines_is_read() -> None:
    reference = private_bits(fedsim.run(private(), "whole"))
    path = stopped(private(), "a")
    found = read_checkpoint(path)
    assert found is not None
    assert all(len(position.sha256) == 64 for position in found.files.values())
    rewrite(path, files={name: Position(at.bytes, at.lines) for name, at in found.files.items()})
    assert private_bits(fedsim.resume(path)) == reference


# --- links, FIFOs and devices in the place of files -------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        ".lock",
        "metrics.jsonl",
        "ledger.jsonl",
        "checkpoint/last-round.safetensors",
        "checkpoint/clients.sqlite",
        "checkpoint",
    ],
)
def test_no_link_is_followed_out_of_a_run(name: str, tmp_path: Path) -> None:
    path, outside = stopped(private("privacy.local-dp.max-participations=3"), "a"), tmp_path / "outside"
    (path / name).rename(outside)
    (path / name).symlink_to(outside)
    before = {p: p.read_bytes() for p in [outside, *outside.rglob("*")] if p.is_file()}
    said = refusal_of(path)
    assert said.startswith("fedsim: run ")
    assert f"/{name}': is a symbolic link; a " in said
    assert {p: p.read_bytes() for p in before} == before


def test_no_link_is_followed_out_of_private_files(tmp_path: Path) -> None:
    path = stopped(private(SYSTEM), "a")
    (path / "private").rename(tmp_path / "outside")
    (path / "private").symlink_to(tmp_path / "outside")
    assert "/private': is a symbolic link; a folder is needed" in refusal_of(path)


def test_nobody_foresees_a_drafts_name(tmp_path: Path) -> None:
    """Links under the names of former drafts stay unused, and what kills have left is removed."""
    path, outside = stopped(private(), "a"), tmp_path / "outside"
    outside.write_text("mine")
    drafts = [
        ".manifest.json.draft",
        ".manifest.json.draft-0011223344556677",
        "checkpoint/.last-round.safetensors.draft",
    ]
    for name in drafts:
        (path / name).symlink_to(outside)
    assert fedsim.resume(path).status == "completed"
    assert outside.read_text() == "mine"
    assert not [name for name in drafts if (path / name).is_symlink()]


@pytest.mark.parametrize(
    "name", [".lock", "manifest.json", "metrics.jsonl", "ledger.jsonl", "checkpoint/last-round.safetensors"]
)
def test_a_fifo_in_the_place_of_a_file_is_refused(name: str) -> None:
    path = stopped(private(), "a")
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(Refused, match=r"^run '.*(is a FIFO; a file is needed|has no manifest\.json)"):
        fedsim.resume(path)


def test_a_client_writes_through_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text('{"series": 1, "run": "a", "round": 1}\n{"ser')
    (tmp_path / "state").mkdir()
    for name in (".lock", "notes.jsonl"):
        (tmp_path / "state" / name).symlink_to(outside)
        with pytest.raises(Refused, match=rf"{name}': is a symbolic link; a file is needed"):
            State(tmp_path / "state")
        (tmp_path / "state" / name).unlink()
    assert outside.read_text().endswith('{"ser')


def test_a_server_writes_through_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "state").mkdir()
    for name in (".lock", "superlink.db", "apps.log"):
        (tmp_path / "state" / name).symlink_to(outside)
        with (
            pytest.raises(Refused, match=r"is a symbolic link; a file is needed"),
            _claimed(tmp_path / "state"),
        ):
            pass
        (tmp_path / "state" / name).unlink()
    assert outside.read_text() == "mine"


# --- reading what is damaged ------------------------------------------------------------------------------

DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "manifest empty": ("manifest.json", lambda old: b""),
    "manifest a list": ("manifest.json", lambda old: b"[1]"),
    "manifest a bracket too deep": ("manifest.json", lambda old: b"[" * 100_000),
    "manifest not UTF-8": ("manifest.json", lambda old: b"\xff" + old),
    "epsilon a list": ("manifest.json", lambda old: old.replace(b'"epsilon": {', b'"epsilon": [], "x": {')),
    "versions a number": ("manifest.json", lambda old: old.replace(b'"versions": {', b'"versions": 1, "x": {')),
    "seconds a text": ("manifest.json", lambda old: old.replace(b'"wall-seconds": ', b'"wall-seconds": "", "x": ')),
    "metrics no JSON": ("metrics.jsonl", lambda old: old.replace(b"{", b"(")),
    "metrics numbers": ("metrics.jsonl", lambda old: b"1\n2\n"),
    "accuracy a text": ("metrics.jsonl", lambda old: old.replace(b'"accuracy": ', b'"accuracy": "x", "y": ')),
    "clients a list": ("metrics.jsonl", lambda old: old.replace(b'"clients": ', b'"clients": [], "y": ')),
    "round too large": ("metrics.jsonl", lambda old: old.replace(b'"round": 1', b'"round": 1' + b"0" * 30)),
    "experiment cut": ("experiment.toml", lambda old: old[: len(old) // 2 + 3]),
    "experiment not UTF-8": ("experiment.toml", lambda old: b"\xff" + old),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fedsim.run(private(), tmp_path_factory.mktemp("good") / "run").path


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_runs_are_left_out_by_name(
    good: Path, name: str, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    for run in ("a", "b"):
        shutil.copytree(good, Path("runs") / run)
    file = Path("runs/b") / name
    changed = damage(file.read_bytes())
    assert changed != file.read_bytes()
    file.write_bytes(changed)
    assert fedsim.load_runs()["path"].to_list() == ["runs/a"]
    (said,) = caplog.messages
    assert said.startswith("left out: ")
    assert str(file) in said
    assert "\n" not in said
    assert len(said) < 500
    with pytest.raises(Refused, match="runs/b"):
        fedsim.load_runs("runs/b")
    for place in ("runs/*", "runs/b"):
        result = CliRunner().invoke(app, ["compare", place])
        assert result.exit_code == (2 if place == "runs/b" else 0), result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
    if name != "experiment.toml":
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("line", [b"[1]\n", b"{]\n", b'{"noise-multiplier": "x", "round": 1}\n'])
def test_a_damaged_ledger_is_left_out_by_name(
    good: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for run in ("a", "b"):
        shutil.copytree(good, Path("runs") / run)
    ledger = Path("runs/b/ledger.jsonl")
    ledger.write_bytes(ledger.read_bytes() + line)
    assert set(fedsim.load_ledger()["path"]) == {"runs/a"}
    assert "runs/b" in caplog.text
    with pytest.raises(Refused, match=r"runs/b.*is damaged"):
        fedsim.load_ledger("runs/b")


@pytest.mark.parametrize("name", ["metrics.jsonl", "experiment.toml", "ledger.jsonl"])
def test_readers_refuse_what_is_no_file(good: Path, name: str) -> None:
    shutil.copytree(good, "runs/a")
    (Path("runs/a") / name).unlink()
    os.mkfifo(Path("runs/a") / name)
    if name == "ledger.jsonl":
        assert fedsim.load_ledger("runs/a").height == 0
        return
    with pytest.raises(Refused, match=name):
        fedsim.load_runs("runs/a")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"name": 1, "runs": []}',
        b'{"name": "x", "runs": [1]}',
        b'{"name": "x", "runs": [{"name": "../a"}]}',
        b'{"name": "x", "runs": [{"name": "a", "seed": "x"}]}',
        b'{"name": "x", "runs": [{"name": "a", "state": "lost"}]}',
        b'{"name": "x", "runs": [], "arms": 1}',
        b'{"name": "x", "runs": [], "arms": [{"name": "a"}], "seeds": []}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_sweep_is_refused_by_name(content: bytes) -> None:
    Path("s/runs").mkdir(parents=True)
    Path("s/sweep.json").write_bytes(content)
    with pytest.raises(Refused, match=r"s/sweep\.json': is damaged \("):
        fedsim.resume_sweep("s")
    result = CliRunner().invoke(app, ["sweep", "--resume", "s"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
