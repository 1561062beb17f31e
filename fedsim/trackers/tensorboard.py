"""Rounds as TensorBoard's scalars."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import Refused
from fedsim.results.run import Run, numbers_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Writes each number of a round, by its round, for `tensorboard --logdir`.

    Args:
        folder: Parent of a folder with the run's name; empty: `tensorboard/` of the run directory is used.

    Raises:
        Refused: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path = "") -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise Refused(
                "--track tensorboard: TensorBoard is not installed; pip install 'fedsim[tensorboard]'"
            )
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def on_round(self, run: Run, row: Mapping[str, Any]) -> None:
        """Write a round; of a resumed run, first rewrite earlier rounds, since a kill may have lost one."""
        if self._writer is not None:
            self._write(self._writer, row)
            return
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(self._folder) / run.path.name if self._folder else run.path / FOLDER
        _let_a_second_pass(folder)
        # Rounds from `purge_step` on, written by an earlier session, are ignored.
        self._writer = SummaryWriter(str(folder), purge_step=1)
        for each in run.rows:
            self._write(self._writer, each)

    def _write(self, writer: SummaryWriter, row: Mapping[str, Any]) -> None:
        for name, value in numbers_of(row):
            writer.add_scalar(name, value, row["round"])
        writer.flush()

    def on_end(self, run: Run) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _let_a_second_pass(folder: Path) -> None:
    """Wait until no earlier session's file has this second in its name, so that this session is read after it.

    Files are read in the order of their names, which have the second of creation and then the process id.
    """
    while any(folder.glob(f"events.out.tfevents.{int(time.time())}.*")):
        time.sleep(0.05)
