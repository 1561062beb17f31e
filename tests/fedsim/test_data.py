import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedsim import Experiment
from fedsim.catalogue import Kind
from fedsim.cli import app
from fedsim.data import FederatedData, Raw, prepare
from fedsim.data.cache import BLOCK, BLOCKS
from fedsim.data.federated import _checked, _opened
from fedsim.data.partitions import partition
from fedsim.data.rows import Rows
from fedsim.data.tokens import CHARACTERS, VOCABULARY, tokens, windows
from fedsim.sections import DataSection
from tests.support.tasks import tensors

PARTITIONS = ["iid", "dirichlet", "inner-dirichlet", "pathological", "shard", "linear", "exponential", "natural", "grouped-natural"]  # fmt: skip


def raw(examples: int, generator: np.random.Generator) -> Raw:
    """Return examples whose input is their number."""
    labels = generator.integers(0, 5, examples)
    labels[:5] = range(5)
    return Raw(
        kind=Kind.FEATURES,
        x_train=np.arange(examples, dtype=np.float32)[:, None],
        y_train=labels,
        x_test=np.zeros((1, 1), np.float32),
        y_test=np.zeros(1, np.int64),
        user=np.arange(examples) % 6,
        users=tuple("abcdef"),
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PARTITIONS), st.integers(5, 7), st.integers(1000, 1200), st.integers(0, 2**32))
def test_every_example_belongs_to_exactly_one_client(
    name: str, clients: int, examples: int, seed: int
) -> None:
    source = raw(examples, np.random.default_rng(seed))
    by_user = name in ("natural", "grouped-natural")
    section = DataSection(source="synthetic", partition=name, clients=None if by_user else clients)
    dealt, names = partition(source, section, np.random.default_rng(seed))
    assert sorted(np.concatenate(dealt).tolist()) == list(range(examples))
    assert all(len(own) for own in dealt)
    assert len(dealt) == {"natural": 6, "grouped-natural": 3}.get(name, clients)
    assert len(names) == (len(dealt) if by_user else 0)
    again, _ = partition(source, section, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(dealt, again, strict=True))


def test_the_partitions_are_what_their_names_say() -> None:
    source = raw(6000, np.random.default_rng(0))

    def deal(name: str, clients: int = 5, **options: object) -> list[np.ndarray]:
        section = DataSection(source="synthetic", partition=name, clients=clients, **options)
        return partition(source, section, np.random.default_rng(1))[0]

    def labels(own: np.ndarray) -> int:
        assert source.y_train is not None
        return len(set(source.y_train[own]))

    assert [len(own) for own in deal("iid")] == [1200] * 5
    assert [len(own) for own in deal("linear", 3)] == [1000, 2000, 3000]
    assert [len(own) for own in deal("size", 2, sizes=[1, 5999])] == [1, 5999]
    assert {labels(own) for own in deal("pathological", **{"classes-per-client": 2})} == {2}
    assert max(labels(own) for own in deal("shard", **{"shards-per-client": 1})) <= 3
    assert min(labels(own) for own in deal("dirichlet", alpha=1000.0)) == 5
    spread = [np.std([len(own) for own in deal("dirichlet", alpha=a)]) for a in (0.1, 1000.0)]
    assert spread[0] > 5 * spread[1]


@pytest.mark.filterwarnings("ignore")  # flwr-datasets' and datasets' own
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Iid", (7,)),
        ("Dirichlet", (5, "label", 0.5)),
        ("InnerDirichlet", ([100, 200, 300], "label", 0.5)),
        ("Pathological", (6, "label", 2)),
        ("Shard", (7, "label", 2)),
        ("Size", ([1, 2, 597],)),
        ("Linear", (5,)),
        ("NaturalId", ("user",)),
        ("GroupedNaturalId", ("user", 4)),
    ],
)
def test_rows_are_dealt_as_a_data_set_is(name: str, arguments: tuple[object, ...]) -> None:
    import datasets
    import flwr_datasets.partitioner

    source = raw(600, np.random.default_rng(2))
    columns = {"label": source.y_train, "user": source.user}

    def dealt(data: datasets.Dataset) -> list[np.ndarray]:
        partitioner = getattr(flwr_datasets.partitioner, f"{name}Partitioner")(*arguments)
        partitioner.dataset = data
        parts = [partitioner.load_partition(i) for i in range(partitioner.num_partitions)]
        return [np.asarray(part if isinstance(part, np.ndarray) else part["row"]) for part in parts]

    ours = dealt(Rows.of(columns, np.arange(600)))
    theirs = dealt(datasets.Dataset.from_dict({"row": np.arange(600), **columns}))
    assert len(ours) == len(theirs) > 1
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    if name == "Iid":
        shares, _ = partition(
            source,
            DataSection(source="synthetic", partition="iid", clients=7),
            np.random.default_rng(0),
        )
        order = np.random.default_rng(0).permutation(600)
        for share, own in zip(shares, theirs, strict=True):
            assert sorted(share) == sorted(order[own])


def test_natural_clients_have_one_user_each_and_some_may_be_drawn() -> None:
    source = raw(60, np.random.default_rng(0))
    dealt, names = partition(
        source, DataSection(source="synthetic", partition="natural", clients=4), np.random.default_rng(0)
    )
    assert len(set(names)) == len(dealt) == 4
    for own, name in zip(dealt, names, strict=True):
        assert {"abcdef"[int(i) % 6] for i in own} == {name}


def test_a_client_is_a_view_of_one_map_that_processes_share() -> None:
    data = prepare(Experiment())
    client = data.client(3).train
    assert isinstance(data._train.x.base, mmap.mmap | np.memmap)
    assert np.shares_memory(client.x, data._train.x)
    assert sum(len(data.client(i).train) for i in range(data.clients)) == 1438
    assert len(data.test) == 359
    with pytest.raises(IndexError):
        data.client(50)
    with pytest.raises(IndexError):
        data.client(-1)


def test_opening_what_is_prepared_needs_no_partitioner(monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(Experiment(seed=5))
    _opened.cache_clear()
    monkeypatch.setattr("fedsim.data.partitions.partition", None)
    assert prepare(Experiment(seed=5)).sha256 == first.sha256


def test_a_file_that_changed_is_prepared_anew(tmp_path: Path) -> None:
    def written(value: float) -> FederatedData:
        x, y = np.full((8, 3), value), np.arange(8) % 2
        np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        (tmp_path / "data.npz").touch()
        text = f"[data]\nsource = 'npz'\npath = {str(tmp_path / 'data.npz')!r}\nclients = 2\npartition = 'iid'\n[server]\ncohort = 1"
        return prepare(Experiment.from_toml(text))

    assert written(1.0).client(0).train.x.max() == 1.0
    assert written(2.25).client(0).train.x.max() == 2.25


def test_held_out_examples_are_kept_apart() -> None:
    data = prepare(Experiment(data={"held-out": 0.25}))
    for client in range(data.clients):
        own = data.client(client)
        count = len(own.train) + len(own.held_out)
        assert len(own.held_out) == min(round(0.25 * count), count - 1)
        assert len(own.train) >= 1


def test_images_are_scaled_and_have_their_channels_first(tmp_path: Path) -> None:
    x = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[1, 0])
    text = "[data]\nsource = 'npz'\npath = 'd.npz'\nclients = 1\npartition = 'iid'\n[server]\ncohort = 1"
    data = prepare(Experiment.from_toml(text))
    assert data.spec.shape == (3, 4, 5)
    inputs, labels = tensors(data, data.test)
    np.testing.assert_allclose(inputs.numpy(), x.transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    assert labels.tolist() == [1, 0]


def test_tokens_and_windows_by_hand() -> None:
    assert VOCABULARY == len(CHARACTERS) + 1 == 98
    assert tokens("\t\n ~é").tolist() == [1, 2, 3, 97, 0]
    assert windows("abcdefgh", 3).tolist() == [tokens("abcd").tolist(), tokens("defg").tolist()]
    assert windows("abc", 3).shape == (0, 4)


@given(st.text(max_size=60), st.integers(1, 10))
def test_windows_predict_each_character_once(text: str, length: int) -> None:
    cut = windows(text, length)
    predicted = cut[:, 1:].ravel()
    assert np.array_equal(predicted, tokens(text)[1 : 1 + len(predicted)])
    assert len(text) - 1 - len(predicted) < length


@pytest.mark.parametrize("leaf", [False, True])
def test_text_json_by_user(tmp_path: Path, leaf: bool) -> None:
    texts = {f"user{i}": [f"{i}" * 30, "end"] for i in range(10)} | {"short": ["x"]}
    tree = {"users": list(texts), "user_data": {u: {"x": t} for u, t in texts.items()}} if leaf else texts
    (tmp_path / "t.json").write_text(json.dumps(tree))
    text = "[data]\nsource = 'text-json'\npath = 't.json'\npartition = 'natural'\nmin-characters = 20\nsequence-length = 8"
    data = prepare(Experiment.from_toml(text + "\n[model]\nname = 'lstm'\n[server]\ncohort = 1"))
    assert data.clients == 9  # a tenth of the ten long ones is the test set
    assert "short" not in data.names
    inputs, labels = tensors(data, data.client(0).train)
    assert inputs.shape == labels.shape == (4, 8)  # 30 + newline + 3 characters make 4 examples of 8
    assert np.array_equal(inputs[:, 1:], labels[:, :-1])


def test_the_standard_library_has_modules_that_everyone_knows() -> None:
    text = "[data]\nsource = 'stdlib'\npartition = 'natural'\nmax-characters = 2000\n[model]\nname = 'lstm'"
    data = prepare(Experiment.from_toml(text))
    assert data.clients > 100
    assert len({"argparse", "asyncio", "collections", "json", "typing"} & set(data.names)) >= 3
    assert data.spec.per_token


def test_synthetic_users_differ_as_they_are_told() -> None:
    def user_means(**options: object) -> float:
        section = {"source": "synthetic", "partition": "natural", "users": 20, **options}
        data = prepare(Experiment(data=section, model={"name": "linear"}))
        return float(np.std([data.client(i).train.x.mean() for i in range(20)]))

    assert user_means(iid=True) < 0.1
    assert user_means(**{"input-spread": 0.0}) < user_means(**{"input-spread": 4.0}) / 2


class TestHuggingFace:
    @staticmethod
    def write(folder: Path, split: str, **columns: list[object]) -> None:
        import pyarrow
        import pyarrow.parquet

        folder.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{split}.parquet")

    @staticmethod
    def load(folder: Path, data: str = "", model: str = "lstm") -> FederatedData:
        text = f"[data]\nsource = 'huggingface'\npath = {str(folder)!r}\nclients = 2\npartition = 'iid'\n{data}\n[model]\nname = '{model}'\n[server]\ncohort = 1"
        return prepare(Experiment.from_toml(text))

    def test_texts_with_labels(self, tmp_path: Path) -> None:
        texts, labels = ["good film", "bad film", "fine", "awful"], ["pos", "neg", "pos", "neg"]
        self.write(tmp_path / "d", "train", text=texts, label=labels)
        self.write(tmp_path / "d", "test", text=["good"], label=["pos"])
        data = self.load(tmp_path / "d", "sequence-length = 6")
        assert (data.spec.shape, data.spec.classes, data.spec.per_token) == ((6,), 2, False)
        inputs, chosen = tensors(data, data.test)
        assert inputs.tolist() == [[*tokens("good").tolist(), 0, 0]]
        assert chosen.tolist() == [1]

    def test_lists_of_numbers_by_user_without_a_test_split(self, tmp_path: Path) -> None:
        rows = {
            "x": [[float(i), 1.0] for i in range(20)],
            "label": [i % 3 for i in range(20)],
            "who": ["u", "v"] * 10,
        }
        self.write(tmp_path / "d", "train", **rows)
        folder = str(tmp_path / "d")
        text = f"[data]\nsource = 'huggingface'\npath = {folder!r}\npartition = 'natural'\nclient = 'who'\n[model]\nname = 'linear'\n[server]\ncohort = 1"
        data = prepare(Experiment.from_toml(text))
        assert set(data.names) == {"u", "v"}
        assert len(data.test) == 2
        assert data.spec.shape == (2,)

    def test_images(self, tmp_path: Path) -> None:
        import datasets
        from PIL import Image

        images = [Image.fromarray(np.full((5, 4), 10 * i, np.uint8)) for i in range(6)]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        table = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 3}, features=features)
        (tmp_path / "d").mkdir()
        table.to_parquet(tmp_path / "d" / "train.parquet")
        data = self.load(tmp_path / "d", model="cnn")
        assert data.spec.shape == (1, 5, 4)

    def test_what_is_wrong_is_named(self, tmp_path: Path) -> None:
        from fedsim import Refused

        self.write(tmp_path / "d", "train", a=[[1.0]], b=[[2.0]], label=[0])
        with pytest.raises(Refused, match=r"data\.input must say which column .* allowed: a, b"):
            self.load(tmp_path / "d")
        with pytest.raises(Refused, match="has no column 'c'; allowed: a, b, label"):
            self.load(tmp_path / "d", "input = 'c'")
        with pytest.raises(Refused, match="has no split 'training'; allowed: train"):
            self.load(tmp_path / "d", "train-split = 'training'")
        (tmp_path / "empty").mkdir()
        with pytest.raises(Refused, match=r"holds no \.parquet file"):
            self.load(tmp_path / "empty")
        with pytest.raises(Refused, match="neither a folder nor a data set that can be loaded"):
            self.load(tmp_path / "nowhere")


# --- the cache --------------------------------------------------------------------------------------------


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Path, FederatedData]]:
    """Prepare data in a cache of this test's own, each time as another process would: return its folder and it."""
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))

    def prepared(**options: bool) -> tuple[Path, FederatedData]:
        _opened.cache_clear()
        _checked.clear()
        data = prepare(
            Experiment(data={"source": "synthetic", "users": 5, "partition": "natural"}), **options
        )
        (folder,) = (tmp_path / "cache" / "data").iterdir()
        return folder, data

    return prepared


def flipped(file: Path, at: int, *, quietly: bool = False) -> None:
    """Change a byte of a file; quietly: as a disk does, without another time of change."""
    status, content = file.stat(), bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    if quietly:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("train_x.npy", how) for how in ("empty", "cut", "first", "middle", "last", "gone", "fifo")),
        *(("meta.json", how) for how in ("empty", "cut", "middle", "gone", "fifo")),
        *((f"{name}.npy", "middle") for name in ("train_y", "starts", "held_out", "test_x", "test_y")),
    ],
)
def test_a_damaged_cache_is_prepared_again(
    kept: Callable[..., tuple[Path, FederatedData]], name: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, data = kept()
    before, sha256 = (
        {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix == ".npy"},
        data.sha256,
    )
    size = (folder / name).stat().st_size
    match how:
        case "empty" | "cut":
            os.truncate(folder / name, 0 if how == "empty" else size - 1)
        case "gone" | "fifo":
            (folder / name).unlink()
            if how == "fifo":
                os.mkfifo(folder / name)
        case _:
            flipped(folder / name, {"first": 0, "middle": size // 2, "last": size - 1}[how])
    again, data = kept()
    assert (again, data.sha256) == (folder, sha256)
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix == ".npy"} == before
    assert "is damaged" in caplog.text
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_a_sound_cache_is_used_also_where_its_times_are_others(
    kept: Callable[..., tuple[Path, FederatedData]], caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = kept()
    inode = folder.stat().st_ino
    known = (folder / "train_x.npy").stat().st_mtime_ns
    os.utime(folder / "train_x.npy", ns=(0, 0))
    kept()
    assert (folder.stat().st_ino, caplog.text) == (inode, "")
    assert (folder / "train_x.npy").stat().st_mtime_ns == known  # it need not be hashed again
    kept(verify=True)
    assert (folder.stat().st_ino, caplog.text) == (inode, "")


def test_only_all_of_a_file_shows_a_bit_that_a_disk_has_turned(
    kept: Callable[..., tuple[Path, FederatedData]], caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = kept()
    file = folder / "train_x.npy"
    before = file.read_bytes()
    assert len(before) > 3 * BLOCK * BLOCKS
    flipped(file, BLOCK + 1, quietly=True)  # between two samples
    kept()
    assert caplog.text == ""
    kept(verify=True)
    assert "the hash of its arrays is another" in caplog.text
    assert file.read_bytes() == before


def test_the_command_line_verifies_the_cache(kept: Callable[..., tuple[Path, FederatedData]]) -> None:
    folder, _ = kept()
    file = folder / "train_x.npy"
    before = file.read_bytes()
    Path("a.toml").write_text(
        'rounds = 1\n[data]\nsource = "synthetic"\nusers = 5\npartition = "natural"\n[model]\nname = "linear"\n'
        '[server]\ncohort = 2\n[runtime]\nengine = "sequential"\n'
    )
    for option, sound in (([], False), (["--verify"], True)):
        flipped(file, BLOCK + 1, quietly=True)
        result = CliRunner().invoke(app, ["run", "a.toml", "--quiet", "--out", f"run{len(option)}", *option])
        assert result.exit_code == 0, result.output
        assert (file.read_bytes() == before) == sound
        file.write_bytes(before)
    result = CliRunner().invoke(app, ["resume", "run0", "--verify", "--on", "localhost:1"])
    assert (result.exit_code, "--verify: is for a simulation" in result.stderr) == (2, True)
