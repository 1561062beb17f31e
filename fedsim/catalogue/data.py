"""Data sources, and partitions over clients."""

from __future__ import annotations

from fedsim import options as o
from fedsim.catalogue.entries import PartitionEntry, SourceEntry, finder, table

SOURCES = table(
    SourceEntry(
        "digits",
        "fedsim.data.sources.bundled:digits",
        "1,797 real handwritten digits, 8x8, bundled with scikit-learn",
        options=o.DigitsOptions,
    ),
    SourceEntry(
        "diabetes",
        "fedsim.data.sources.bundled:diabetes",
        "442 real patients, 10 features, disease progression a year on; bundled with scikit-learn",
        options=o.DiabetesOptions,
        task=lambda options: "regression",
    ),
    SourceEntry(
        "stdlib",
        "fedsim.data.sources.text:stdlib",
        "the source of Python's standard library, one user per top-level module; next character",
        options=o.TextOptions,
        task=lambda options: "next-character",
        has_users=True,
    ),
    SourceEntry(
        "npz",
        "fedsim.data.sources.npz:npz",
        "a NumPy file with x_train, y_train, x_test, y_test",
        options=o.ArrayOptions,
    ),
    SourceEntry(
        "own",
        "fedsim.data.sources.own:own",
        "client processes' own files; the experiment's file (.npz, .parquet, .txt) is the test set",
        options=o.OwnOptions,
        task=lambda options: "next-character" if options.path.endswith(".txt") else "classification",
        by_clients=True,
    ),
    SourceEntry(
        "text-json",
        "fedsim.data.sources.text:text_json",
        'a JSON file {"user": ["text", ...]}; next character',
        options=o.TextJsonOptions,
        task=lambda options: "next-character",
        has_users=True,
    ),
    SourceEntry(
        "huggingface",
        "fedsim.data.sources.hub:huggingface",
        "a data set of the Hugging Face hub, or a folder of parquet files",
        options=o.HuggingFaceOptions,
        has_users=True,
    ),
    SourceEntry(
        "synthetic",
        "fedsim.data.sources.synthetic:synthetic",
        "the alpha-beta logistic data of Li et al. 2020",
        options=o.SyntheticOptions,
        has_users=True,
    ),
)
find_source = finder(SOURCES, has_users=True)

PARTITIONS = table(
    PartitionEntry("iid", "fedsim.data.partitions:iid", "equal shares, at random"),
    PartitionEntry(
        "dirichlet",
        "fedsim.data.partitions:dirichlet",
        "each label is dealt by a Dirichlet draw over the clients",
        options=o.DirichletOptions,
        by_label=True,
    ),
    PartitionEntry(
        "inner-dirichlet",
        "fedsim.data.partitions:inner_dirichlet",
        "each client draws its own mixture of labels, sizes given",
        options=o.InnerDirichletOptions,
        by_label=True,
    ),
    PartitionEntry(
        "pathological",
        "fedsim.data.partitions:pathological",
        "each client has a few labels",
        options=o.PathologicalOptions,
        by_label=True,
    ),
    PartitionEntry(
        "shard",
        "fedsim.data.partitions:shard",
        "sorted by label, cut into shards, a few to each client (McMahan's non-IID)",
        options=o.ShardOptions,
        by_label=True,
    ),
    PartitionEntry("size", "fedsim.data.partitions:size", "at random, sizes given", options=o.SizeOptions),
    PartitionEntry("linear", "fedsim.data.partitions:linear", "at random, sizes that grow linearly"),
    PartitionEntry("square", "fedsim.data.partitions:square", "at random, sizes that grow with the square"),
    PartitionEntry(
        "exponential", "fedsim.data.partitions:exponential", "at random, sizes that grow exponentially"
    ),
    PartitionEntry(
        "natural",
        "fedsim.data.partitions:natural",
        "one user, one client; with `clients` set, that many users, drawn at random",
        by_user=True,
    ),
    PartitionEntry(
        "grouped-natural",
        "fedsim.data.partitions:grouped_natural",
        "a few users together make one client",
        options=o.GroupedNaturalOptions,
        by_user=True,
    ),
)
find_partition = finder(PARTITIONS, "")  # none of a user's own
