"""The folder `private/` of a run with the operating system's noise: values that no theorem covers, for its owner only.

Its mode is 0700, its files' 0600. `fedsim.results.disclosure` lists its contents.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsim.errors import Refused
from fedsim.private_log import note
from fedsim.results.disclosure import LEDGER, LOG, MANIFEST, METRICS, PRIVATE, ROWS
from fedsim.results.files import LineFile, Position, json_document, make_private_folder, write_whole
from fedsim.results.manifest import read_manifest


class PrivateFiles:
    """The private files of a run directory, written beside the public ones.

    Attributes:
        log: `private/log.txt`.
        manifest: `private/manifest.json`: values omitted from the public one.

    Raises:
        Refused: The run directory has none.
    """

    def __init__(self, run: Path) -> None:
        self.log = run / PRIVATE / LOG
        self.manifest = read_private_manifest(run)
        self._path = run / PRIVATE
        self._rows = LineFile(run / ROWS)
        self._last: dict[str, Any] = {}

    @staticmethod
    def begin(run: Path, manifest: Mapping[str, Any]) -> None:
        """Make the folder, in a run directory that is being made."""
        make_private_folder(run / PRIVATE)
        write_whole(run / PRIVATE / MANIFEST, json_document(manifest), private=True)
        for name in (METRICS, LEDGER, LOG):
            write_whole(run / PRIVATE / name, b"", private=True)

    def resume(self, position: Position) -> None:
        """Go on after the rows of a checkpoint; raises `Refused` if they are missing or damaged."""
        self._rows.position = position
        try:
            known = self._rows.rows()
        except Refused:  # its message reveals their length
            raise Refused(f"{ROWS}: is not what the checkpoint was made with") from None
        for row in known:
            self._last |= row
        self._rows.cut()
        for key in ("error", "final", "wall-seconds"):
            self.manifest.pop(key, None)
        self.write()

    @property
    def position(self) -> Position:
        """Position of the rows."""
        return self._rows.position

    def append_round(self, row: Mapping[str, Any]) -> None:
        """Add a round's row, in full."""
        self._rows.append(dict(row))
        self._last |= row

    def note(self, text: str) -> None:
        """Add a text to the log."""
        note(self.log, text)

    def note_error(self, error: BaseException) -> None:
        """Keep an exception, which is not public."""
        self.manifest["error"] = str(error) or type(error).__name__
        self.note("".join(traceback.format_exception(error)))

    def end(self, wall_seconds: float) -> None:
        """Keep the run's duration and its last values."""
        self.manifest |= {"wall-seconds": wall_seconds, "final": self._last}
        self.write()

    def write(self) -> None:
        """Write the manifest."""
        write_whole(self._path / MANIFEST, json_document(self.manifest), private=True)


def read_private_manifest(run: Path) -> dict[str, Any]:
    """Return a run's private manifest; raises `Refused` if it is missing or damaged."""
    try:
        return read_manifest(run / PRIVATE / MANIFEST)
    except OSError:
        raise Refused(f"{PRIVATE}/{MANIFEST}: is not there; only the run directory itself has it") from None
