"""Golden digests: what counts as a difference, and that cases run the requested code."""

import base64
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedsim.catalogue import MODELS, PARTITIONS, STRATEGIES
from fedsim.experiments.golden import digest
from fedsim.experiments.golden.__main__ import main
from fedsim.experiments.golden.all_cases import all_cases, matching
from fedsim.experiments.golden.case import FILE, RUN, Case, Step, cli, merged, toml, whole
from fedsim.experiments.golden.comparison import differences
from fedsim.experiments.golden.matrix import LOCAL, MECHANISMS
from fedsim.experiments.golden.recording import Recording

# A stand-in for fedsim, with as much of its public surface as the performer uses: it starts in no time.
FAKE = {
    "fedsim/__init__.py": """
class Interrupted(Exception): pass
class Refused(Exception): pass
class Experiment:
    @staticmethod
    def load(file): return file
def run(experiment, out, progress):
    progress.started(out, 2, 0)
    progress.round_done({"round": 1})
    raise Interrupted(f"{experiment} after round 1")
""",
    "fedsim/cli.py": """
import json, os, pathlib, signal, typer
app = typer.Typer()
SAID = "as before"
@app.command(context_settings={"ignore_unknown_options": True})
def run(words: list[str]):
    with pathlib.Path(__file__).with_name("calls").open("a") as calls: print(*words, file=calls)
    if "die" in words: os.kill(os.getpid(), signal.SIGKILL)
    print(SAID, *words, "in 0.3 s:", pathlib.Path.cwd())
@app.command()
def other(): pass
""",
    ".gitignore": "calls\n__pycache__\n",
}


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A repository of the stand-in, with one commit."""
    folder = tmp_path / "code"
    for name, text in FAKE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with what is recorded of one."""
    folder = tmp_path / RUN
    folder.mkdir()
    manifest = {"status": "completed", "run-id": "1", "experiment-sha256": "ab", "epsilon": {"server": 2.0}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "experiment.toml").write_text("rounds = 1\n")
    (folder / "metrics.jsonl").write_text(
        '{"round": 1, "loss": 2.0, "epsilon-server": 2.0, "seconds": 0.5}\n'
    )
    (folder / "ledger.jsonl").write_text('{"round": 1}\n')
    save_file({"w": np.array([1.0, 2.0], np.float32)}, folder / "model.safetensors")
    return folder


def recording(**parts: Any) -> dict[str, Any]:
    return {"cases": {"a": {"case-sha256": "1", **digest.record(parts)}}}


def told(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(found.case, found.part, found.how) for found in differences(before, after)]


# --- cases ---------------------------------------------------------------------------------------------


def test_the_catalogue_is_covered() -> None:
    names = set(all_cases())
    assert {f"strategies/{name}" for name in STRATEGIES} <= names
    assert {f"partitions/{name}" for name in PARTITIONS} <= names
    assert {f"models/{name}" for name in MODELS if name != "lstm"} | {"models/lstm/none"} <= names
    wanted = {name for name in names if name.startswith("matrix/dp-sgd/") and name.endswith("/whole")}
    assert wanted == {
        f"matrix/dp-sgd/{secure}/{engine}/whole"
        for secure in ("plain", "ideal", "real")
        for engine in ("sequential", "local")
    }


def test_a_pattern_is_a_name_or_its_beginning() -> None:
    assert [case.name for case in matching("faults/nan/none/real")] == ["faults/nan/none/real"]
    assert {case.name.rpartition("/")[2] for case in matching("matrix/*/real/local")} == {"whole", "resumed"}
    assert matching("matrix/no-such-mechanism") == []


def test_trees_are_laid_over_each_other() -> None:
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": None}, "d": 3}) == {"a": {"c": 2}, "d": 3}
    assert b'engine = "local"' in toml(LOCAL)
    assert whole("a").sha256 == whole("b").sha256 != whole("a", {"seed": 1}).sha256


# --- parts ---------------------------------------------------------------------------------------------


def differing(run: Path, name: str, old: bytes, new: bytes) -> set[str]:
    """Return the parts that change with a file's bytes."""
    before, content = digest.seeded_parts(run), (run / name).read_bytes()
    assert content.count(old) == 1
    (run / name).write_bytes(content.replace(old, new))
    after = digest.seeded_parts(run)
    return {part for part in before | after if before.get(part) != after.get(part)}


@pytest.mark.parametrize(
    ("name", "old", "new", "parts"),
    [
        ("metrics.jsonl", b"0.5", b"0.6", set()),
        ("manifest.json", b'"run-id": "1"', b'"run-id": "2"', set()),
        ("metrics.jsonl", b'"loss": 2.0', b'"loss": 2.0000000000000004', {"metrics"}),
        ("metrics.jsonl", b'"epsilon-server": 2.0', b'"epsilon-server": 2.1', {"metrics", "epsilon"}),
        ("manifest.json", b"2.0", b"2.1", {"manifest", "epsilon"}),
        ("manifest.json", b'"ab"', b'"ac"', {"manifest", "experiment-sha256"}),
        ("ledger.jsonl", b": 1", b":  1", {"ledger"}),  # byte by byte
        ("experiment.toml", b"rounds = 1", b"rounds  = 1", {"experiment"}),
        ("model.safetensors", np.float32(2.0).tobytes(), np.float32(2.0000002).tobytes(), {"model"}),
    ],
)
def test_what_is_written_counts_and_times_do_not(
    run: Path, name: str, old: bytes, new: bytes, parts: set[str]
) -> None:
    assert differing(run, name, old, new) == parts


def test_times_and_folders_are_no_part_of_what_is_said() -> None:
    said = "round 1/2: 4 clients, 0.3 s, 1 min 20 s left; 12 steps: /tmp/x1/run"
    assert digest.plain([said], {"/tmp/x1": "HERE"}) == [
        "round 1/2: 4 clients, # s, # s left; 12 steps: HERE/run"
    ]


def test_a_hash_of_the_folder_is_not_recorded(run: Path) -> None:
    case = Case(name="a", steps=())
    assert digest.parts(case, run.parent, "none", [])["experiment-sha256"] == "ab"
    (run / "experiment.toml").write_text(f"path = '{run.parent}/x'\n")
    found = digest.parts(case, run.parent, "none", [])
    assert found["experiment"] == ["path = 'HERE/x'"]
    assert found["experiment-sha256"] == found["manifest"]["experiment-sha256"] != "ab"
    assert "HERE" in found["experiment-sha256"]


def test_an_order_of_keys_counts() -> None:
    assert digest.sha256({"a": 1, "b": 2}) != digest.sha256({"b": 2, "a": 1})


def test_of_the_operating_systems_noise_only_what_chance_leaves_alone_is_recorded(run: Path) -> None:
    private = run / "private"
    private.mkdir()
    (private / "ledger.jsonl").write_text('{"mechanism": "m", "round": 1, "client": 4}\n' * 2)
    (private / "metrics.jsonl").write_text('{"round": 1, "clients": 2}\n')
    before = digest.public_parts(run)
    assert before["ledger"] == [["m", 1, 2]]
    assert before["private columns"] == [[1, ["round", "clients"]]]
    (private / "ledger.jsonl").write_text('{"mechanism": "m", "round": 1, "client": 5}\n' * 2)
    save_file({"w": np.array([3.0, 4.0], np.float32)}, run / "model.safetensors")
    assert digest.public_parts(run) == before
    (private / "ledger.jsonl").write_text('{"mechanism": "m", "round": 1, "client": 5}\n')
    assert digest.public_parts(run) != before


# --- comparing -----------------------------------------------------------------------------------------


def test_differences_are_told_with_their_size() -> None:
    assert told(recording(metrics=[{"loss": 2.0}]), recording(metrics=[{"loss": 2.0}])) == []
    assert told(recording(metrics=[{"loss": 2.0}]), recording(metrics=[{"loss": 2.5}])) == [
        ("a", "metrics", "[0].loss: 2.0 -> 2.5 (by 0.25 of it)")
    ]
    assert told(recording(ledger=["x"]), recording(ledger=["x", "y"])) == [
        ("a", "ledger", "[1]: nothing -> 'y'")
    ]
    assert told(recording(row={"a": 1, "b": 2}), recording(row={"b": 2, "a": 1})) == [
        ("a", "row", "the same values, in another order of keys")
    ]
    assert told(recording(row=1), recording()) == [("a", "row", "only before")]
    assert told(recording(row=1), {"cases": {}}) == [("a", "case", "only in the recording before")]
    large = ["x" * digest.LARGEST, "y" * digest.LARGEST]
    assert told(recording(row=large[0]), recording(row=large[1])) == [
        ("a", "row", "too large for its values to be kept")
    ]


def test_models_are_compared_as_numbers() -> None:
    def model(*numbers: float) -> dict[str, Any]:
        data = base64.b64encode(np.array(numbers, np.float32).tobytes()).decode()
        return recording(model={"w": {"dtype": "float32", "shape": [len(numbers)], "base64": data}})

    assert told(model(3.0, 4.0), model(3.0, 4.5)) == [
        ("a", "model", "w: 1 of 2 numbers, by 0.5 at most, 0.1 of the norm")
    ]
    assert told(model(3.0), model(3.0, 4.0)) == [("a", "model", "w: ('float32', [1]) -> ('float32', [2])")]


def test_the_command_exits_by_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole_file = {"format": 1, "host": {}, "code": {}}
    (tmp_path / "a.json").write_text(json.dumps(whole_file | recording(metrics=1)))
    (tmp_path / "b.json").write_text(json.dumps(whole_file | recording(metrics=2)))
    assert main(["compare", "a.json", "a.json"]) == 0
    assert "1 cases: no difference" in capsys.readouterr().out
    assert main(["compare", "a.json", "b.json"]) == 1
    assert "metrics" in capsys.readouterr().out
    assert main(["compare", "a.json", "none.json"]) == 2
    assert capsys.readouterr().err == "'none.json': No such file or directory; a recording is needed\n"


# --- recording -----------------------------------------------------------------------------------------


def test_cases_are_performed_once_by_the_code_that_is_asked_for(tmp_path: Path, code: Path) -> None:
    cases = [
        Case(name="said", steps=(cli("run", "a"),)),
        Case(name="dead", steps=(cli("run", "die"), cli("run", "b"))),
        Case(name="stopped", steps=(Step("stop", (FILE, RUN, "2")),)),
    ]
    first = Recording(tmp_path / "a.json", code).make(cases, 1)
    assert first["code"]["commit"] is not None
    assert first["code"]["changed"] == []
    terminals = {name: case["values"]["terminal"] for name, case in first["cases"].items()}
    assert terminals["said"] == [{"exit": 0, "stdout": "as before a in # s: HERE\n", "stderr": ""}]
    assert [answer["exit"] for answer in terminals["dead"]] == [-9, 0]
    assert terminals["stopped"][0]["stderr"] == "experiment.toml after round 1\n"
    calls = code / "fedsim" / "calls"
    assert calls.read_text() == "a\ndie\nb\n"
    again = Recording(tmp_path / "a.json", code).make([*cases, Case(name="new", steps=(cli("run", "c"),))], 1)
    assert calls.read_text() == "a\ndie\nb\nc\n"  # the rest was kept
    assert again["cases"]["said"] == first["cases"]["said"]
    (code / "fedsim" / "cli.py").write_text(FAKE["fedsim/cli.py"].replace("as before", "otherwise"))
    changed = Recording(tmp_path / "a.json", code).make(cases[:1], 1)
    assert changed["code"]["changed"] == ["fedsim/cli.py"]
    assert list(changed["cases"]) == ["said"]  # what other code did is gone
    assert told(first, changed)[0] == (
        "said",
        "terminal",
        "[0].stdout: 'as before a in # s: HERE\\n' -> 'otherwise a in # s: HERE\\n'",
    )


def test_two_commits_are_compared(
    code: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code / "fedsim" / "cli.py").write_text(FAKE["fedsim/cli.py"].replace("as before", "otherwise"))
    git(code, "commit", "--quiet", "-a", "-m", "two")
    monkeypatch.setattr("fedsim.experiments.golden.__main__.HERE", code)
    assert main(["between", "HEAD~1", "--only", "refusals/key", "--jobs", "1"]) == 1
    assert "otherwise" in capsys.readouterr().out
    assert main(["between", "HEAD", "HEAD", "--only", "refusals/key", "--jobs", "1"]) == 0
    assert main(["between", "no-such-commit", "--only", "refusals/key"]) == 2
    listed = subprocess.run(
        ["git", "-C", code, "worktree", "list"], check=True, capture_output=True, text=True
    )
    assert listed.stdout.count("\n") == 1  # the worktrees are gone


# --- the real thing ------------------------------------------------------------------------------------


def sample(**changes: Any) -> Iterator[Case]:
    yield from matching("matrix/dp-fedavg-adaptive/real/sequential")
    yield whole("seeded", MECHANISMS["dp-sgd"], changes)


@pytest.mark.slow
def test_a_sample_is_the_same_twice_and_another_seed_is_not(tmp_path: Path) -> None:
    first = Recording(tmp_path / "a.json").make(list(sample()), 1)
    second = Recording(tmp_path / "b.json").make(list(reversed(list(sample()))), 1)
    assert len(first["cases"]) == 3
    assert all(answer["exit"] == 0 for answer in first["cases"]["seeded"]["values"]["terminal"])
    assert told(first, second) == []
    whole_run, resumed_run = (
        first["cases"][f"matrix/dp-fedavg-adaptive/real/sequential/{flow}"]["digests"]
        for flow in ("whole", "resumed")
    )
    same = ("model", "metrics", "ledger", "epsilon", "experiment-sha256")
    assert [whole_run[part] for part in same] == [resumed_run[part] for part in same]
    other = Recording(tmp_path / "c.json").make(list(sample(seed=8)), 1)
    # What is done is another thing then, and is said so; its digests differ too.
    assert [(case, part) for case, part, _ in told(first, other)] == [("seeded", "case")]
    digests = first["cases"]["seeded"]["digests"], other["cases"]["seeded"]["digests"]
    assert digests[0]["model"] != digests[1]["model"]
    assert digests[0]["metrics"] != digests[1]["metrics"]
