"""The bundle (FAB) of a deployed run. It holds no code: every machine runs the fedsim that is installed on it.

Flower ships an app's modules from the operator to the server and to every client, where they take precedence over the
installed ones. fedsim submits a `pyproject.toml` alone, which names the apps and the keys of the run config. The run
config carries the digest of the operator's fedsim, which server and clients compare to their own.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import tomllib
import zipfile
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

from fedsim.runtime.spec import CLIENT_APP, SERVER_APP

NAME = "fedsim"
PACKAGES = (
    "fedsim",
    "fedsim.clients",
    "fedsim.privacy",
    "fedsim.server",
)  # the code that a deployed run executes
CONFIG_FILE, CONTENT_FILE = "pyproject.toml", ".info/CONTENT"
MAX_BYTES = 64 * 1024  # of a bundle, and of each file in it: it has about 1 KiB

RUN_CONFIG: dict[str, str | bool] = {
    "experiment": "",
    "set": "",
    "run-dir": "",
    "run-name": "",
    "resume": False,
    "code": "",
}
"""The keys that a run may override, with their defaults: the experiment as TOML text, overrides as after `--set`,
the run directory, the run's name at the server, whether it is resumed, and the submitter's `installed_code()`."""


@functools.cache
def installed_code() -> str:
    """Return the SHA-256 (hex) of fedsim's installed modules: of the sorted paths and bytes of all `*.py` files.

    Raises:
        RuntimeError: A package is not installed.
    """
    digest = hashlib.sha256()
    modules = {path: content for name in PACKAGES for path, content in _modules(name).items()}
    for path, content in sorted(modules.items()):
        digest.update(f"{path}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()


def _modules(package: str) -> dict[str, bytes]:
    """Return the bytes of each module of a package by its path from `fedsim/` on, without importing any of them.

    In a wheel the other packages lie inside `fedsim/`; in a checkout they are links there, which `rglob` doesn't follow.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.origin:
        raise RuntimeError(f"the package {package!r} is not installed")
    folder = Path(found.origin).parent
    root = package.replace(".", "/")
    files = ((f"{root}/{file.relative_to(folder).as_posix()}", file) for file in folder.rglob("*.py"))
    return {path: file.read_bytes() for path, file in files if not path.startswith("fedsim/experiments/")}


@functools.cache
def make_bundle() -> bytes:
    """Return the bundle that the installed version submits."""
    from fedsim.flower.bundle import build_fab

    return build_fab({CONFIG_FILE: tomli_w.dumps(_config()).encode()})


def _config() -> dict[str, Any]:
    components = {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}
    app = {"publisher": NAME, "components": components, "config": RUN_CONFIG}
    return {"project": {"name": NAME, "version": version(NAME)}, "tool": {"flwr": {"app": app}}}


def check_bundle(fab: bytes) -> None:
    """Check that a bundle is one that the installed version submits; raises `ValueError`, which says what differs."""
    config, expected = _config_of(fab), _config()
    for keys in (("project", "name"), ("project", "version"), ("tool", "flwr", "app", "components")):
        given, needed = _at(config, keys), _at(expected, keys)
        if given != needed:
            raise ValueError(f"its {'.'.join(keys)} is {given!r}, not this installation's {needed!r}")
    if config != expected:
        raise ValueError(f"its {CONFIG_FILE} differs from the one that fedsim submits")


def _config_of(fab: bytes) -> dict[str, Any]:
    """Read the `pyproject.toml` of a bundle that holds nothing else; raises `ValueError`."""
    if len(fab) > MAX_BYTES:
        raise ValueError(f"it has {len(fab)} bytes; allowed are {MAX_BYTES}")
    try:
        with zipfile.ZipFile(io.BytesIO(fab)) as archive:
            names = archive.namelist()
            odd = sorted(set(names) - {CONFIG_FILE, CONTENT_FILE})
            if odd:
                raise ValueError(f"it holds files of its own: {', '.join(map(repr, odd[:3]))}")
            if sorted(names) != [CONTENT_FILE, CONFIG_FILE]:
                raise ValueError(f"it must hold one {CONFIG_FILE} and one {CONTENT_FILE}")
            if archive.getinfo(CONFIG_FILE).file_size > MAX_BYTES:
                raise ValueError(f"its {CONFIG_FILE} has more than {MAX_BYTES} bytes")
            text = archive.read(CONFIG_FILE)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise ValueError(f"it is no zip archive that can be read ({error})") from None
    try:
        return tomllib.loads(text.decode())
    except ValueError as error:
        raise ValueError(f"its {CONFIG_FILE} is no TOML ({error})") from None


def _at(tree: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
