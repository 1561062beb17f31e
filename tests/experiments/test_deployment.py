"""The documents beside `experiments/deployment/README.md`: their commands are ones that the command line has."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from fedsim.cli import app

FOLDER = Path(__file__).parents[2] / "experiments" / "deployment"
UNITS = ("fedsim-server.service", "fedsim-client.service")


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Return what the command line makes of arguments; fails where it knows one not."""
    group: Any = typer.main.get_command(app)
    command = group.commands[arguments[0]]
    with command.make_context(arguments[0], arguments[1:]) as context:
        return dict(context.params)


def commands_of(text: str) -> list[list[str]]:
    """Return the `fedsim` commands in a README's blocks."""
    lines = [line for block in text.split("```")[1::2] for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("fedsim ")]


def test_the_containers_commands_are_known() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert sorted(services) == ["client-0", "client-1", "client-2", "server"]
    for name, service in services.items():
        options = parsed(service["command"])
        assert (str(options["keys"]), str(options["state"])) == ("/keys", "/state")
        assert service["volumes"] == [f"./keys/{name}:/keys:ro", f"./state/{name}:/state"]
    server = parsed(services["server"]["command"])
    for client in (service for name, service in services.items() if name != "server"):
        assert parsed(client["command"])["address"] == f"server:{server['port']}"


@pytest.mark.parametrize("unit", UNITS)
def test_the_units_commands_are_known(unit: str) -> None:
    (line,) = (line for line in (FOLDER / unit).read_text().splitlines() if line.startswith("ExecStart="))
    command = shlex.split(line.partition("=")[2])
    assert command[0] == "/opt/fedsim/bin/fedsim"
    options = parsed(command[1:])
    assert Path(options["state"]) == Path("/var/lib") / unit.removesuffix(".service")


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_units(unit: str, tmp_path: Path) -> None:
    if (verify := shutil.which("systemd-analyze")) is None:
        pytest.skip("needs systemd-analyze")
    text = (FOLDER / unit).read_text().replace("/opt/fedsim/bin/fedsim", sys.executable)
    (tmp_path / unit).write_text(text)
    said = subprocess.run([verify, "verify", tmp_path / unit], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")


def test_the_readmes_commands_are_known() -> None:
    found = commands_of((FOLDER / "README.md").read_text())
    assert [command[0] for command in found] == ["keys", "keys", "run"]
    for command in found:
        parsed(command)
    assert (FOLDER / found[2][1]).is_file()
