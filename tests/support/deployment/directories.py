"""Run directories, as a server shows them."""

import json
from pathlib import Path
from typing import BinaryIO

from fedsim.deployment.operator.run_copy import Listing


class Source:
    """A run directory; counts the bytes that were read of each file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read: dict[str, int] = {}

    def listing(self) -> Listing:
        files = {str(f.relative_to(self.path)): f.stat().st_size for f in self.path.rglob("*") if f.is_file()}
        return Listing(json.loads((self.path / "manifest.json").read_text()), files)

    def fetch(self, file: str, offset: int, into: BinaryIO) -> None:
        content = (self.path / file).read_bytes()[offset:]
        self.read[file] = self.read.get(file, 0) + len(content)
        into.write(content)


def files_of(path: Path) -> dict[str, bytes]:
    """Return every file but the manifest, what is hidden, and the checkpoint, which is not copied."""
    found = {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}
    return {
        name: content
        for name, content in found.items()
        if name != "manifest.json" and name[0] != "." and not name.startswith("checkpoint/")
    }
