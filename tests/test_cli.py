"""The command, as a user meets it: real processes, real output."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FEDSIM = Path(sys.executable).with_name("fedsim")
TINY = 'name = "tiny"\nrounds = 2\n[data]\nclients = 6\npartition = "iid"\n[model]\nname = "linear"\n[server]\ncohort = 3\n'


@pytest.fixture(autouse=True)
def _config(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)


def fedsim(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([FEDSIM, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    return result


def test_a_run_prints_a_line_a_round_and_where_it_is() -> None:
    lines = fedsim("run", "tiny.toml").stdout.splitlines()
    assert lines[0].startswith("tiny: 2 rounds, written to ")
    assert [line.split(":")[0] for line in lines[1:3]] == ["round 1/2", "round 2/2"]
    assert lines[3].startswith("accuracy ")
    assert Path(lines[3].rsplit(": ", 1)[1], "model.safetensors").exists()


def test_json_and_quiet() -> None:
    result = fedsim("run", "tiny.toml", "--json", "--out", "a", "--set", "seed=4", "--workers", "1")
    summary = json.loads(result.stdout)
    assert (summary["run"], summary["status"], summary["round"]) == (
        str(Path("a").absolute()),
        "completed",
        2,
    )
    assert fedsim("run", "tiny.toml", "--quiet", "--engine", "sequential").stdout == ""


def test_a_failed_run_ends_with_one_line_and_code_1() -> None:
    result = fedsim("run", "tiny.toml", "--quiet", "--set", "client.learning-rate=1e38", code=1)
    assert result.stderr.splitlines()[-1].startswith(
        "fedsim: failed: round 1: all 3 clients failed in training"
    )


def test_a_users_model_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "own.py").write_text(
        "from torch import nn\ndef build(task):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, task.outputs.size))\n"
    )
    (tmp_path / "elsewhere" / "own.toml").write_text(TINY.replace('"linear"', '"own:build"'))
    assert json.loads(fedsim("run", "elsewhere/own.toml", "--json").stdout)["status"] == "completed"


@pytest.mark.parametrize("command", ["", "run", "resume", "data", "tasks", "models", "strategies", "schema"])
def test_help(command: str) -> None:
    assert "Usage: fedsim" in fedsim(*command.split(), "--help").stdout


def test_lists() -> None:
    assert "dirichlet" in fedsim("data").stdout
    assert "hidden ([200, 200])" in fedsim("models").stdout
    assert 'loss ("mse")' in fedsim("tasks").stdout
    assert {task["name"] for task in json.loads(fedsim("tasks", "--json").stdout)} >= {"regression"}
    assert "server-momentum (0.9)" in fedsim("strategies").stdout
    assert {model["name"] for model in json.loads(fedsim("models", "--json").stdout)} >= {"cnn", "lstm"}
    assert {s["name"]: s["linear"] for s in json.loads(fedsim("strategies", "--json").stdout)}[
        "krum"
    ] is False
    assert json.loads(fedsim("schema").stdout)["properties"]["rounds"]["minimum"] == 1
    assert fedsim("--version").stdout.startswith("fedsim ")


def test_a_partition_as_table_json_and_picture() -> None:
    assert "1,438 examples with 6 clients" in fedsim("data", "tiny.toml", "--picture", "p.png").stdout
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    tree = json.loads(fedsim("data", "tiny.toml", "--json").stdout)
    assert sum(tree["sizes"]) == sum(map(sum, tree["labels"])) == 1438
    assert "--picture 'p.xyz'" in fedsim("data", "tiny.toml", "--picture", "p.xyz", code=2).stderr


def test_unknown_commands_and_options_are_refused() -> None:
    assert "No such command" in fedsim("rum", code=2).stderr
    assert "No such option" in fedsim("run", "tiny.toml", "--worker", "3", code=2).stderr
