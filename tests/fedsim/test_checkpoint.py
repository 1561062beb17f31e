"""The checkpoint and its files: every bit is restored, and an incomplete one is never read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsim import Refused
from fedsim.results.checkpoint import (
    FILE,
    FOLDER,
    Checkpoint,
    ClientStates,
    put_together,
    read_checkpoint,
    take_apart,
)
from fedsim.results.files import LineFile, Position, remove_drafts, write_whole
from fedsim.streams import numpy_stream

ARRAYS = hnp.arrays(
    st.one_of(hnp.boolean_dtypes(), hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.floating_dtypes(sizes=(16, 32, 64))),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)  # fmt: skip
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | ARRAYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Say whether two trees have the same types, order and bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        one, other = (a.astype(a.dtype.newbyteorder("=")) for a in (one, other))
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return repr(one) == repr(other)


def checkpoint(state: Any, **changes: Any) -> Checkpoint:
    usual = {
        "run_id": "00ff",
        "experiment_sha256": "e" * 64,
        "data_sha256": "d" * 64,
        "round": 3,
        "over": False,
        "wall_seconds": 1.25,
        "files": {"metrics.jsonl": Position(120, 3)},
        "client_states": "0" * 64,
        "state": state,
    }
    return Checkpoint(**(usual | changes))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(tree=TREES)
def test_every_bit_of_a_state_comes_back(tmp_path: Path, tree: Any) -> None:
    written = checkpoint({"tree": tree, "a/b": np.ones(1), "a": {"b": np.zeros(1)}})
    (tmp_path / FOLDER).mkdir(exist_ok=True)
    (tmp_path / FOLDER / f".{FILE}.draft-0").write_bytes(b"left by a kill" * 10_000)
    written.write(tmp_path)
    read = read_checkpoint(tmp_path)
    assert read is not None
    assert same(read.state, written.state)
    assert {k: v for k, v in vars(read).items() if k != "state"} == {
        k: v for k, v in vars(written).items() if k != "state"
    }


def test_layout_scalars_and_tuples() -> None:
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    json, arrays = take_apart({"f": fortran, "s": np.float32(2.5), "t": (1, None)}, "x")
    back = put_together(json, arrays)
    np.testing.assert_array_equal(back["f"], fortran)
    assert (back["s"].dtype, back["s"].shape, back["s"].item()) == (np.float32, (), 2.5)
    assert back["t"] == [1, None]


@pytest.mark.parametrize(
    ("tree", "saying"),
    [
        ({"a": {1: 2}}, "state/a has the key 1; strings are needed"),
        ({"a": [0, {2}]}, "state/a/1 is a set; arrays, numbers, strings, dicts and lists are needed"),
        ({"a": np.array(["x"])}, "state/a has dtype <U1; bool, integers or floats"),
        ({"a": np.array([None])}, "state/a has dtype object; bool, integers or floats"),
        ({"a": np.zeros(1, complex)}, "state/a has dtype complex128; bool, integers or floats"),
        ({"a": np.zeros(1, np.longdouble)}, "state/a has dtype float128; bool, integers or floats of up to 64 bits"),
    ],
)  # fmt: skip
def test_values_that_a_checkpoint_cannot_hold_are_named(tmp_path: Path, tree: Any, saying: str) -> None:
    with pytest.raises(ValueError, match=saying):
        checkpoint(tree).write(tmp_path)
    assert read_checkpoint(tmp_path) is None


def test_an_incomplete_checkpoint_is_refused(tmp_path: Path) -> None:
    state = {"model": {"w": np.arange(6, dtype=np.float32), "n": np.array(3)}, "é": [0.1, float("inf")]}
    checkpoint(state).write(tmp_path)
    path = tmp_path / FOLDER / FILE
    whole = path.read_bytes()
    draw = numpy_stream(0, "damage")
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [whole + b"\0", whole + whole, b"\0" * len(whole)]
    for offset in range(len(whole)):
        flipped = bytearray(whole)
        flipped[offset] ^= 1 << int(draw.integers(8))
        damaged.append(bytes(flipped))
    for _ in range(300):  # a page that never reached the disk, or one of another file
        hole = bytearray(whole)
        start, length = int(draw.integers(len(whole))), int(draw.integers(1, 64))
        hole[start : start + length] = draw.bytes(len(hole[start : start + length]))
        damaged.append(bytes(hole))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(Refused, match=rf"^{FOLDER}/{FILE}: (is damaged|has format)"):
            read_checkpoint(tmp_path)
    path.write_bytes(whole)
    assert same(read_checkpoint(tmp_path).state, state)  # type: ignore[union-attr]


def test_an_unknown_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr("fedsim.results.checkpoint.FORMAT", 2)
        checkpoint({}).write(tmp_path)
    with pytest.raises(Refused, match="has format 2; this version of fedsim reads 1"):
        read_checkpoint(tmp_path)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path) is None


# --- files ---------------------------------------------------------------------------------------------


def test_a_file_appears_whole_whatever_was_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_whole(path, b"first")
    (tmp_path / ".a.draft").write_bytes(b"what a kill has left, and longer")

    def full(file: int) -> None:
        raise OSError("no space")

    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        with pytest.raises(OSError, match="no space"):
            write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    write_whole(path, b"third")
    assert path.read_bytes() == b"third"
    assert {p.name for p in tmp_path.iterdir()} == {"a", ".a.draft"}
    remove_drafts(tmp_path, tmp_path / "none")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_lines_are_cut_back_to_a_position(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.touch()
    lines = LineFile(path)
    for i in range(3):
        lines.append({"round": i})
    kept = lines.position
    lines.append({"round": 3})
    path.write_bytes(path.read_bytes() + b'{"rou')
    again = LineFile(path, kept)
    assert again.rows() == [{"round": i} for i in range(3)]
    again.cut()
    again.append({"round": "new"})
    assert path.read_text() == '{"round": 0}\n{"round": 1}\n{"round": 2}\n{"round": "new"}\n'
    assert LineFile(path, again.position).rows()[-1] == {"round": "new"}


@pytest.mark.parametrize(
    ("content", "saying"),
    [
        (None, "m.jsonl: has 0 bytes; the checkpoint was made at 26, so lines are missing"),
        (b'{"round": 0}\n{"round": 1', "m.jsonl: has 24 bytes; the checkpoint was made at 26"),
        (b'{"round": 0}\n{"round": 11}\n', "m.jsonl: was changed; its first 26 bytes must be 2 rows of JSON"),
        (b'{"round": 0} {"round": 1}\n', "m.jsonl: was changed"),
        (b"\n" * 26, "m.jsonl: was changed"),
        (b'{"round": 0}\n[{"round": 1}]\n'[:26], "m.jsonl: was changed"),
    ],
)
def test_other_lines_are_refused(tmp_path: Path, content: bytes | None, saying: str) -> None:
    path = tmp_path / "m.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Refused, match=saying):
        LineFile(path, Position(26, 2)).rows()
    assert content is None or path.read_bytes() == content


# --- clients' states -----------------------------------------------------------------------------------

CHANGES = st.dictionaries(st.integers(0, 4), st.binary(max_size=3), max_size=4)
# Each round's changes, and what happens then: the checkpoint is written, or a kill comes before it.
HISTORIES = st.lists(
    st.tuples(CHANGES, st.sampled_from(["written", "written, killed", "killed"])), max_size=12
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(history=HISTORIES)
def test_clients_have_the_states_of_the_checkpoints_round(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[dict[int, bytes], str]]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    states, done, sha256 = ClientStates(folder), 0, ClientStates(folder).sha256
    expected: dict[int, bytes] = {}
    for changes, end in history:
        states.keep(done + 1, changes)
        if end.startswith("written"):
            expected, done, sha256 = expected | changes, done + 1, states.sha256
        if end.endswith("killed"):
            states.close()
            states = ClientStates(folder)
            loaded = states.load(done)
            assert {c: s for c, s in loaded.items() if s} == {c: s for c, s in expected.items() if s}
            assert states.sha256 == sha256
            states.cut(done)
    states.close()
    assert (folder / FOLDER).exists() == any(s for changes, _ in history for s in changes.values())


def test_replaced_states_go_a_round_later(tmp_path: Path) -> None:
    states = ClientStates(tmp_path)
    sizes = []
    for round_ in range(1, 21):
        states.keep(round_, {0: bytes([round_]) * 50_000, 1: b"same"})
        sizes.append((tmp_path / FOLDER / "clients.sqlite").stat().st_size)
    states.close()
    assert max(sizes) < 4 * 50_000


def test_other_states_have_another_hash(tmp_path: Path) -> None:
    hashes = set()
    for i, changes in enumerate(
        [{}, {0: b"a"}, {1: b"a"}, {0: b"b"}, {0: b"a", 1: b"b"}, {0: b"b", 1: b"a"}]
    ):
        (tmp_path / f"{i}").mkdir()
        states = ClientStates(tmp_path / f"{i}")
        states.keep(1, changes)
        hashes.add(states.sha256)
        states.close()
    assert len(hashes) == 6


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "clients.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(Refused, match=r"checkpoint/clients\.sqlite: is damaged \(file is not a database\)"):
        ClientStates(tmp_path).load(1)
