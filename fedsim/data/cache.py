"""The files of a prepared source: synced when they are written, and checked when they are opened.

`meta.json` has the hash of all arrays, which is the run's `data-sha256`, and of each file its size, its time of change
and the hash of samples; and a hash of itself. A process that opens them trusts a file of the same size and time whose
samples are the same: 16 blocks of 4 KiB, the first and the last among them. Where a time differs, as in a copy of the
cache, all is hashed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import Refused, reason

META = "meta.json"
BLOCK, BLOCKS = 4096, 16  # bytes of a sample, and how many


def write(folder: Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Write arrays and what is known of them into a new folder; all is on the disk when this returns."""
    files = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        with path.open("wb") as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        status = path.stat()
        files[name] = {"bytes": status.st_size, "changed": status.st_mtime_ns, "sample": _sample(path)}
    tree = {**meta, "files": files}
    with (folder / META).open("w") as text:
        json.dump({**tree, "check": _hash_of(tree)}, text)
        text.flush()
        os.fsync(text.fileno())
    sync_folder(folder)


def read_meta(folder: Path) -> dict[str, Any]:
    """Return what is known of a folder's arrays; raises `Refused` if it is damaged."""
    path = folder / META
    try:
        meta: dict[str, Any] = json.loads(_regular(path).read_bytes())
        if meta.pop("check") != _hash_of(meta):
            raise ValueError("its hash is another")
    except OSError as error:
        raise Refused(f"{str(path)!r}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refused(f"{str(path)!r}: is damaged ({reason(error)[:200]})") from None
    return meta


def damage_of(folder: Path, *, in_full: bool = False) -> str:
    """Return what is damaged in a folder, empty for nothing; with `in_full` all is hashed."""
    try:
        meta = read_meta(folder)
        for name, known in meta["files"].items():
            path = _regular(folder / f"{name}.npy")
            status = path.stat()
            if status.st_size != known["bytes"]:
                return f"{path.name} has {status.st_size} bytes, not {known['bytes']}"
            if _sample(path) != known["sample"]:
                return f"{path.name} has changed"
            in_full = in_full or status.st_mtime_ns != known["changed"]
        if in_full:
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in meta["files"]}
            if sha256_of(arrays) != meta["sha256"]:
                return "the hash of its arrays is another"
            for name, known in meta["files"].items():  # the times of a copy: it need not be hashed again
                with suppress(OSError):
                    os.utime(folder / f"{name}.npy", ns=(known["changed"], known["changed"]))
    except Refused as refused:
        return str(refused)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except ValueError as error:  # of a header of NumPy's
        return str(error)
    return ""


def remove(folder: Path) -> None:
    """Remove a folder at once: processes that have mapped its arrays keep them."""
    gone = folder.with_name(f".draft-{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):  # another process was faster
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def sha256_of(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the hash of arrays with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to the disk."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _regular(path: Path) -> Path:
    """Return the path of a regular file; raises `OSError` if there is none, or a FIFO or a device, whose reading waits."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return path


def _sample(path: Path) -> str:
    """Return the hash of some blocks of a file, evenly spread from its first to its last."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        last = max(0, path.stat().st_size - BLOCK)
        for start in sorted({last * i // (BLOCKS - 1) for i in range(BLOCKS)}):
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def _hash_of(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
