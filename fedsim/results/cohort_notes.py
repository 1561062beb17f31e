"""The cohorts of a run with unrepeatable draws, each written to disk before its clients are asked.

A cohort's participations count from then on, whatever becomes of the round. A checkpoint has only those of whole
rounds; after a kill the others would be forgotten, and clients could take part more often than the noise allows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from fedsim.errors import Refused
from fedsim.results.files import LineFile, create_private, sync_folder

FILE = "cohorts.jsonl"


class CohortNotes:
    """The notes of a run, a line a round: `{"round": 3, "clients": [0, 4]}`.

    Args:
        state: The secret folder of the run.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / FILE
        self._file = LineFile(self._path)

    def note(self, round_: int, clients: Sequence[int]) -> None:
        """Note a round's cohort; it is on the disk when this returns."""
        if not self._path.exists():
            create_private(self._path)
            sync_folder(self._path.parent)
        self._file.append({"round": round_, "clients": list(clients)})

    def load(self) -> dict[int, list[int]]:
        """Return the cohorts by round. An incomplete last line, of a cohort that was not asked, is cut off.

        Raises:
            Refused: The file is damaged.
        """
        if not self._path.exists():
            return {}
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            cohorts = {int(line["round"]): [int(client) for client in line["clients"]] for line in lines}
        except (ValueError, KeyError, TypeError):
            raise Refused(
                f"{str(self._path)!r}: is damaged; a line of JSON for each round is needed"
            ) from None
        if len(cohorts) < len(lines):
            raise Refused(f"{str(self._path)!r}: is damaged; a round has two cohorts")
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        return cohorts
