"""Data sources, and partitions over clients."""

from __future__ import annotations

from fedsim import options as o
from fedsim.catalogue.entries import PartitionEntry, SourceEntry, find, table

SOURCES = table(
    SourceEntry(
        name="digits",
        reference="fedsim.data.sources.images:digits",
        summary="1,797 real handwritten digits, 8x8, bundled with scikit-learn",
        options=o.DigitsOptions,
    ),
    SourceEntry(
        name="diabetes",
        reference="fedsim.data.sources.diabetes:diabetes",
        summary="442 real patients, 10 features, disease progression a year on; bundled with scikit-learn",
        options=o.DiabetesOptions,
        task=lambda options: "regression",
    ),
    SourceEntry(
        name="stdlib",
        reference="fedsim.data.sources.text:stdlib",
        summary="the source of Python's standard library, one user per top-level module; next character",
        options=o.TextOptions,
        task=lambda options: "next-character",
        has_users=True,
    ),
    SourceEntry(
        name="npz",
        reference="fedsim.data.sources.images:npz",
        summary="a NumPy file with x_train, y_train, x_test, y_test",
        options=o.PathOptions,
    ),
    SourceEntry(
        name="own",
        reference="fedsim.data.sources.own:own",
        summary="client processes' own files; the experiment's file (.npz, .parquet, .txt) is the test set",
        options=o.OwnOptions,
        task=lambda options: "next-character" if options.path.endswith(".txt") else "classification",
        by_clients=True,
    ),
    SourceEntry(
        name="text-json",
        reference="fedsim.data.sources.text:text_json",
        summary='a JSON file {"user": ["text", ...]}; next character',
        options=o.TextJsonOptions,
        task=lambda options: "next-character",
        has_users=True,
    ),
    SourceEntry(
        name="huggingface",
        reference="fedsim.data.sources.hub:huggingface",
        summary="a data set of the Hugging Face hub, or a folder of parquet files",
        options=o.HuggingFaceOptions,
        has_users=True,
    ),
    SourceEntry(
        name="synthetic",
        reference="fedsim.data.sources.synthetic:synthetic",
        summary="the alpha-beta logistic data of Li et al. 2020",
        options=o.SyntheticOptions,
        has_users=True,
    ),
)


PARTITIONS = table(
    PartitionEntry(
        name="iid",
        reference="fedsim.data.partitions:iid",
        summary="equal shares, at random",
    ),
    PartitionEntry(
        name="dirichlet",
        reference="fedsim.data.partitions:dirichlet",
        summary="each label is dealt by a Dirichlet draw over the clients",
        options=o.DirichletOptions,
        by_label=True,
    ),
    PartitionEntry(
        name="inner-dirichlet",
        reference="fedsim.data.partitions:inner_dirichlet",
        summary="each client draws its own mixture of labels, sizes given",
        options=o.InnerDirichletOptions,
        by_label=True,
    ),
    PartitionEntry(
        name="pathological",
        reference="fedsim.data.partitions:pathological",
        summary="each client has a few labels",
        options=o.PathologicalOptions,
        by_label=True,
    ),
    PartitionEntry(
        name="shard",
        reference="fedsim.data.partitions:shard",
        summary="sorted by label, cut into shards, a few to each client (McMahan's non-IID)",
        options=o.ShardOptions,
        by_label=True,
    ),
    PartitionEntry(
        name="size",
        reference="fedsim.data.partitions:size",
        summary="at random, sizes given",
        options=o.SizeOptions,
    ),
    PartitionEntry(
        name="linear",
        reference="fedsim.data.partitions:linear",
        summary="at random, sizes that grow linearly",
    ),
    PartitionEntry(
        name="square",
        reference="fedsim.data.partitions:square",
        summary="at random, sizes that grow with the square",
    ),
    PartitionEntry(
        name="exponential",
        reference="fedsim.data.partitions:exponential",
        summary="at random, sizes that grow exponentially",
    ),
    PartitionEntry(
        name="natural",
        reference="fedsim.data.partitions:natural",
        summary="one user, one client; with `clients` set, that many users, drawn at random",
        by_user=True,
    ),
    PartitionEntry(
        name="grouped-natural",
        reference="fedsim.data.partitions:grouped_natural",
        summary="a few users together make one client",
        options=o.GroupedNaturalOptions,
        by_user=True,
    ),
)


def find_source(name: str) -> SourceEntry:
    """Return the entry of a source; `"module:callable"` is the user's own; raises `Refused` for an unknown name."""
    if ":" in name:
        return SourceEntry(name=name, reference=name, summary="", options=o.FreeOptions, has_users=True)
    return find(SOURCES, name, ', or "module:callable"')


def find_partition(name: str) -> PartitionEntry:
    """Return the entry of a partition; raises `Refused` for an unknown name."""
    return find(PARTITIONS, name)
