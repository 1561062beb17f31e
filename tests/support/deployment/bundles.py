"""Bundles that a test has changed."""

import io
import tomllib
import zipfile
from collections.abc import Callable

import tomli_w

from fedsim.deployment.bundle import make_bundle


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def files_of(fab: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(fab)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_toml(change: Callable[[dict[str, dict[str, object]]], None]) -> bytes:
    files = files_of(make_bundle())
    tree = tomllib.loads(files["pyproject.toml"].decode())
    change(tree)
    return zipped({**files, "pyproject.toml": tomli_w.dumps(tree).encode()})
