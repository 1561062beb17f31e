"""The list of public values, and its table in the README."""

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fedsim.cli.display import LiveTable, PlainLines
from fedsim.cli.sweep_view import PlainSweep
from fedsim.cli.sweep_view import _Follower as _SweepFollower
from fedsim.private_log import note
from fedsim.results.disclosure import (
    COVERS,
    ITEMS,
    PRIVATE_FILES,
    PUBLISHED,
    TERMS,
    Kind,
    is_public,
    is_restricted,
    may_be_copied,
    mechanisms_of,
    public_manifest,
    public_row,
    published_manifest,
)
from fedsim.results.disclosure_table import BEGIN, END, documented, table
from fedsim.results.files import write_whole
from fedsim.tasks import Scoring
from tests.conftest import experiment

README = Path(__file__).parents[2] / "README.md"
MECHANISMS = ("dp-sgd", "local-dp", "dp-fedavg", "dp-ftrl")


def test_the_readme_has_the_table_as_it_is_made() -> None:
    text = README.read_text(encoding="utf-8")
    assert documented(text) == text, "python -m fedsim.results.disclosure_table writes it"
    assert documented(text, lambda: "another") != text
    with pytest.raises(ValueError, match="needs the lines"):
        documented(f"{END}\n{BEGIN}")


def test_the_table_has_each_mechanism_and_each_of_its_adversaries_once() -> None:
    rows = [line.split(" | ") for line in table().splitlines() if line.startswith("| `")]
    assert [(row[0].strip("| `"), row[1].strip("`")) for row in rows] == [
        (cover.mechanism, cover.adversary) for cover in COVERS
    ]
    assert len({(cover.mechanism, cover.adversary) for cover in COVERS}) == len(COVERS)
    assert {cover.mechanism for cover in COVERS} == {*MECHANISMS, "secagg"}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_public_values_are_covered_for_every_adversary_with_a_theorem(mechanism: str) -> None:
    """Public files hold only values that the most restricted adversary may see."""
    covers = [cover.kinds for cover in COVERS if cover.mechanism == mechanism and cover.kinds]
    for item in ITEMS:
        if item.file.startswith("private/"):
            continue
        for key in item.keys:
            if is_public(item.file, key, [mechanism]):
                assert all(item.kind in kinds for kinds in covers)
    assert {Kind.COHORTS, Kind.REST}.isdisjoint(i.kind for i in ITEMS if not i.file.startswith("private/"))


def test_an_unlisted_key_is_private() -> None:
    row = {"round": 1, "accuracy": 0.5, "epsilon-server": 1.0, "released-train-loss": 2.0, "surprise": 1}
    assert public_row(
        row | {"clients": 7, "seconds": 0.1, "loss-of-client": 3.0}, ["dp-fedavg"], Scoring()
    ) == {key: value for key, value in row.items() if key != "surprise"}
    assert "released-train-loss" not in public_row(row, ["dp-ftrl"], Scoring())
    manifest = {
        "name": "x",
        "run-id": "ab",
        "data-sha256": "cd",
        "wall-seconds": 1.0,
        "surprise": 1,
        "final": {"round": 1, "clients": 7},
        "epsilon": {"server": {"epsilon": 1.0, "surprise": 1}, "surprise": {"epsilon": 1.0}},
    }
    public = {"name": "x", "final": {"round": 1}, "epsilon": {"server": {"epsilon": 1.0}}}
    assert public_manifest(manifest, ["local-dp"]) == public | {"run-id": "ab"}
    assert published_manifest(manifest, ["local-dp"]) == public
    assert "surprise" not in TERMS


def test_files_that_leave_a_server() -> None:
    assert PUBLISHED == ("experiment.toml", "model.safetensors", "metrics.jsonl", "manifest.json")
    for file in PUBLISHED:
        assert may_be_copied(file, "os")
        assert may_be_copied(file, "seeded")
    assert may_be_copied("ledger.jsonl", "seeded")
    held_back = (
        "checkpoint/last-round.safetensors",
        ".lock",
        "stop",
        "round-begun",
        "../x",
        "/etc/passwd",
        "surprise",
    )
    for file in (*held_back, *PRIVATE_FILES):
        assert not may_be_copied(file, "os")
        assert not may_be_copied(file, "seeded")
    for noise in ("os", None, "another"):  # what is not known to be seeded is private
        assert is_restricted(noise)
        assert not may_be_copied("ledger.jsonl", noise)


def test_mechanisms_are_read_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "experiment.toml").write_text(
        '[privacy]\nnoise = "os"\n[privacy.dp-ftrl]\n[privacy.secagg]\n'
    )
    assert mechanisms_of(tmp_path) == ("dp-ftrl", "secagg")


def test_displays_say_nothing_of_what_is_not_public(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"round": 1, "accuracy": 0.5, "loss": 1.0}
    lines = PlainLines("x")
    lines.started(Path("x"), 10, 0)
    lines.round_done(row)
    lines.round_done({"round": 2})
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "round 1/10: accuracy 50.00%, loss 1.0000, train-loss -",
        "round 2/10: accuracy -, loss -, train-loss -",
    ]
    from rich.live import Live

    console = Console(width=100, force_terminal=False)
    live = LiveTable("x", Live(console=console, auto_refresh=False))
    live.started(Path("x"), 10, 0)
    live.round_done(row)
    console.print(live.live.renderable)
    shown = capsys.readouterr().out
    assert "1/10" in shown
    assert "10%" in shown
    assert "left" not in shown


def test_a_private_file_is_its_owners_also_where_one_was_not(tmp_path: Path) -> None:
    file, draft = tmp_path / "x", tmp_path / ".x.draft"
    draft.write_bytes(b"of a kill")
    draft.chmod(0o644)
    before = os.umask(0)
    try:
        write_whole(file, b"new", private=True)
    finally:
        os.umask(before)
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"new", 0o600)


def test_the_private_log_takes_lines_and_is_not_created_by_adding_to_it(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    note(log, "lost")
    assert not log.exists()
    log.touch()
    note(log, "one\ntwo")
    note(str(log), "three")
    assert [line.split(" ", 2)[2] for line in log.read_text().splitlines()] == ["one", "two", "three"]


@pytest.mark.parametrize(("noise", "left"), [("os", ""), ("seeded", ", - left")])
def test_a_sweep_says_nothing_of_times_that_are_not_public(noise: str, left: str) -> None:
    mechanism = "privacy.local-dp={noise-multiplier=1.0, delta=1e-3, clip=1.0}"
    setting = experiment(mechanism, f"privacy.noise={noise}")
    todo: Any = [SimpleNamespace(name="x", work=10, experiment=setting)]
    sweep: Any = SimpleNamespace(states={}, tree={}, name="s", path=Path("s"))
    display = PlainSweep()
    _SweepFollower.began(display, sweep, todo)
    assert display.left() == left
    display.run_started("x", 2, 0)
    display.round_done("x", {"round": 1})
    assert bool(display.left()) is (noise == "seeded")
