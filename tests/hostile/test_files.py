"""Files and command lines that promise or hold too much: refused in one short line, before anything is allocated."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedsim.cli import app
from fedsim.data.sources.npz import ARRAYS
from fedsim.errors import Refused
from tests.conftest import experiment


def npy(shape: tuple[int, ...], body: bytes = b"", dtype: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue() + body


def packed(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as into:
        for name, content in members.items():
            into.writestr(f"{name}.npy", content)
    return file.getvalue()


def saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def labelled(label: float) -> bytes:
    x, y = np.ones((4, 3)), np.array([0, 1, 1, label])
    return saved(x_train=x, y_train=y, x_test=x, y_test=y)


def encrypted() -> bytes:
    content = bytearray(labelled(1))
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # in the flags of each member
        at = content.find(signature)
        while at >= 0:
            content[at + place] |= 1
            at = content.find(signature, at + 4)
    return bytes(content)


def larger_than_memory() -> bytes:
    content = bytearray(packed(**dict.fromkeys(ARRAYS, npy((4,), bytes(16)))))
    at = content.find(b"PK\x01\x02")
    content[at + 24 : at + 28] = b"\xfe\xff\xff\xff"  # its size as the directory has it
    return bytes(content)


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a header of 10^13 numbers": (lambda: packed(**dict.fromkeys(ARRAYS, npy((10**13,)))), "promises"),
    "a header of 2^80 numbers": (lambda: packed(**dict.fromkeys(ARRAYS, npy((2**40, 2**40)))), "promises"),
    "a header of less": (lambda: packed(**dict.fromkeys(ARRAYS, npy((1,), bytes(400)))), "promises"),
    "encrypted": (encrypted, "is encrypted"),
    "a size that is a lie": (larger_than_memory, "promises|memory|damaged"),
    "label 2^62": (lambda: labelled(2**62), "label 4611686018427387904; labels below 1,000,000"),
    "label 1e300": (lambda: labelled(1e300), "label 1e[+]300; labels below 1,000,000"),
}


@pytest.mark.parametrize(("make", "why"), FILES.values(), ids=FILES)
def test_an_npz_is_refused_before_it_is_allocated(make: Callable[[], bytes], why: str) -> None:
    Path("data.npz").write_bytes(make())
    with pytest.raises(Refused, match=why):
        _prepared('data.source="npz"', 'data.path="data.npz"')


def test_deep_json_is_refused() -> None:
    Path("texts.json").write_text("[" * 100_000)
    with pytest.raises(Refused, match="nested too deeply"):
        _prepared('data.source="text-json"', 'data.path="texts.json"')
    Path("texts.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(Refused, match="must be a table"):
        _prepared('data.source="text-json"', 'data.path="texts.json"')


def _prepared(*overrides: str) -> None:
    from fedsim.data import prepare

    prepare(experiment(*overrides))


@pytest.mark.parametrize(
    "override",
    [
        "model.classes=1000000000",
        "k" * 100_000 + "=1",
        "a\nb=1",
        "name='" + "x" * 100_000 + "'",
        "rounds=[" + "1," * 9999,
    ],
    ids=["classes", "a key of 100 kB", "a newline", "a name of 100 kB", "a list"],
)
def test_a_refusal_is_one_short_line(override: str) -> None:
    Path("x.toml").write_text('name = "x"\n')
    result = CliRunner().invoke(app, ["run", "x.toml", "--set", override])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("fedsim: ")
    assert len(line) <= 500
