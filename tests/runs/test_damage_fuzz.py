"""Random damage to the files of a run directory: no traceback, no lost epsilon, no write elsewhere."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import fedsim
from fedsim import Refused, RunFailed
from tests.conftest import experiment
from tests.support.runs import private_bits
from tests.support.stopping import stopped

FILES = (
    "manifest.json",
    "metrics.jsonl",
    "ledger.jsonl",
    "experiment.toml",
    "checkpoint/last-round.safetensors",
    ".lock",
)
TOKENS = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"x"',
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 40,
    b"\xff",
    b"\0",
    b"\n",
    b"[" * 3000,
)
MOST = 500  # characters of a line


@st.composite
def edits(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Return a change of a file's content: a cut, other bytes, a value replaced by another, lines twice or gone."""
    at, length = draw(st.floats(0, 1)), draw(st.integers(0, 40))
    token = draw(st.sampled_from(TOKENS))
    kind = draw(st.sampled_from(["cut", "insert", "overwrite", "value", "line twice", "line gone", "flip"]))

    def edit(old: bytes) -> bytes:
        i = int(at * len(old))
        lines = old.splitlines(keepends=True) or [b""]
        n = min(int(at * len(lines)), len(lines) - 1)
        match kind:
            case "cut":
                return old[:i]
            case "insert":
                return old[:i] + token + old[i:]
            case "overwrite":
                return old[:i] + token + old[i + length :]
            case "value":  # of the next key
                start = old.find(b": ", i) + 2
                end = min(
                    (e for e in (old.find(c, start) for c in (b",", b"\n", b"}")) if e > 0), default=start
                )
                return old[:start] + token + old[end:] if start > 1 else old + token
            case "line twice":
                return b"".join([*lines[: n + 1], *lines[n:]])
            case "line gone":
                return b"".join([*lines[:n], *lines[n + 1 :]])
            case _:
                return old[:i] + bytes([old[i] ^ (1 << length % 8)]) + old[i + 1 :] if i < len(old) else old

    return edit


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """A private run that was stopped after two of its three rounds, and the bits of a whole one."""
    folder = tmp_path_factory.mktemp("fuzz")
    setting = experiment(
        "privacy.local-dp.noise-multiplier=0.8", "privacy.local-dp.delta=1e-3", "privacy.local-dp.clip=0.5"
    )
    reference = private_bits(fedsim.run(setting, folder / "whole"))
    stopped(setting, str(folder / "stopped"))
    return folder, reference


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=st.sampled_from(FILES), edit=edits(), gone=st.booleans())
@example(name="ledger.jsonl", edit=lambda old: old.replace(b"0.8", b"9.8"), gone=False)
@example(name="ledger.jsonl", edit=lambda old: old, gone=True)
@example(
    name="manifest.json", edit=lambda old: old.replace(b'"noise": "seeded"', b'"noise": "os"'), gone=False
)
@example(
    name="manifest.json", edit=lambda old: old.replace(b'"resumable": true', b'"resumable": 1'), gone=False
)
def test_damage_is_told_in_a_line_and_hides_no_epsilon(
    runs: tuple[Path, object], name: str, edit: Callable[[bytes], bytes], gone: bool
) -> None:
    folder, reference = runs
    shutil.rmtree("runs", ignore_errors=True)
    shutil.copytree(folder / "stopped", "runs/a")
    file = Path("runs/a") / name
    before = file.read_bytes()
    if gone:
        file.unlink()
    else:
        file.write_bytes(edit(before))
    for read in (fedsim.load_runs, fedsim.load_ledger, lambda path: fedsim.load_run(path).rows):
        said = refusal_of(read, "runs/a")
        assert "\n" not in said
        assert len(said) <= MOST
    said = refusal_of(fedsim.resume, "runs/a")
    assert "\n" not in said
    assert len(said) <= MOST
    if not said:
        model, ledger, epsilon = private_bits(fedsim.load_run("runs/a"))
        assert (model[0], ledger, epsilon) == (reference[0][0], *reference[1:])  # type: ignore[index]


def refusal_of(call: Callable[[str], object], path: str) -> str:
    """Return the line of a refusal, or of a failure; empty without one. All else is a traceback."""
    try:
        call(path)
    except (Refused, RunFailed) as error:
        return str(error)
    return ""


def test_a_lock_file_may_hold_anything(runs: tuple[Path, object]) -> None:
    shutil.copytree(runs[0] / "stopped", "a")
    Path("a/.lock").write_bytes(os.urandom(100))
    assert fedsim.resume("a").status == "completed"
