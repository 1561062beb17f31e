"""The notebooks: what their scripts say, with outputs of the full size; each runs from a clean kernel."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from fedsim.experiments.notebooks.build import SIZE, executed, notebook_of, scripts
from fedsim.experiments.notebooks.cells import Cell, cells_of_notebook, cells_of_script

ROOT = Path(__file__).parents[2]
SCRIPTS = pytest.mark.parametrize("script", scripts(), ids=lambda script: script.stem)
WITH_PICTURES = {"01_first_run": 2, "02_privacy_utility": 3, "03_lstm_text": 1}
LARGEST = 400_000  # bytes of a notebook, pictures and all


def committed(script: Path) -> Any:
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures_of(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs_of(notebook))


def test_there_are_four() -> None:
    names = ["01_first_run", "02_privacy_utility", "03_lstm_text", "04_your_own_data_and_model"]
    assert [script.stem for script in scripts()] == names


@SCRIPTS
def test_a_notebook_says_what_its_script_says(script: Path) -> None:
    assert cells_of_notebook(committed(script)) == cells_of_script(script.read_text())


@SCRIPTS
def test_a_notebook_is_short_and_has_its_outputs(script: Path) -> None:
    notebook = committed(script)
    nbformat.validate(notebook)
    assert notebook.metadata["fedsim"]["size"] == "full"
    assert 8 <= len(notebook.cells) <= 24
    assert script.with_suffix(".ipynb").stat().st_size < LARGEST
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for output in outputs_of(notebook)} <= {"stream", "display_data"}
    assert {output.get("name", "stdout") for output in outputs_of(notebook)} == {"stdout"}
    assert pictures_of(notebook) == WITH_PICTURES.get(script.stem, 0)


@SCRIPTS
def test_outputs_name_no_folder_of_the_machine_that_made_them(script: Path) -> None:
    said = "".join(output.get("text", "") for output in outputs_of(committed(script)))
    assert not re.search(r"(^|[\s'\"=(])/\w+/", said)


@SCRIPTS
def test_a_notebook_uses_what_is_public(script: Path) -> None:
    code = "\n".join(cell.text for cell in cells_of_script(script.read_text()) if cell.kind == "code")
    assert not re.search(r"\bfrom (clients|server|privacy)\b|import _|\._[a-z]", code)


@pytest.mark.slow
@SCRIPTS
def test_a_notebook_runs_from_a_clean_kernel(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = executed(notebook_of(script), "small", tmp_path)
    assert done.metadata["fedsim"]["size"] == "small"
    assert pictures_of(done) == WITH_PICTURES.get(script.stem, 0)
    assert cells_of_notebook(done) == cells_of_script(script.read_text())


@pytest.mark.slow
def test_a_script_does_the_same_without_jupyter(tmp_path: Path) -> None:
    script = ROOT / "experiments" / "notebooks" / "01_first_run.py"
    environment = os.environ | {SIZE: "small", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
    )
    pictures = [
        Path(line.removeprefix("picture: ")) for line in result.stdout.splitlines() if "picture" in line
    ]
    assert [picture.name for picture in pictures] == ["first.png", "mistakes.png"]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert "the same bits" in result.stdout


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("print(1)\n", "docstring"),
        ('"""Title."""\n\nprint(1)\n\n# %%\nprint(2)\n', "docstring"),
        ('"""Title."""\n\n# %% [markdown]\n# Text\nprint(1)\n', "no comment: 'print"),
    ],
)
def test_a_script_that_is_no_notebook_is_refused(source: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        cells_of_script(source)


def test_text_and_code_keep_their_lines() -> None:
    source = (
        '# a comment\n"""Title."""\n\n# %% [markdown]\n# One\n#\n#   two\n\n\n# %%\na = 1\n\nb = "# %%"\n'
    )
    assert cells_of_script(source) == [
        Cell("markdown", "# Title"),
        Cell("markdown", "One\n\n  two"),
        Cell("code", 'a = 1\n\nb = "# %%"'),
    ]
