"""The process that performs cases, with the importable version of fedsim.

It is started by its path, not as a module, and uses public names only (`fedsim.run`, `fedsim.Experiment.load`,
`fedsim.Interrupted`, `fedsim.cli.app`), so that it works with commits that don't have this package. It reads a JSON
line for each step and answers with one: `exit`, `stdout`, `stderr`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import fedsim
from fedsim.cli import app

Answer = dict[str, Any]


class StopAfter:
    """A progress listener that sends SIGTERM to this process after a round, and ignores everything else."""

    def __init__(self, round_: int) -> None:
        self._round = round_

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Send the signal if this was the round."""
        if row["round"] == self._round:
            os.kill(os.getpid(), signal.SIGTERM)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **options: None


def perform_cli(arguments: list[str]) -> Answer:
    """Run a `fedsim` command in this process."""
    result = CliRunner().invoke(app, arguments)
    crash = ""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        crash = "".join(traceback.format_exception_only(result.exception))
    return {"exit": result.exit_code, "stdout": result.stdout, "stderr": result.stderr + crash}


def perform_stop(arguments: list[str]) -> Answer:
    """Run an experiment until a round has ended; `exit` is 1 if it was interrupted, as of the command."""
    file, out, round_ = arguments
    try:
        fedsim.run(fedsim.Experiment.load(file), out, StopAfter(int(round_)))
    except fedsim.Interrupted as interrupted:
        return {"exit": 1, "stdout": "", "stderr": f"{interrupted}\n"}
    except fedsim.Refused as refused:
        return {"exit": 2, "stdout": "", "stderr": f"{refused}\n"}
    return {"exit": 0, "stdout": "", "stderr": "was not interrupted\n"}


PERFORM: Mapping[str, Callable[[list[str]], Answer]] = {"cli": perform_cli, "stop": perform_stop}


def main() -> None:
    """Answer until the input ends."""
    # Output of fedsim or a library must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"code": str(Path(str(fedsim.__file__)).parents[1])}), file=answers, flush=True)
    for line in sys.stdin:
        step = json.loads(line)
        os.chdir(step["folder"])
        print(json.dumps(PERFORM[step["kind"]](step["arguments"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
