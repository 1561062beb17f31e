"""What files hold in practice: pixels of any dtype and mode, channels anywhere, missing values, LEAF's windows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from fedsim import Experiment, Refused
from fedsim.catalogue import Targets
from fedsim.cli import app
from fedsim.data import FederatedData, prepare
from fedsim.data.own import OwnData, read_own
from fedsim.data.tokens import CHARACTERS
from tests.support.tasks import tensors

PIXELS = np.arange(2 * 6 * 5).reshape(2, 6, 5) * 4  # whole numbers from 0 to 236


def toml(source: str, path: str, data: str = "", model: str = "linear") -> str:
    return (
        f"[data]\nsource = '{source}'\npath = '{path}'\nclients = 1\npartition = 'iid'\n{data}\n"
        f"[model]\nname = '{model}'\n[server]\ncohort = 1"
    )


def load(source: str, path: str, data: str = "", model: str = "linear") -> FederatedData:
    return prepare(Experiment.from_toml(toml(source, path, data, model)))


def npz(x: np.ndarray, data: str = "", x_test: np.ndarray | None = None) -> FederatedData:
    other = x if x_test is None else x_test
    y, y_test = (np.arange(len(a)) % 2 if a.ndim else np.zeros(1, int) for a in (x, other))
    np.savez("d.npz", x_train=x, y_train=y, x_test=other, y_test=y_test)
    return load("npz", "d.npz", data)


def folder(columns: dict[str, Any], name: str = "train", path: str = "d") -> None:
    Path(path).mkdir(exist_ok=True)
    pl.DataFrame(columns).write_parquet(f"{path}/{name}.parquet")


def hub(data: str = "", model: str = "linear") -> FederatedData:
    return load("huggingface", "d", data, model)


def seen_of(data: FederatedData) -> np.ndarray:
    """Return what a model sees of the test set."""
    return tensors(data, data.test)[0].numpy()


def column_of(x: np.ndarray, dtype: Any) -> pl.Series:
    """Return rows of numbers as a column of lists of this dtype."""
    return pl.Series(x.reshape(len(x), -1).tolist(), dtype=pl.List(dtype))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_the_same_pixels_have_the_same_bits_from_every_dtype(dtype: type) -> None:
    expected = [[[pixel / 255 for pixel in row] for row in image] for image in PIXELS.tolist()]
    data = npz(PIXELS.astype(dtype))
    np.testing.assert_allclose(seen_of(data)[:, 0], expected, rtol=1e-6)
    assert np.array_equal(seen_of(data), seen_of(npz(PIXELS.astype(np.uint8))))
    assert data.inputs == f"{np.dtype(dtype)} from 0 to 236, divided by 255"


@pytest.mark.parametrize(
    ("x", "data", "expected", "told"),
    [
        (PIXELS * 256, "", PIXELS * 256 / 65535, "int64 from 0 to 60416, divided by 65535"),
        (PIXELS % 2, "", PIXELS % 2, "int64 from 0 to 0, as they are"),
        (PIXELS // 4 % 2 > 0, "", PIXELS // 4 % 2, "bool from 0 to 1, as they are"),
        ((PIXELS // 4 % 2).astype(np.uint8), "", PIXELS // 4 % 2, "uint8 from 0 to 1, as they are"),
        (PIXELS - 9, "", PIXELS - 9, "int64 from -9 to 227, as they are"),
        (PIXELS - 9, "scale = 100", (PIXELS - 9) / 100, "int64 from -9 to 227, divided by 100"),
        (PIXELS * 1.0, "", PIXELS, "float64 from 0 to 236, as they are"),
        (PIXELS * 1.0, "scale = 255", PIXELS / 255, "float64 from 0 to 236, divided by 255"),
        (PIXELS.astype(np.uint8), "scale = 16", PIXELS / 16, "uint8 from 0 to 236, divided by 16"),
    ],
)
def test_what_is_scaled_follows_from_the_range_and_can_be_set(
    x: np.ndarray, data: str, expected: np.ndarray, told: str
) -> None:
    found = npz(x, data)
    np.testing.assert_allclose(seen_of(found)[:, 0], expected, rtol=1e-6)
    assert found.inputs == told


def test_flat_bytes_are_pixels_and_other_whole_numbers_are_features() -> None:
    flat = PIXELS.reshape(2, -1)
    for dtype, divisor in ((np.uint8, 255), (np.int64, 1)):
        np.testing.assert_allclose(seen_of(npz(flat.astype(dtype))), flat / divisor, rtol=1e-6)
    for dtype, divisor in ((pl.UInt8, 255), (pl.Int64, 1)):
        for name in ("train", "test"):
            folder({"x": column_of(PIXELS, dtype), "label": [0, 1]}, name)
        data = hub()
        np.testing.assert_allclose(seen_of(data), flat / divisor, rtol=1e-6)
        pl.DataFrame({"x": column_of(PIXELS, dtype), "label": [0, 1]}).write_parquet("own.parquet")
        own = OwnData(read_own(Path("own.parquet"), "own"), data.spec, 0.0, 1)
        np.testing.assert_allclose(tensors(own, own.client(0).train)[0].numpy(), flat / divisor, rtol=1e-6)


def test_training_and_test_set_are_scaled_alike() -> None:
    assert seen_of(npz(PIXELS * 256, x_test=PIXELS)).max() == np.float32(236 / 65535)
    with pytest.raises(Refused, match=r"x_train holds int64 .* and x_test float64 .*; they must be alike"):
        npz(PIXELS, x_test=PIXELS / 255)


def test_a_clients_file_is_scaled_as_the_servers_is() -> None:
    np.savez("server.npz", x=PIXELS * 256, y=[0, 1])
    np.savez("client.npz", x=PIXELS[:, None], y=[0, 1])
    data = load("own", "server.npz", "classes = 2")
    own = OwnData(read_own(Path("client.npz"), "client"), data.spec, 0.0, 1)
    np.testing.assert_allclose(
        tensors(own, own.client(0).train)[0].numpy(), PIXELS[:, None] / 65535, rtol=1e-6
    )


@pytest.mark.parametrize("source", ["npz", "parquet"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_are_found_on_either_side(source: str, channels: int) -> None:
    first = np.arange(2 * channels * 6 * 5, dtype=np.uint8).reshape(2, channels, 6, 5)
    last = np.stack([np.stack(list(image), axis=-1) for image in first])
    for x in (first, last):
        if source == "parquet":
            for name in ("train", "test"):
                folder({"x": x.tolist(), "label": [0, 1]}, name)
        data = npz(x) if source == "npz" else hub()
        assert data.spec.shape == (channels, 6, 5)
        np.testing.assert_allclose(seen_of(data), first / 255, rtol=1e-6)


def test_channels_that_may_be_on_either_side_are_refused_but_with_a_layout() -> None:
    for shape in ((2, 3, 5, 3), (2, 13, 8, 8), (2, 8, 8, 13)):
        x = np.arange(np.prod(shape)).reshape(shape) / 7
        with pytest.raises(
            Refused, match=r"x_train: has shape .* data\.layout must say it: 'channels-first' or"
        ):
            npz(x)
        assert npz(x, "layout = 'channels-first'").spec.shape == shape[1:]
        data = npz(x, "layout = 'channels-last'")
        assert data.spec.shape == (shape[3], *shape[1:3])
        np.testing.assert_allclose(seen_of(data)[1, 2, 1, 0], x[1, 1, 0, 2], rtol=1e-6)


def test_the_runs_shape_says_where_a_clients_channels_are() -> None:
    x = np.arange(2 * 8 * 9 * 13).reshape(2, 8, 9, 13) / 7
    np.savez("server.npz", x=x, y=[0, 1])
    np.savez("last.npz", x=x, y=[0, 1])
    np.savez("first.npz", x=x.transpose(0, 3, 1, 2), y=[0, 1])
    data = load("own", "server.npz", "classes = 2\nlayout = 'channels-last'")
    for name in ("first.npz", "last.npz"):
        own = OwnData(read_own(Path(name), name), data.spec, 0.0, 1)
        assert np.array_equal(own.client(0).train.x, data.test.x)


def images(pictures: list[Image.Image], name: str = "train") -> None:
    """Write a split with these images, as they would be saved as PNG, or TIFF where there is no such PNG."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": pictures, "label": [i % 2 for i in range(len(pictures))]}
    Path("d").mkdir(exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(f"d/{name}.parquet")


COLOURS = [(200, 10, 30), (0, 250, 90), (7, 7, 255)]


def palette() -> Image.Image:
    """Return a row of three pixels with the colours, by their indices."""
    image = Image.fromarray(np.array([[2, 0, 1]], np.uint8), "P")
    image.putpalette([part for colour in COLOURS for part in colour])
    return image


def test_images_are_read_by_their_mode() -> None:
    rgb = np.array([[COLOURS[2], COLOURS[0], COLOURS[1]]], np.uint8)
    grey = np.array([[0, 128, 255]], np.uint8)
    cases: list[tuple[list[Image.Image], list[np.ndarray]]] = [
        ([palette()], [rgb.transpose(2, 0, 1) / 255]),
        (
            [Image.fromarray(rgb), Image.fromarray(grey)],
            [rgb.transpose(2, 0, 1) / 255, np.stack([grey] * 3) / 255],
        ),
        ([Image.fromarray(grey.astype(np.uint16) * 257)], [grey[None] / 255]),
        ([Image.fromarray(grey > 99)], [grey[None] > 99]),
        ([Image.fromarray(np.stack([grey, grey], -1), "LA")], [np.stack([grey, grey]) / 255]),
        (
            [Image.fromarray(np.dstack([rgb, grey]), "RGBA")],
            [np.dstack([rgb, grey]).transpose(2, 0, 1) / 255],
        ),
        (
            [Image.fromarray(255 - np.dstack([rgb, rgb[..., :1] | 255]), "CMYK")],
            [rgb.transpose(2, 0, 1) / 255],
        ),
    ]
    for pictures, expected in cases:
        images(pictures)
        images(pictures, "test")
        np.testing.assert_allclose(seen_of(hub(model="linear")), expected, rtol=1e-6)
    images([Image.fromarray(grey)], "test")
    images([Image.fromarray(grey), Image.fromarray(grey.astype(np.uint16) * 257)])
    with pytest.raises(Refused, match="holds images of the modes I;16, L; one bit depth is needed"):
        hub()


def test_the_command_tells_the_rule_and_the_range() -> None:
    npz(PIXELS)
    Path("e.toml").write_text(toml("npz", "d.npz"))
    shown = CliRunner().invoke(app, ["data", "e.toml"])
    assert "inputs int64 from 0 to 236, divided by 255" in shown.stdout
    tree = json.loads(CliRunner().invoke(app, ["data", "e.toml", "--json"]).stdout)
    assert tree["inputs"] == "int64 from 0 to 236, divided by 255"


ROW = [[0.5, 1.0], [1.5, 2.0], [2.5, 3.0]]


@pytest.mark.parametrize(
    ("train", "test", "saying"),
    [
        ({}, {"label": [0.7, 1.0, 0.0]}, "the labels of split 'test': holds fractions"),
        ({}, {"label": [None, 1, 0]}, "the labels of split 'test': holds missing values"),
        ({"label": [None, 1, 0]}, {}, "the labels of split 'train': holds missing values"),
        ({"label": ["a", None, "b"]}, {}, "the labels of split 'train': holds missing values"),
        ({"label": ["a", "b", "a"]}, {}, "the labels of split 'train': has dtype <U1"),
        (
            {"label": [[0, 1], [1, 0], [1, 1]]},
            {},
            r"the labels of split 'train': has shape \(3, 2\); one label an",
        ),
        ({"label": [[0, 1], [1], [1, 1]]}, {}, "the labels of split 'train': holds lists of several shapes"),
        ({}, {"label": [0, -1, 1]}, "the labels of split 'test': holds the label -1"),
        (
            {"label": [0, 2_000_000_000, 1]},
            {},
            "holds the label 2000000000; labels below 1,000,000 are needed",
        ),
        ({"x": [[0.5, None], [1.0, 2.0], [2.0, 3.0]]}, {}, "split 'train': column 'x': holds missing values"),
        ({}, {"x": [[0.5, float("nan")], [1.0, 2.0], [2.0, 3.0]]}, "split 'test': column 'x': holds NaN"),
        ({}, {"x": [None, [1.0, 2.0], [2.0, 3.0]]}, "split 'test': column 'x': holds missing values"),
        (
            {},
            {"x": [[1.0, 2.0, 3.0]] * 3},
            r"column 'x' holds float64 \(2,\) and split 'test': .*\(3,\); they must",
        ),
        ({}, {"x": ["a", "b", "c"]}, "split 'test': column 'x': has dtype <U1"),
        ({"who": ["u", None, "v"]}, {}, "column 'who' names no user for 1 of 3 examples; each needs one"),
        (
            {"who": [1.0, float("nan"), 2.0]},
            {},
            "column 'who' names no user for 1 of 3 examples; each needs one",
        ),
    ],
)
def test_both_splits_are_checked(train: dict[str, Any], test: dict[str, Any], saying: str) -> None:
    good = {"x": ROW, "label": [0, 1, 0], "who": ["u", "v", "v"]}
    folder(good | train)
    folder(good | test, "test")
    with pytest.raises(Refused, match=saying) as refused:
        hub("client = 'who'\ninput = 'x'")
    assert "\n" not in str(refused.value)


def test_a_column_that_the_test_split_lacks_is_named() -> None:
    folder({"x": ROW, "label": [0, 1, 0]})
    folder({"x": ROW, "labels": [0, 1, 0]}, "test")
    with pytest.raises(Refused, match="split 'test' has no column 'label', which the training split has"):
        hub()


def test_test_labels_are_those_of_the_file() -> None:
    folder({"x": ROW, "label": ["b", "c", "b"]})
    folder({"x": ROW, "label": ["c", "a", "b"]}, "test")
    assert hub().test.y.tolist() == [2, 0, 1]  # type: ignore[union-attr]


def test_missing_values_in_a_clients_lists_are_named() -> None:
    for x, saying in (([[1.0, None], [1.0, 2.0]], "missing values"), ([["a"], ["b"]], "has dtype <U1")):
        pl.DataFrame({"x": x, "label": [0, 1]}).write_parquet("own.parquet")
        with pytest.raises(Refused, match=saying):
            read_own(Path("own.parquet"), "own")


def test_a_file_where_a_folder_is_needed_is_no_missing_data_set() -> None:
    Path("d.csv").write_text("x,label\n1,0\n")
    with pytest.raises(Refused, match=r"d\.csv': is a file; needed is a folder with train\.parquet"):
        load("huggingface", "d.csv")


def test_arrays_without_axes_are_refused() -> None:
    with pytest.raises(Refused, match=r"x_train has shape \(\)"):
        npz(np.float32(3.0))  # type: ignore[arg-type]
    np.savez("own.npz", x=np.float32(3.0), y=np.zeros(1, int))
    for targets in (Targets.LABELS, Targets.VALUES):
        with pytest.raises(Refused, match=r"inputs of shape \(\)"):
            read_own(Path("own.npz"), "own", targets)


@pytest.mark.parametrize("shards", [2, 5])
def test_more_shards_than_examples_are_refused_with_the_most(shards: int) -> None:
    np.savez("d.npz", x_train=ROW * 3, y_train=[0, 1, 2] * 3, x_test=ROW, y_test=[0, 1, 2])
    text = (
        toml("npz", "d.npz", f"shards-per-client = {shards}")
        .replace("'iid'", "'shard'")
        .replace("= 1\np", "= 5\np")
    )
    with pytest.raises(Refused, match=f"data.shards-per-client = {shards}: must be at most 1"):
        prepare(Experiment.from_toml(text))


def leaf(texts: dict[str, list[str]], length: int = 80) -> dict[str, Any]:
    """Return users' lines as LEAF writes them: each behind blanks, a window before every character."""
    data: dict[str, Any] = {}
    for user, lines in texts.items():
        data[user] = {"x": [], "y": []}
        for line in lines:
            padded = " " * length + line
            for i in range(len(line)):
                data[user]["x"].append(padded[i : i + length])
                data[user]["y"].append(padded[i + length])
    return {"users": list(texts), "num_samples": [len(d["y"]) for d in data.values()], "user_data": data}


TEXTS = {f"u{i}": [f"Enter the {i}th.\n", "To be, or not to be\n"] for i in range(4)}


def read_text(tree: Any) -> FederatedData:
    Path("t.json").write_text(json.dumps(tree))
    text = "[data]\nsource = 'text-json'\npath = 't.json'\npartition = 'natural'\nmin-characters = 5\nsequence-length = 30"
    return prepare(Experiment.from_toml(text + "\n[model]\nname = 'lstm'\n[server]\ncohort = 1"))


def test_leafs_windows_are_read_as_the_text_that_they_were_cut_from() -> None:
    data = read_text(leaf(TEXTS))
    for client, user in enumerate(data.names):
        (example,) = data.client(client).train.x
        assert "".join(CHARACTERS[token - 1] for token in example) == "".join(TEXTS[user])[:31]
    plain = read_text({user: ["".join(lines)] for user, lines in TEXTS.items()})
    assert plain.sha256 == data.sha256


def test_leafs_windows_that_are_no_text_are_refused() -> None:
    tree = leaf(TEXTS)
    order = np.random.default_rng(0).permutation(len(tree["user_data"]["u1"]["y"]))
    for key in "xy":
        tree["user_data"]["u1"][key] = [tree["user_data"]["u1"][key][i] for i in order]
    with pytest.raises(Refused, match="user 'u1': its windows don't follow one another"):
        read_text(tree)
    for bad in ({"x": [[1, 2]], "y": [3]}, {"x": ["a good film"], "y": [1]}, {"x": ["ab"], "y": ["c", "d"]}):
        with pytest.raises(
            Refused, match="user 'u2': needed are windows of text in x, and in y the character"
        ):
            read_text(leaf(TEXTS) | {"user_data": leaf(TEXTS)["user_data"] | {"u2": bad}})
