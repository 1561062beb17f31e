"""A separate environment for pfl-research, which has conflicting dependencies."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

from fedsim.data.federated import cache_folder

PFL = "0.6.0"


def requirements() -> list[str]:
    """Return the requirements: pfl-research with this environment's PyTorch and NumPy, so that both use the same."""
    # A local version ("+cpu") names a build, which an index may lack.
    return [f"pfl=={PFL}", *(f"{name}=={version(name).split('+')[0]}" for name in ("torch", "numpy"))]


def python() -> Path:
    """Return the environment's interpreter, made now (minutes) or earlier.

    Raises:
        RuntimeError: It can't be made; the message says why.
    """
    wanted = requirements()
    tag = "-".join([*wanted, sysconfig.get_python_version()]).replace("==", "-")
    folder = cache_folder() / "benchmarks" / tag
    interpreter = folder / "bin" / "python"
    if (folder / "installed").exists():
        return interpreter
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted],
    ):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            lines = (result.stderr or result.stdout).strip().splitlines()
            raise RuntimeError(f"{' '.join(command[1:4])}: {lines[-1] if lines else result.returncode}")
    (folder / "installed").write_text("\n".join(wanted) + "\n")
    return interpreter
