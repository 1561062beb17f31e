"""The bundle holds no code, and clients refuse one that does."""

import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.deployment import bundle
from tests.support.deployment.bundles import files_of, with_toml, zipped

ROOT = Path(__file__).parents[3]


def test_what_is_submitted_is_accepted_and_holds_no_module() -> None:
    fab = bundle.make_bundle()
    bundle.check_bundle(fab)
    assert fab == bundle.make_bundle()
    assert set(files_of(fab)) == {"pyproject.toml", ".info/CONTENT"}


def test_flower_can_read_it_and_fuses_the_run_config() -> None:
    from flwr.cli.config_utils import get_fab_metadata
    from flwr.common.config import get_fused_config_from_fab
    from flwr.supercore.run import Run

    run = Run.create_empty(1)
    run.override_config = {"experiment": "rounds = 1\n", "code": "a"}
    assert get_fab_metadata(bundle.make_bundle()) == ("fedsim/fedsim", "0.1.0")
    fused = get_fused_config_from_fab(bundle.make_bundle(), run)
    assert fused == {**bundle.RUN_CONFIG, "experiment": "rounds = 1\n", "code": "a"}


def app_of(tree: dict) -> dict:  # type: ignore[type-arg]
    return tree["tool"]["flwr"]["app"]  # type: ignore[no-any-return]


OTHERS: list[tuple[str, Callable[[], bytes], str]] = [
    ("module", lambda: zipped({**files_of(bundle.make_bundle()), "clients/app.py": b"import os"}), "files of its own: 'clients/app.py'"),
    ("up and out", lambda: zipped({**files_of(bundle.make_bundle()), "../x": b""}), "files of its own: '../x'"),
    ("version", lambda: with_toml(lambda t: t["project"].update(version="9.9")), "project.version is '9.9', not this installation's"),
    ("name", lambda: with_toml(lambda t: t["project"].update(name="other")), "project.name is 'other'"),
    ("component", lambda: with_toml(lambda t: app_of(t)["components"].update(clientapp="os:path")), "components is"),
    ("no components", lambda: with_toml(lambda t: app_of(t).pop("components")), "components is None"),
    ("more keys", lambda: with_toml(lambda t: app_of(t)["config"].update(more=1)), "differs from"),
    ("dependency", lambda: with_toml(lambda t: t["project"].update(dependencies=["evil"])), "differs from"),
    ("tables that are none", lambda: zipped({"pyproject.toml": b"project = 3", ".info/CONTENT": b""}), "project.name is None"),
    ("no TOML", lambda: zipped({"pyproject.toml": b"[[", ".info/CONTENT": b""}), "is no TOML"),
    ("no text", lambda: zipped({"pyproject.toml": b"\xff", ".info/CONTENT": b""}), "is no TOML"),
    ("nothing in it", lambda: zipped({}), "must hold one pyproject.toml"),
    ("bomb", lambda: zipped({"pyproject.toml": b"#" * 10_000_000, ".info/CONTENT": b""}), "has more than 65536 bytes"),
    ("large", lambda: bytes(65_537), "it has 65537 bytes"),
    ("no zip", lambda: b"abc", "is no zip archive"),
    ("empty", lambda: b"", "is no zip archive"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "saying"), [o[1:] for o in OTHERS], ids=[o[0] for o in OTHERS])
def test_any_other_is_refused(make: Callable[[], bytes], saying: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        bundle.check_bundle(make())
    assert saying in str(raised.value)
    assert "\n" not in str(raised.value)


@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
@settings(max_examples=200)
def test_a_damaged_bundle_is_the_same_or_refused(at: int, value: int) -> None:
    fab = bytearray(bundle.make_bundle())
    fab[at % len(fab)] = value
    try:
        bundle.check_bundle(bytes(fab))
    except ValueError:
        return
    with zipfile.ZipFile(io.BytesIO(fab)) as archive:
        assert archive.read("pyproject.toml") == files_of(bundle.make_bundle())["pyproject.toml"]


def test_the_digest_of_the_code_changes_with_any_module(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "experiments")
    shutil.copytree(ROOT / "fedsim", tmp_path / "fedsim", ignore=ignored)
    script = """
import sys
from pathlib import Path
from fedsim.deployment.bundle import installed_code
module = Path("fedsim/privacy/more.py")
print(installed_code())
module.write_text("x = 1")
print(installed_code.__wrapped__())
module.write_text("x = 2")
print(installed_code.__wrapped__())
module.rename("fedsim/privacy/other.py")
print(installed_code.__wrapped__())
assert not {"fedsim.clients", "fedsim.server", "fedsim.privacy.more", "torch"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, *others = done.stdout.split()
    assert first == bundle.installed_code()
    assert len({first, *others}) == 4
