"""Temporary detached worktrees of commits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedsim.experiments.golden.checkout import git


@contextmanager
def worktrees(repository: Path, commits: Sequence[str]) -> Iterator[list[Path]]:
    """Check commits out into temporary folders, and remove those when the block ends.

    Raises:
        RuntimeError: There is no such commit.
    """
    hashes = [git(repository, "rev-parse", "--verify", f"{commit}^{{commit}}").strip() for commit in commits]
    with tempfile.TemporaryDirectory(prefix="fedsim-golden-code-") as folder:
        made: list[Path] = []
        try:
            for number, commit in enumerate(hashes):
                path = Path(folder) / f"{number}-{commit[:12]}"
                git(repository, "worktree", "add", "--quiet", "--detach", str(path), commit)
                made.append(path)
            yield made
        finally:
            for path in made:
                git(repository, "worktree", "remove", "--force", str(path))
