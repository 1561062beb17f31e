"""A run's state folder: in the run directory, or, if the state is secret, outside it.

A run directory is copied, shown and kept. With `privacy.noise = "os"` the state for resuming a run reveals more than
any epsilon covers: the key of correlated noise, which removes it from the released models; the cohorts; the clients'
counts. All of it is then outside, in a folder of the run's own:

    HOME/<run-id>/          mode 0700; HOME: $FEDSIM_STATE_HOME/runs, else $XDG_STATE_HOME/fedsim/runs, else
                            ~/.local/state/fedsim/runs; of a server process: STATE/secrets
      checkpoint/           the last whole round, and the clients' states
      cohorts.jsonl         DP-FTRL's cohorts, each before anyone of it is asked (`note_cohort`)
      key                   of DP-FTRL's noise
      round-begun           the last round that clients have begun and that can't be run again
      run                   the path of the run directory

Files have mode 0600 from their creation, whatever the umask. The folder stays while the run can be resumed, and is
erased when it is completed. Erasing means unlinking: with copy on write or wear levelling, overwriting a file
destroys nothing for sure, so it is not done; disk encryption protects against reading the raw disk.

With seeded noise there is no secret, and all this is in the run directory.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedsim.errors import Refused
from fedsim.privacy.events import Noise
from fedsim.results.files import (
    LineFile,
    create_private,
    make_private_folder,
    read_file,
    sync_folder,
    write_whole,
)

log = logging.getLogger(__name__)

VARIABLE = "FEDSIM_STATE_HOME"
KEY, RUN, COHORTS = "key", "run", "cohorts.jsonl"
KEY_BYTES = 32
RUN_ID = re.compile(r"[0-9a-f]{32}")


def default_home() -> Path:
    """Return the folder of this user's secret states; raises `Refused` without a home or a variable for it."""
    if own := os.environ.get(VARIABLE):
        return Path(own).absolute() / "runs"
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        raise Refused(f"state folder: this user has no home; {VARIABLE} may name a folder") from None
    return Path(base).absolute() / "fedsim" / "runs"


def state_of(run: Path, manifest: Mapping[str, Any], home: Path | None = None) -> Path:
    """Return a run's state folder: its directory, or a secret one in `home` (None: this user's).

    A run that can't be resumed keeps no secrets. Raises `Refused` if a secret folder is impossible.
    """
    if manifest.get("noise") != Noise.SYSTEM or not manifest["resumable"]:
        return run
    if not RUN_ID.fullmatch(str(manifest["run-id"])):  # the folder will be erased, so its name must be safe
        raise Refused(f"manifest.json: run-id = {manifest['run-id']!r}: 32 hexadecimal digits are needed")
    return (home or default_home()) / str(manifest["run-id"])


def make(folder: Path, run: Path) -> None:
    """Make the secret folder (of `state_of`) of a future run directory, and erase leftover ones of completed runs.

    Raises `Refused` if it can't be made.
    """
    home = folder.parent
    try:
        home.parent.parent.mkdir(parents=True, exist_ok=True)
        for each in (home.parent, home, folder):
            make_private_folder(each)
        write_whole(folder / RUN, f"{run.absolute()}\n".encode(), private=True)
        sync_folder(home)
        for other in home.iterdir():
            if _is_of_completed(other):
                erase(other)
    except OSError as error:
        raise Refused(
            f"state folder {str(folder)!r}: {error.strerror}; {VARIABLE} may name another"
        ) from None


def check_there(folder: Path) -> None:
    """Raise `Refused` if the secret folder is missing."""
    if not folder.is_dir():
        raise Refused(
            f"its secret state is not at {str(folder)!r}: with privacy.noise = 'os' a run can be resumed only on the machine "
            f"that it began on, with the same {VARIABLE}"
        )


def key_in(folder: Path) -> bytes:
    """Return a run's noise key, 32 bytes, on the disk when this returns; raises `Refused` if damaged."""
    path = folder / KEY
    if not path.exists():
        write_whole(path, os.urandom(KEY_BYTES), private=True)
    key = read_file(path)
    if len(key) != KEY_BYTES:
        raise Refused(f"{str(path)!r}: is damaged; {KEY_BYTES} bytes are needed")
    return key


def note_cohort(folder: Path, round_: int, clients: Sequence[int]) -> None:
    """Note the cohort of a round; it is on the disk when this returns, before its clients are asked.

    Its participations count from then on, whatever becomes of the round. A checkpoint has only those of whole rounds:
    after a kill the others would be forgotten, and clients could take part more often than the noise allows.
    """
    file = LineFile(folder / COHORTS)
    if not file.path.exists():
        create_private(file.path)
        sync_folder(folder)
    file.append({"round": round_, "clients": list(clients)})


def cohorts_in(folder: Path) -> dict[int, list[int]]:
    """Return the noted cohorts by round; raises `Refused` if they are damaged.

    An incomplete last line, of a cohort that was not asked, is cut off.
    """
    file = LineFile(folder / COHORTS)
    if not file.path.exists():
        return {}
    damaged = f"{str(file.path)!r}: is damaged;"
    try:
        lines = file.news()
        cohorts = {int(line["round"]): [int(client) for client in line["clients"]] for line in lines}
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{damaged} a line of JSON for each round is needed") from None
    if len(cohorts) < len(lines):
        raise Refused(f"{damaged} a round has two cohorts")
    file.cut()
    return cohorts


def erase(folder: Path) -> None:
    """Unlink a secret folder and its contents; failures are logged."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        sync_folder(folder.parent)
    if folder.exists():
        log.warning("%s: can't be erased; it holds the secrets of a run that has ended", folder)


def _is_of_completed(folder: Path) -> bool:
    """Return whether a secret folder belongs to a completed run; a moved run, which may be resumed, doesn't count."""
    try:
        run = Path((folder / RUN).read_text().rstrip("\n"))
        manifest = json.loads((run / "manifest.json").read_text())
        return bool(manifest["run-id"] == folder.name and manifest["status"] == "completed")
    except (OSError, ValueError, KeyError, TypeError):
        return False
