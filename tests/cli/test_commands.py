"""The command, as a user meets it: real processes where these are the point, the same command in this one elsewhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedsim.cli import app

FEDSIM = Path(sys.executable).with_name("fedsim")
TINY = 'name = "tiny"\nrounds = 2\n[data]\nclients = 6\npartition = "iid"\n[model]\nname = "linear"\n[server]\ncohort = 3\n'


@pytest.fixture(autouse=True)
def _config(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)


def fedsim(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([FEDSIM, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    return result


def here(*arguments: str, code: int = 0) -> Result:
    """Call the command in this process, where PyTorch is loaded already."""
    result = CliRunner(env={"COLUMNS": "140"}).invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result


def test_a_run_prints_a_line_a_round_and_where_it_is() -> None:
    lines = fedsim("run", "tiny.toml").stdout.splitlines()
    assert lines[0].startswith("tiny: 2 rounds, written to ")
    assert [line.split(":")[0] for line in lines[1:3]] == ["round 1/2", "round 2/2"]
    assert lines[3].startswith("accuracy ")
    assert Path(lines[3].rsplit(": ", 1)[1], "model.safetensors").exists()


def test_json_and_quiet() -> None:
    result = here("run", "tiny.toml", "--json", "--out", "a", "--set", "seed=4", "--engine", "sequential")
    summary = json.loads(result.stdout)
    assert (summary["run"], summary["status"], summary["round"]) == (
        str(Path("a").absolute()),
        "completed",
        2,
    )
    assert here("run", "tiny.toml", "--quiet", "--engine", "sequential").stdout == ""


def test_a_failed_run_ends_with_one_line_and_code_1() -> None:
    wild = ("--set", "client.learning-rate=1e38", "--engine", "sequential")
    result = here("run", "tiny.toml", "--quiet", *wild, code=1)
    assert result.stderr.splitlines()[-1].startswith(
        "fedsim: failed: round 1: diverged: all 3 clients failed in training"
    )


def test_a_users_model_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "own.py").write_text(
        "from torch import nn\ndef build(task):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, task.outputs.size))\n"
    )
    (tmp_path / "elsewhere" / "own.toml").write_text(TINY.replace('"linear"', '"own:build"'))
    assert (
        json.loads(fedsim("run", "elsewhere/own.toml", "--json", "--workers", "1").stdout)["status"]
        == "completed"
    )


def test_what_a_users_model_raises_is_one_line_and_with_debug_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_model.py").write_text("def build(task):\n    return {}['width']\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = ("run", "tiny.toml", "--quiet", "--set", "model.name=broken_model:build")
    line = f"fedsim: model.name = 'broken_model:build': {tmp_path}/broken_model.py:2: KeyError: 'width'"
    assert here(*run, code=2).stderr.splitlines() == [line]
    first, *_, last = here("--debug", *run, code=2).stderr.splitlines()
    assert (first, last) == ("Traceback (most recent call last):", line)


@pytest.mark.parametrize(
    "command",
    [
        *(
            "",
            "run",
            "resume",
            "data",
            "tasks",
            "models",
            "algorithms",
            "transforms",
            "strategies",
            "optimizers",
        ),
        "schema",
    ],
)
def test_help(command: str) -> None:
    call = here if command else fedsim
    assert "Usage: fedsim" in call(*command.split(), "--help").stdout


def test_lists() -> None:
    assert "dirichlet" in here("data").stdout
    assert "hidden ([200, 200])" in here("models").stdout
    assert 'loss ("mse")' in here("tasks").stdout
    assert {task["name"] for task in json.loads(here("tasks", "--json").stdout)} >= {"regression"}
    assert "share (0.1)" in here("transforms").stdout
    assert {t["name"] for t in json.loads(here("transforms", "--json").stdout)} == {"top-k", "quantise"}
    assert "server-momentum (0.9)" in here("strategies").stdout
    assert "control-scale (1.0)" in here("algorithms").stdout
    assert {a["name"]: a["fields"] for a in json.loads(here("algorithms", "--json").stdout)} == {
        "fedavg": False,
        "scaffold": True,
    }
    assert {model["name"] for model in json.loads(here("models", "--json").stdout)} >= {"cnn", "lstm"}
    assert {s["name"]: s["linear"] for s in json.loads(here("strategies", "--json").stdout)}["krum"] is False
    assert json.loads(here("schema").stdout)["properties"]["rounds"]["minimum"] == 1
    assert here("--version").stdout.startswith("fedsim ")


def test_a_partition_as_table_json_and_picture() -> None:
    assert "1,438 examples with 6 clients" in here("data", "tiny.toml", "--picture", "p.png").stdout
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    tree = json.loads(here("data", "tiny.toml", "--json").stdout)
    assert sum(tree["sizes"]) == sum(map(sum, tree["labels"])) == 1438
    assert "--picture 'p.xyz'" in here("data", "tiny.toml", "--picture", "p.xyz", code=2).stderr


def test_unknown_commands_and_options_are_refused() -> None:
    assert "No such command" in here("rum", code=2).stderr
    assert "No such option" in fedsim("run", "tiny.toml", "--worker", "3", code=2).stderr
