"""The secret state of a run: file modes, owners, erasure and refusals."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedsim import Refused
from fedsim.results import secret_state
from fedsim.results.checkpoint import Checkpoint, ClientStates, read_checkpoint
from fedsim.results.directory import RunDirectory
from fedsim.results.files import Position, write_whole

ID = "ab" * 16
OS = {"noise": "os", "resumable": True, "run-id": ID}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Return the modes of a folder and of all that is in it, by relative path."""
    paths = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in paths}


def fill(folder: Path, run: Path) -> None:
    """Write all that a run keeps in its secret folder."""
    secret_state.make(folder, run)
    secret_state.key_in(folder)
    secret_state.note_cohort(folder, 1, [0, 4])
    states = ClientStates(folder)
    states.keep(1, {0: b"state", 4: b"state"})
    position = {"metrics.jsonl": Position(0, 0)}
    Checkpoint(
        run_id=ID,
        experiment_sha256="e",
        data_sha256="d",
        round=1,
        over=False,
        wall_seconds=0.0,
        files=position,
        client_states=states.sha256,
        state={"noise": np.arange(9.0)},
    ).write(folder)
    write_whole(folder / "round-begun", b"1\n", private=True)
    states.close()


EXPECTED = {
    ".": 0o700,
    "run": 0o600,
    "key": 0o600,
    "cohorts.jsonl": 0o600,
    "round-begun": 0o600,
    "checkpoint": 0o700,
    "checkpoint/last-round.safetensors": 0o600,
    "checkpoint/clients.sqlite": 0o600,
}


def test_nothing_is_ever_readable_by_others_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with umask(0), monkeypatch.context() as patch:
        for name in ("os.chmod", "os.fchmod", "pathlib.Path.chmod"):  # so modes are those of the beginning
            patch.setattr(name, lambda *_: None)
        fill(tmp_path / "home" / "runs" / "ab", tmp_path / "run")
        write_whole(tmp_path / "public", b"")
    assert modes(tmp_path / "home" / "runs" / "ab") == EXPECTED
    assert modes(tmp_path / "home")["runs"] == 0o700
    assert modes(tmp_path)["public"] == 0o666  # the control: the umask would have let others read


def test_a_umask_that_takes_the_owners_rights_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    folder = tmp_path / "home" / "runs" / "ab"
    with umask(0o777):
        fill(folder, tmp_path / "run")
    assert modes(folder) == EXPECTED
    assert read_checkpoint(folder) is not None


def test_a_draft_that_a_kill_has_left_is_no_way_in(tmp_path: Path) -> None:
    (tmp_path / ".key.draft").touch()
    (tmp_path / ".key.draft").chmod(0o666)
    write_whole(tmp_path / "key", b"secret", private=True)
    assert modes(tmp_path)["key"] == 0o600


def test_the_home_of_secrets_is_named_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path("run")
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    monkeypatch.setenv("FEDSIM_STATE_HOME", "/f")
    assert secret_state.state_of(run, OS) == Path(f"/f/runs/{ID}")
    monkeypatch.delenv("FEDSIM_STATE_HOME")
    assert secret_state.state_of(run, OS) == Path(f"/x/fedsim/runs/{ID}")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert secret_state.state_of(run, OS) == Path(f"/h/.local/state/fedsim/runs/{ID}")
    assert secret_state.state_of(run, OS, Path("/s/secrets")) == Path(
        f"/s/secrets/{ID}"
    )  # of a server process
    for other in ({"noise": "seeded"}, {"resumable": False}):
        assert secret_state.state_of(run, OS | other) == run
    assert secret_state.state_of(run, {"run-id": ID}) == run  # a Flower app's


@pytest.mark.parametrize("name", ["", ".", "..", "/tmp", "ab", "../" + "ab" * 16, ID + "\n", ID.upper(), 7])
def test_no_other_folder_is_taken_for_that_of_a_run(name: str | int) -> None:
    with pytest.raises(Refused, match=r"run-id = .*: 32 hexadecimal digits are needed"):
        secret_state.state_of(Path("run"), OS | {"run-id": name})


def test_a_home_that_can_not_be_written_to_is_refused_before_there_is_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDSIM_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(Refused) as refused:
        RunDirectory.begin(tmp_path / "run", OS, {})
    assert str(refused.value).startswith(f"state folder '{tmp_path}/file/runs/")
    assert str(refused.value).endswith("FEDSIM_STATE_HOME may name another")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_key_is_the_same_in_all_sessions_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    key = secret_state.key_in(tmp_path / "a")
    assert len(key) == 32
    assert secret_state.key_in(tmp_path / "a") == key != secret_state.key_in(tmp_path / "b")
    (tmp_path / "a" / "key").write_bytes(key[:-1])
    with pytest.raises(Refused, match="key': is damaged; 32 bytes are needed"):
        secret_state.key_in(tmp_path / "a")


def test_what_a_kill_kept_from_being_erased_is_erased_by_the_next_run_and_nothing_else(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    for name, status in (("done", "completed"), ("stopped", "interrupted"), ("other", "completed")):
        fill(home / name, tmp_path / name)
        (tmp_path / name).mkdir()
        manifest = {"run-id": name if name != "other" else "another run's", "status": status}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
    fill(home / "moved", tmp_path / "moved")
    secret_state.make(home / "new", tmp_path / "new")
    assert {path.name for path in home.iterdir()} == {"stopped", "other", "moved", "new"}


# --- cohorts --------------------------------------------------------------------------------------------


def test_cohorts_come_back_and_half_a_line_is_cut(tmp_path: Path) -> None:
    assert secret_state.cohorts_in(tmp_path) == {}
    secret_state.note_cohort(tmp_path, 1, [0, 4])
    secret_state.note_cohort(tmp_path, 2, [])
    file = tmp_path / "cohorts.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"round": 3, "clients": [1, 2')
    assert secret_state.cohorts_in(tmp_path) == {1: [0, 4], 2: []}
    assert file.read_bytes() == whole
    secret_state.note_cohort(tmp_path, 3, [7])
    assert secret_state.cohorts_in(tmp_path) == {1: [0, 4], 2: [], 3: [7]}


@pytest.mark.parametrize(
    ("line", "saying"),
    [
        ("{}", "is damaged; a line of JSON for each round is needed"),
        ('{"round": 1, "clients": 3}', "is damaged; a line of JSON for each round is needed"),
        ("[1]", "is damaged; a line of JSON for each round is needed"),
        ('{"round": 1, "clients": [3]}', "is damaged; a round has two cohorts"),
    ],
)
def test_damaged_cohorts_are_refused(tmp_path: Path, line: str, saying: str) -> None:
    secret_state.note_cohort(tmp_path, 1, [0])
    with (tmp_path / "cohorts.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(Refused, match=saying):
        secret_state.cohorts_in(tmp_path)
