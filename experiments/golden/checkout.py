"""Which code is recorded: the commit of the checkout that fedsim was imported from, and what has changed in it since."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

LISTED = 20  # changed files that are named


def git(folder: Path, *arguments: str) -> str:
    """Return what a git command prints in a folder.

    Raises:
        RuntimeError: git is not there, or the command failed; the text says why.
    """
    program = shutil.which("git")
    if program is None:
        raise RuntimeError("git: not found; it is needed")
    done = subprocess.run([program, "-C", str(folder), *arguments], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")


def describe(folder: Path) -> dict[str, Any]:
    """Return a checkout's commit, the files that differ from it, and a hash of how; without git, no commit."""
    try:
        commit = git(folder, "rev-parse", "HEAD").strip()
        status = git(folder, "status", "--porcelain", "--untracked-files=all").splitlines()
        difference = git(folder, "diff", "HEAD", "--binary")
    except RuntimeError:
        return {"commit": None, "changed": [], "changes-sha256": None}
    if not status:
        return {"commit": commit, "changed": [], "changes-sha256": None}
    digest = hashlib.sha256(difference.encode())
    for line in status:
        if line.startswith("??") and (folder / line[3:]).is_file():
            digest.update(line.encode() + (folder / line[3:]).read_bytes())
    names = [line[3:] for line in status]
    return {"commit": commit, "changed": names[:LISTED], "changes-sha256": digest.hexdigest()}
