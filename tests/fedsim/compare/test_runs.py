"""Comparing real runs."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import fedsim
from fedsim import Refused
from fedsim.cli import app
from fedsim.compare import compare, frame_of
from fedsim.compare.runs import find_runs
from tests.conftest import experiment


def command(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


def manifest(run: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return tree


def test_runs_are_found_by_run_by_sweep_by_folder_and_by_glob(runs: Path) -> None:
    every = sorted((runs / "runs").iterdir())
    assert len(every) == 9
    assert find_runs([runs]) == find_runs([runs / "runs"]) == find_runs([f"{runs}/runs/*"]) == every
    assert find_runs([every[0], runs, every[0]]) == every
    with pytest.raises(Refused, match="no run directory is there"):
        find_runs([runs / "nowhere"])


def test_the_table_has_the_runs_own_numbers(runs: Path) -> None:
    rows = {row["label"]: row for row in json.loads(command(runs, "--json").stdout)["rows"]}
    assert list(rows) == [
        "no privacy",
        "dp-fedavg, noise-multiplier=4",
        "dp-fedavg, noise-multiplier=1",
        "local-dp, noise-multiplier=0.5",
    ]
    noisy = rows["dp-fedavg, noise-multiplier=4"]
    of_runs = [runs / "runs" / f"dp-fedavg-z4-s{seed}" for seed in (0, 1)]
    accuracies = [fedsim.load_run(run).accuracy or 0.0 for run in of_runs]
    assert noisy["mean"] == pytest.approx(sum(accuracies) / 2)
    report = manifest(of_runs[0])["epsilon"]["released-models"]
    assert (noisy["epsilon"], noisy["adversary"]) == (report["epsilon"], "released-models")
    assert (noisy["unit"], noisy["relation"], noisy["delta"]) == ("client", "zero-out", 1e-3)
    assert (noisy["noise-multiplier"], noisy["composed"]) == (4.0, "3 rounds")
    local = rows["local-dp, noise-multiplier=0.5"]
    assert local["epsilon-bound-by"] == "server"
    assert local["epsilon"] == manifest(runs / "runs" / "local-dp-s0")["epsilon"]["server"]["epsilon"]


def test_runs_that_are_not_counted_are_named(runs: Path) -> None:
    shown = command(runs).stdout
    assert re.search(
        r"not counted: \S*failed: failed after 1 rounds: round 1: diverged: all 4 clients", shown
    )
    (runs / "runs" / "app").mkdir()
    (runs / "runs" / "app" / "manifest.json").write_text(
        '{"kind": "flower-app", "name": "app", "status": "completed"}'
    )
    try:
        assert "left out: " in command(runs).stdout
    finally:
        (runs / "runs" / "app" / "manifest.json").unlink()
        (runs / "runs" / "app").rmdir()


def test_a_run_that_was_killed_in_a_round_does_not_count(runs: Path, tmp_path: Path) -> None:
    half = shutil.copytree(runs / "runs" / "none-s0", tmp_path / "half")
    tree = manifest(half)
    tree["status"] = "running"
    (half / "manifest.json").write_text(json.dumps(tree))
    with (half / "metrics.jsonl").open("a") as file:
        file.write('{"round": 4, "accu')
    found = compare([runs / "runs" / "none-s1", half])
    assert [(m.path, m.status, len(m.rows)) for m in found.groups[0].pending] == [(half, "killed", 3)]
    assert list(found.groups[0].counted) == [1]
    with pytest.raises(Refused, match="none of 1 is completed; they are: killed"):
        compare([half])


@pytest.mark.parametrize(
    "more",
    [(), ("privacy.secagg.adversary=malicious-server", "privacy.secagg.corrupt=0.0", "server.cohort=6")],
)
def test_an_ideal_stand_in_has_the_bytes_of_the_real_protocol(more: tuple[str, ...], tmp_path: Path) -> None:
    setting = ("rounds=2", "client.steps=1", "privacy.secagg.dropout=0.0", *more)
    for mode in ("real", "ideal"):
        fedsim.run(experiment(f"privacy.secagg.mode={mode}", *setting), tmp_path / "s" / mode)
    found = compare([tmp_path / "s"])
    assert len({member.finals["bytes"] for member in found.members}) == 1
    assert len(found.members) == 2
    assert "Bytes of ideal secure aggregation are those that the real protocol would" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", "{"),
        ("manifest.json", "{}"),
        ("metrics.jsonl", "not json\n"),
        ("experiment.toml", "rounds = 'many'"),
    ],
)
def test_a_damaged_run_is_left_out_with_the_reason(
    runs: Path, tmp_path: Path, name: str, content: str
) -> None:
    damaged = shutil.copytree(runs / "runs" / "none-s0", tmp_path / "damaged")
    (damaged / name).write_text(content)
    found = compare([runs / "runs" / "none-s1", damaged])
    assert [path for path, _ in found.left_out] == [damaged]
    with pytest.raises(Refused):
        compare([damaged])


def test_other_tasks_are_refused_or_chosen_by_name(runs: Path, tmp_path: Path) -> None:
    other = fedsim.run(experiment("data.test-share=0.5"), tmp_path / "other").path
    refusal = command(runs, other, code=2).stderr
    assert "are of 2 tasks" in refusal
    assert "'digits (test-share=0.5)' (1, as " in refusal
    chosen = json.loads(command(runs, other, "--task", "digits (test-share=0.5)", "--json").stdout)
    assert [row["seeds"] for row in chosen["rows"]] == [1]
    assert len(chosen["left-out"]) == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metric", "acuracy"], "--metric 'acuracy': is in none of these runs; allowed: accuracy, bytes"),
        (
            ["--adversary", "eve"],
            "--adversary 'eve': is in none of these runs; allowed: known-cohort, released-models",
        ),
        (["--by", "clip"], "--by 'clip': is in none of these runs; allowed: "),
        (["--task", "mnist"], "--task 'mnist': is in none of these runs; allowed: digits"),
        (["--csv", "/proc/no/file.csv"], "--csv '/proc/no/file.csv': "),
    ],
)
def test_bad_input_is_refused_in_a_line(runs: Path, arguments: list[str], said: str) -> None:
    result = command(runs, *arguments, code=2)
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"fedsim: {said}")


def test_without_plotly_there_is_no_page_and_nothing_else_is_written(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    said = command(runs, "--csv", "t.csv", "--html", "page.html", code=2).stderr
    assert said.startswith("fedsim: --html: needs plotly")
    assert list(Path().iterdir()) == []


def test_csv_and_latex(runs: Path) -> None:
    command(runs, "--csv", "t/table.csv", "--latex", "t/table.tex")
    rows = list(csv.DictReader(Path("t/table.csv").read_text().splitlines()))
    assert [row["mechanism"] for row in rows] == ["no privacy", "dp-fedavg", "dp-fedavg", "local-dp"]
    assert {row["privacy.dp-fedavg.noise-multiplier"] for row in rows} == {"", "1.0", "4.0"}
    frame = frame_of(compare([runs]))
    assert frame.columns == list(rows[0])
    assert frame["privacy.dp-fedavg.noise-multiplier"].to_list() == [None, 4.0, 1.0, None]
    latex = Path("t/table.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1
    body = latex.split(r"\toprule")[1].split(r"\bottomrule")[0]
    widths = {line.count(" & ") for line in body.splitlines() if line.endswith(r"\\")}
    assert len(widths) == 1
    assert not re.search(r"(?<!\\)[%_#]", body)


@pytest.mark.slow
def test_pictures_are_whole_and_the_same_each_time(runs: Path) -> None:
    command(runs, "--out", "first")
    command(runs, "--out", "second")
    names = {path.name for path in Path("first").iterdir()}
    assert names == {
        f"{name}.{kind}"
        for name in ("frontier", "rounds", "epsilon", "cost", "fairness")
        for kind in ("png", "svg")
    }
    for name in names:
        content = Path("first", name).read_bytes()
        assert content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
        assert content == Path("second", name).read_bytes()


def test_a_metric_where_less_is_more_and_lines_by_a_setting(runs: Path) -> None:
    found = compare([runs], metric="loss", by="privacy.dp-fedavg.clip", adversary="known-cohort")
    (frontier,) = found.frontiers
    assert set(frontier.series) == {"dp-fedavg, clip=0.5", "local-dp"}
    assert frontier.view.adversary == "known-cohort"


def test_algorithms_are_told_apart_and_without_a_table_it_is_fedavg(tmp_path: Path) -> None:
    for name, *overrides in (
        ("a",),
        ("b", "seed=1", "algorithm.name=fedavg"),
        ("c", "algorithm.name=scaffold"),
    ):
        fedsim.run(experiment("rounds=1", *overrides), tmp_path / name)
    rows = {row["label"]: row for row in json.loads(command(tmp_path, "--json").stdout)["rows"]}
    assert {label: row["seeds"] for label, row in rows.items()} == {
        "no privacy, algorithm.name=fedavg, control-scale=unset": 2,
        "no privacy, algorithm.name=scaffold, control-scale=1": 1,
    }
    finals = {group.settings["algorithm.name"]: group.values("bytes") for group in compare([tmp_path]).groups}
    assert finals["fedavg"].keys() == {0, 1}
    assert finals["scaffold"] == {0: 2 * finals["fedavg"][0]}  # a control variate is as large as the model
    assert set(compare([tmp_path], by="algorithm.name").series.values()) == {
        "no privacy, algorithm.name=fedavg",
        "no privacy, algorithm.name=scaffold",
    }


def test_runs_without_noise_alone(runs: Path) -> None:
    result = command(f"{runs}/runs/none-*", "--out", "pictures", "--csv", "t.csv")
    assert "no run adds noise" in result.stdout
    assert {path.stem for path in Path("pictures").iterdir()} == {"frontier", "rounds", "cost", "fairness"}
