"""The recorded code: the commit of the imported checkout, and its changes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

LISTED = 20  # changed files to list


def git(folder: Path, *arguments: str) -> str:
    """Return what a git command prints in a folder.

    Raises:
        RuntimeError: git is missing, or the command failed; the message says why.
    """
    program = shutil.which("git")
    if program is None:
        raise RuntimeError("git: not found; it is needed")
    done = subprocess.run([program, "-C", str(folder), *arguments], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")


def describe(folder: Path) -> dict[str, Any]:
    """Return a checkout's commit, the changed files, and a hash of the changes; without git, no commit."""
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
