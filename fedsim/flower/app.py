"""Reading and loading a Flower app: a folder with a `pyproject.toml` that names a ServerApp and a ClientApp.

Flower's own functions check what `flwr run` checks; their errors become one line each.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flwr.app import UserConfig
from flwr.clientapp import ClientApp
from flwr.common.config import flatten_dict, fuse_dicts, parse_config_args, validate_config
from flwr.serverapp import ServerApp
from flwr.supercore.object_ref import load_app

from fedsim.errors import Refused, reason

PYPROJECT = "pyproject.toml"
TABLES = (
    "project",
    "tool",
    "tool.flwr",
    "tool.flwr.app",
    "tool.flwr.app.components",
    "tool.flwr.app.config",
    "tool.flwr.federations",
)
KEY_VALUE = re.compile(r"\s*[^\s=]+=('[^']*'|\"[^\"]*\"|[^\s'\"]\S*)(?=\s|$)")
App = TypeVar("App", ServerApp, ClientApp)


class _NotThere(Exception):
    """A reference names no module or attribute."""


@dataclass(frozen=True)
class FlowerApp:
    """A Flower app, as its `pyproject.toml` describes it."""

    folder: Path  # absolute
    name: str  # the project's
    version: str  # the project's
    serverapp: str  # reference of the ServerApp, `module:attribute` as seen from the folder
    clientapp: str
    run_config: UserConfig  # its defaults, flat: nested keys are joined with dots
    clients: int | None  # nodes of its default federation (`options.num-supernodes`); None: not given

    @classmethod
    def read(cls, folder: str | Path) -> FlowerApp:
        """Read the `pyproject.toml` of a folder; raises `Refused` if it describes no Flower app, or is missing."""
        here = Path(folder).expanduser().resolve()
        tree = _pyproject(here, f"app {str(folder)!r}")
        app = tree["tool"]["flwr"]["app"]
        return cls(
            folder=here,
            name=str(tree["project"]["name"]),
            version=str(tree["project"]["version"]),
            serverapp=app["components"]["serverapp"],
            clientapp=app["components"]["clientapp"],
            run_config=flatten_dict(app.get("config", {})),
            clients=_supernodes(tree, f"app {str(folder)!r}"),
        )

    def fused(self, overrides: Mapping[str, Any]) -> UserConfig:
        """Return the run config with overrides; their keys may be nested or joined with dots.

        Raises:
            Refused: A key is not the app's, or a value is neither string, number nor boolean.
        """
        flat = flat_config(overrides, "run config")
        for key, value in flat.items():
            if key not in self.run_config:
                allowed = ", ".join(sorted(self.run_config)) or "none, the app has no [tool.flwr.app.config]"
                raise Refused(f"run config {key} = {value!r}: is no key of {self.name}; allowed: {allowed}")
        return fuse_dicts(self.run_config, flat)

    def load_client(self) -> ClientApp:
        """Import the ClientApp; inside `modules()`, so that the reference is resolved in the folder.

        Raises:
            Refused: It can't be loaded, or is something else.
        """
        return self._load("clientapp", self.clientapp, ClientApp)

    def load_server(self) -> ServerApp:
        """Import the ServerApp, as `load_client`; `Refused`, too, if there is nothing in it that runs."""
        server = self._load("serverapp", self.serverapp, ServerApp)
        legacy = (server._server_fn, server._server, server._config, server._strategy, server._client_manager)
        if server._main is None and not any(legacy):
            raise Refused(f"serverapp = {self.serverapp!r}: has no function under @app.main(); one is needed")
        return server

    def _load(self, role: str, reference: str, kind: type[App]) -> App:
        try:
            app: Any = load_app(reference, _NotThere, self.folder)
        except _NotThere as error:
            raise Refused(f"{role} = {reference!r}: {str(error).partition(chr(10))[0]}") from None
        except (Exception, SystemExit) as error:  # importing runs the app's code, which may raise anything
            why = f"can't be imported: {reason(error, self.folder)}"
            raise Refused(f"{role} = {reference!r}: {why}") from error
        if not isinstance(app, kind):
            why = f"is a {type(app).__name__}; a flwr {kind.__name__} is needed"
            raise Refused(f"{role} = {reference!r}: {why}")
        return app

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Let modules be found in the app's folder first, inside the block.

        Two apps of one process may both have a module `server_app`. A loaded module of the same name from elsewhere is
        removed from `sys.modules` for the block and restored after it, in place of the app's own.
        """
        roots = {
            reference.partition(":")[0].partition(".")[0] for reference in (self.serverapp, self.clientapp)
        }
        aside = {n: m for n, m in sys.modules.items() if n.partition(".")[0] in roots and not self._owns(n)}
        for name in aside:
            del sys.modules[name]
        before, path = set(sys.modules), sys.path.copy()
        sys.path.insert(0, str(self.folder))
        try:
            yield
        finally:
            sys.path[:] = path
            for name in [n for n in sys.modules if n not in before and self._owns(n)]:
                del sys.modules[name]
            sys.modules.update(aside)

    def _owns(self, name: str) -> bool:
        """Say whether a loaded module, or its package, is directly in the folder."""
        root = sys.modules.get(name.partition(".")[0])
        places = [*getattr(root, "__path__", ()), getattr(root, "__file__", None)]
        return any(Path(place).parent == self.folder for place in places if place)


def flat_config(nested: Mapping[str, Any], origin: str) -> UserConfig:
    """Return a config with nested keys joined with dots; `Refused` if a value is no string, number or boolean."""
    try:
        return flatten_dict(dict(nested))
    except ValueError as error:
        raise Refused(f"{origin}: {error}") from None


def parse_node_config(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Read `--node-config`: `"key=value key2=value2"` for all nodes, or a TOML file.

    In a file the keys at the top are for all, and `[[node]]` tables for one node each, in the order of partitions.

    Raises:
        Refused: As `parse_overrides`, or `node` is no list of tables.
    """
    if len(texts) != 1 or not texts[0].endswith(".toml"):
        common = parse_overrides(texts, "--node-config")
        return [common] if common else []
    common = _toml(Path(texts[0]).expanduser(), f"--node-config {texts[0]!r}")
    nodes = common.pop("node", [{}])
    if not (isinstance(nodes, list) and all(isinstance(node, dict) for node in nodes)):
        raise Refused(
            f"--node-config {texts[0]!r}: node = {nodes!r}: must be tables [[node]], one for each client"
        )
    return [{**common, **node} for node in nodes]


def _toml(file: Path, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"{origin}: {error.strerror}; a TOML file is needed") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{origin}: not valid TOML: {error}") from None


def parse_overrides(texts: Iterable[str], option: str = "--run-config") -> dict[str, Any]:
    """Read `--run-config` as `flwr run` does: `"key=value key2=value2"` texts, or one TOML file.

    >>> parse_overrides(["lr=0.1 name='a b'", "rounds=3"])
    {'lr': 0.1, 'name': 'a b', 'rounds': 3}

    Raises:
        Refused: A text is no such list, or the file is missing or malformed.
    """
    listed = list(texts)
    for text in listed:
        if not text.endswith(".toml") and KEY_VALUE.sub("", text).strip():
            raise Refused(f"{option} {text!r}: must be key=value, separated by spaces, strings in quotes")
    try:
        return parse_config_args(listed)
    except OSError as error:
        raise Refused(f"{option} {listed[0]!r}: {error.strerror}; a TOML file is needed") from None
    except Exception as error:  # a click or a tomli exception, or a ValueError, each of one or more lines
        raise Refused(f"{option} {' '.join(listed)!r}: {' '.join(str(error).split())}") from None


def _pyproject(folder: Path, origin: str) -> dict[str, Any]:
    """Return the tables of a folder's `pyproject.toml`, checked as `flwr run` checks them."""
    try:
        tree = tomllib.loads((folder / PYPROJECT).read_text(encoding="utf-8"))
    except OSError:
        raise Refused(f"{origin}: has no {PYPROJECT}; the folder of a Flower app is needed") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{origin}: {PYPROJECT}: not valid TOML: {error}") from None
    for path in TABLES:
        if not isinstance(_at(tree, path) or {}, dict):
            raise Refused(f"{origin}: {PYPROJECT}: {path} = {_at(tree, path)!r}: must be a table")
    components = _at(tree, "tool.flwr.app.components") or {}
    for role in {"serverapp", "clientapp"} & set(components):
        if not re.fullmatch(r"[^:]+:[^:]+", str(components[role])):
            raise Refused(f"{origin}: {PYPROJECT}: {role} = {components[role]!r}: must be 'module:attribute'")
    try:
        _, errors, _ = validate_config(tree, check_module=False)
    except ValueError as error:
        errors = [str(error)]
    if not errors and not {"serverapp", "clientapp"} <= set(components):
        errors = ["[tool.flwr.app.components] has no serverapp or no clientapp; both are needed"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise Refused(f"{origin}: {PYPROJECT}: {' '.join(errors[0].split())}{more}")
    return tree


def _at(tree: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path of nested tables; None: there is none."""
    found: Any = tree
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _supernodes(tree: Mapping[str, Any], origin: str) -> int | None:
    """Return `options.num-supernodes` of the default federation; Flower moves it to its own configuration."""
    federation = _at(tree, "tool.flwr.federations.default")
    path = f"tool.flwr.federations.{federation}.options.num-supernodes"
    clients = _at(tree, path) if isinstance(federation, str) else None
    if clients is not None and (not isinstance(clients, int) or clients < 1):
        raise Refused(f"{origin}: {PYPROJECT}: {path} = {clients!r}: must be an integer of at least 1")
    return clients
