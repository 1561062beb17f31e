"""A client's stored state: complete after a kill, without open sessions, locked by one process."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedsim.arrays import record_of, values_of
from fedsim.deployment.client.state import State
from fedsim.errors import Refused

SERIES = 2**64 - 1


def states() -> RecordDict:
    return RecordDict(
        {
            "arrays": record_of({"w": np.arange(3, dtype=np.float32)}),
            "numbers": MetricRecord({"a": 1, "b": [0.1, 0.2]}),
            "config": ConfigRecord({"text": "x", "bytes": b"\x00\xff", "yes": True}),
        }
    )


def reopened(state: State) -> State:
    state._lock.release()
    return State(state.folder)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = State(tmp_path / "s")
    assert not len(state.load(SERIES))
    state.save(SERIES, states())
    state.save(3, RecordDict({"m": MetricRecord({"a": 2})}))
    again = reopened(state)
    loaded, kept = again.load(SERIES), states()
    assert loaded["numbers"] == kept["numbers"]
    assert loaded["config"] == kept["config"]
    assert isinstance(loaded["arrays"], ArrayRecord)
    np.testing.assert_array_equal(values_of(loaded["arrays"]["w"]), np.arange(3, dtype=np.float32))
    assert again.load(3)["m"] == MetricRecord({"a": 2})


def test_an_open_session_is_kept_in_memory_only(tmp_path: Path) -> None:
    state, secret = State(tmp_path / "s"), b"the session's secret key"
    session = ConfigRecord({"session": secret})
    state.save(SERIES, RecordDict({**states(), "secagg": session}))
    state.save(3, states())
    assert state.load(SERIES)["secagg"] == session
    assert "secagg" not in state.load(3)
    assert all(secret not in path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file())
    assert "secagg" not in reopened(state).load(SERIES)
    state.save(SERIES, states())
    assert "secagg" not in state.load(SERIES)


def test_a_loaded_state_is_a_copy(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.save(1, states())
    state.load(1)["more"] = MetricRecord({"a": 1})
    assert "more" not in state.load(1)


@pytest.mark.parametrize("damage", [b"\xff", b"abc"])
def test_a_damaged_state_is_said(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "contexts").mkdir()
    (tmp_path / "contexts" / "1").write_bytes(damage)
    with pytest.raises(ValueError, match=r"contexts/1: is damaged"):
        State(tmp_path).load(1)


def test_notes_are_by_series_and_outlive_the_process(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.note(SERIES, "a-run", 3)
    state.note(SERIES, "a-run", 3)
    state.note(SERIES, "a-run", 4)
    with (tmp_path / "notes.jsonl").open("ab") as file:
        file.write(b'{"series": 1, "rou')  # a kill amid a line
    again = reopened(state)
    asked = [(SERIES, 3), (SERIES, 4), (SERIES, 5), (1, 3)]
    assert [again.has_noted(*note) for note in asked] == [True, True, False, False]
    again.note(1, "other", 3)
    lines = [json.loads(line) for line in (tmp_path / "notes.jsonl").read_text().splitlines()]
    assert [(n["series"], n["run"], n["round"]) for n in lines] == [
        (SERIES, "a-run", 3),
        (SERIES, "a-run", 4),
        (1, "other", 3),
    ]
    assert all(note["time"].endswith("+00:00") for note in lines)


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_where_nothing_can_be_written_what_was_there_stays(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.note(1, "a-run", 1)
    state.save(1, RecordDict({"secagg": ConfigRecord({"session": b"open"})}))
    before = (tmp_path / "notes.jsonl").read_bytes()
    large = RecordDict({"arrays": record_of({"w": np.zeros(1000)})})
    with no_file_above(len(before) + 10):
        with pytest.raises(OSError, match=r"."):
            state.note(1, "a-run", 2)
        with pytest.raises(OSError, match=r"."):
            state.save(1, large)
    assert (tmp_path / "notes.jsonl").read_bytes() == before
    assert not state.has_noted(1, 2)
    assert not len(state.load(1))  # the session, which the app went on with, is gone
    assert not len(reopened(state).load(1))
    state.save(1, large)
    assert set(state.load(1)) == {"arrays"}


def test_one_at_a_time(tmp_path: Path) -> None:
    state = State(tmp_path / "s")
    with pytest.raises(Refused, match=r"^--state '.*/s': another process uses it; each client has its own$"):
        State(tmp_path / "s")
    reopened(state)


def test_folders_that_can_not_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"^--state '.*/file': can't be written to: Not a directory$"):
        State(tmp_path / "file")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes.jsonl").write_text("[]\n")
    with pytest.raises(Refused, match=r"^--state '.*/s': notes.jsonl is damaged"):
        State(tmp_path / "s")


def test_a_client_without_keys_keeps_the_one_it_made(tmp_path: Path) -> None:
    state = State(tmp_path)
    key = state.node_key()
    assert reopened(state).node_key().private_numbers() == key.private_numbers()
    assert (tmp_path / "node.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "node.key").write_text("no key")
    with pytest.raises(Refused, match=r"node.key' can't be used"):
        state.node_key()
