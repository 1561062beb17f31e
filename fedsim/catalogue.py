"""What there is to choose from: sources, partitions, tasks, models, strategies, optimizers, schedules, mechanisms, by name.

An entry holds a reference (`"module:attribute"`), the options that go with the name, and the traits that
the rest of fedsim asks about. Listing and validating need this module alone: nothing heavy is loaded, and
nothing that fedsim must not import, until an entry is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from fedsim import options as o
from fedsim.errors import Refused
from fedsim.privacy.settings import kebab
from fedsim.references import load_reference


class Kind(StrEnum):
    """What one example is."""

    IMAGE = "image"  # (channels, height, width), uint8 or float32
    FEATURES = "features"  # (features,), float32
    TEXT = "text"  # (length,), integer tokens


class Targets(StrEnum):
    """What the targets of examples are."""

    LABELS = "labels"  # int64 from 0, one an input
    TOKENS = "tokens"  # of a text: the input itself, one position on
    VALUES = "values"  # float32, one or more an input


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing to choose: its name, where it is, what it is and what it takes."""

    name: str
    reference: str
    summary: str
    options: type[o.Options] = o.Options
    beside: frozenset[str] = frozenset()  # keys of the name's own table that only some of the names use

    def load(self) -> Any:
        """Import and return what the entry refers to."""
        return load_reference(self.reference)


@dataclass(frozen=True, kw_only=True)
class SourceEntry(Entry):
    """A source of data: `reference` is a function `(options, generator, targets) -> fedsim.data.raw.Raw`.

    `targets` says what the task wants; `task` maps the options to the task of an experiment that names none.
    """

    task: Callable[[Any], str] = lambda options: "classification"
    has_users: bool = False  # examples belong to users, so the natural partitions are possible
    by_clients: bool = False  # clients bring their own examples: there is nothing to deal, nor to simulate


@dataclass(frozen=True, kw_only=True)
class PartitionEntry(Entry):
    """A way to deal examples to clients: `reference` is a function of `fedsim.data.partitions`."""

    by_label: bool = False  # looks at the labels: not for next-character text and real-valued targets
    by_user: bool = False  # looks at the users: only for a source that has them


@dataclass(frozen=True, kw_only=True)
class TaskEntry(Entry):
    """A task: `reference` is a class `(data, options)` with what `fedsim.tasks.Task` says."""

    def targets(self) -> Targets:
        """Import the task, and return what it wants as targets; raises `Refused` where it doesn't say."""
        found = getattr(self.load(), "targets", None)
        if found not in set(Targets):
            raise Refused(
                f"task.name = {self.name!r}: has no attribute targets; allowed: {', '.join(Targets)}"
            )
        return Targets(found)


@dataclass(frozen=True, kw_only=True)
class ModelEntry(Entry):
    """A model: `reference` is a function `(task, options) -> torch.nn.Module`."""

    draws: bool = False  # random numbers while it trains, as dropout does
    kinds: frozenset[Kind] = frozenset(Kind)


@dataclass(frozen=True, kw_only=True)
class StrategyEntry(Entry):
    """A Flower strategy, and what it asks of a round.

    `smallest_cohort` maps the options to the number of updates below which the strategy has no answer. `state`
    names the attributes that it carries from one round to the next (None, arrays, or a list, dict or
    `ArrayRecord` of arrays); None: it is not known, so the strategy must have `state_dict` and `load_state_dict`.
    """

    linear: bool = False  # needs only the weighted mean, so the fold serves it
    needs_initial_loss: bool = False  # clients report the loss of the model that they received
    smallest_cohort: Callable[[Any], int] = lambda options: 1
    state: tuple[str, ...] | None = ()


@dataclass(frozen=True, kw_only=True)
class MechanismEntry(Entry):
    """A privacy mechanism: `reference` is a `fedsim.privacy.mechanism.Mechanism`, which knows its settings.

    `budget` is its `fedsim.privacy.budget.Budget`, for `fedsim budget`; empty: it has none.
    """

    budget: str = ""


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry(Entry):
    """An optimizer: `reference` is a function `(parameters, lr, **arguments) -> fedsim.optimizers.Optimizer`.

    The arguments are the options, and the keys of `[client]` in `beside`.
    """

    draws: bool = False  # random numbers while it steps


@dataclass(frozen=True, kw_only=True)
class ScheduleEntry(Entry):
    """A schedule: `reference` is a function `(round, rounds, **arguments) -> float`, the factor on the learning rate.

    The arguments are the options, and the keys of `[client]` in `beside`.
    """


AnyEntry = TypeVar("AnyEntry", bound=Entry)


def table(*entries: AnyEntry) -> dict[str, AnyEntry]:
    """Return entries by name; raises `ValueError` where two have the same."""
    by_name = {entry.name: entry for entry in entries}
    if len(by_name) != len(entries):
        raise ValueError("a name is in the catalogue twice")
    return by_name


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
        summary="what clients in processes of their own bring; the file (.npz, .parquet, .txt) is the test set",
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

TASKS = table(
    TaskEntry(
        name="classification",
        reference="fedsim.tasks.classification:Classification",
        summary="a label for each input: cross-entropy; accuracy",
    ),
    TaskEntry(
        name="next-character",
        reference="fedsim.tasks.next_character:NextCharacter",
        summary="the character that follows each position of a text: cross-entropy; accuracy",
    ),
    TaskEntry(
        name="regression",
        reference="fedsim.tasks.regression:Regression",
        summary="real-valued targets: mean squared error or Huber's loss; RMSE, MAE, R2",
        options=o.RegressionOptions,
    ),
)

MODELS = table(
    ModelEntry(
        name="linear",
        reference="fedsim.models.dense:linear",
        summary="one linear layer: multinomial logistic regression, or linear regression",
        kinds=frozenset({Kind.IMAGE, Kind.FEATURES}),
    ),
    ModelEntry(
        name="mlp",
        reference="fedsim.models.dense:mlp",
        summary="fully connected layers with ReLU; by default McMahan's 2NN",
        options=o.MlpOptions,
        kinds=frozenset({Kind.IMAGE, Kind.FEATURES}),
    ),
    ModelEntry(
        name="cnn",
        reference="fedsim.models.cnn:cnn",
        summary="McMahan's CNN: two 5x5 convolutions with pooling, 512 hidden units",
        options=o.CnnOptions,
        kinds=frozenset({Kind.IMAGE}),
    ),
    ModelEntry(
        name="lstm",
        reference="fedsim.models.lstm:lstm",
        summary="character embedding and LSTM layers; predicts the next character or the text's label",
        options=o.LstmOptions,
        kinds=frozenset({Kind.TEXT}),
    ),
)

NO_MECHANISM = MechanismEntry(
    name="none", reference="fedsim.privacy.unprotected:Unprotected", summary="no noise, and no guarantee"
)

MECHANISMS = table(
    MechanismEntry(
        name="dp-sgd",
        reference="fedsim.privacy.dp_sgd.mechanism:DpSgdMechanism",
        summary="Example-level: DP-SGD in each client.",
        budget="fedsim.privacy.dp_sgd.budget:DpSgdBudget",
    ),
    MechanismEntry(
        name="dp-fedavg",
        reference="fedsim.privacy.dp_fedavg.mechanism:DpFedAvg",
        summary="Client-level: a trusted server adds noise.",
        budget="fedsim.privacy.dp_fedavg.budget:DpFedAvgBudget",
    ),
    MechanismEntry(
        name="dp-ftrl",
        reference="fedsim.privacy.dp_ftrl.mechanism:DpFtrl",
        summary="Client-level: a trusted server adds noise that is correlated over rounds.",
        budget="fedsim.privacy.dp_ftrl.budget:DpFtrlBudget",
    ),
    MechanismEntry(
        name="local-dp",
        reference="fedsim.privacy.local_dp.mechanism:LocalDp",
        summary="Client-level: each client adds noise, and trusts nobody.",
        budget="fedsim.privacy.local_dp.budget:LocalDpBudget",
    ),
)

BUDGETS = {entry.name: entry.budget for entry in MECHANISMS.values() if entry.budget} | {
    "secagg": "fedsim.privacy.secagg.budget:SecaggBudget"
}

OPTIMIZERS = table(
    OptimizerEntry(
        name="sgd",
        reference="fedsim.optimizers.sgd:Sgd",
        summary="SGD, with `client.momentum`; `client.weight-decay` is an L2 penalty",
        beside=frozenset({"momentum", "weight-decay"}),
    ),
    OptimizerEntry(
        name="adam",
        reference="fedsim.optimizers.adam:Adam",
        summary="Adam (Kingma and Ba 2015); `client.weight-decay` is an L2 penalty",
        options=o.AdamOptions,
        beside=frozenset({"weight-decay"}),
    ),
    OptimizerEntry(
        name="adamw",
        reference="fedsim.optimizers.adamw:AdamW",
        summary="Adam with `client.weight-decay` outside the moments (Loshchilov and Hutter 2019)",
        options=o.AdamOptions,
        beside=frozenset({"weight-decay"}),
    ),
)

SCHEDULES = table(
    ScheduleEntry(
        name="constant",
        reference="fedsim.schedules.constant:constant",
        summary="the same rate in all rounds",
    ),
    ScheduleEntry(
        name="exponential",
        reference="fedsim.schedules.exponential:exponential",
        summary="times `client.learning-rate-decay` after each round",
        beside=frozenset({"learning-rate-decay"}),
    ),
    ScheduleEntry(
        name="step",
        reference="fedsim.schedules.step:step",
        summary="times `gamma` after every so many rounds",
        options=o.StepOptions,
    ),
    ScheduleEntry(
        name="cosine",
        reference="fedsim.schedules.cosine:cosine",
        summary="along half a cosine over the run, down to `floor` (Loshchilov and Hutter 2017)",
        options=o.CosineOptions,
    ),
)

_FLOWER = "flwr.serverapp.strategy:"

STRATEGIES = table(
    StrategyEntry(
        name="fedavg",
        reference=_FLOWER + "FedAvg",
        summary="weighted mean of the clients' models (McMahan et al. 2017)",
        linear=True,
    ),
    StrategyEntry(
        name="fedavgm",
        reference=_FLOWER + "FedAvgM",
        summary="FedAvg with momentum on the server (Hsu et al. 2019)",
        options=o.FedAvgMOptions,
        linear=True,
        state=("current_arrays", "momentum_vector"),
    ),
    StrategyEntry(
        name="fedprox",
        reference=_FLOWER + "FedProx",
        summary="FedAvg with a proximal term in the clients (Li et al. 2020)",
        options=o.FedProxOptions,
        linear=True,
    ),
    StrategyEntry(
        name="fedadagrad",
        reference=_FLOWER + "FedAdagrad",
        summary="Adagrad on the server (Reddi et al. 2021)",
        options=o.FedAdagradOptions,
        linear=True,
        state=("m_t", "v_t"),
    ),
    StrategyEntry(
        name="fedadam",
        reference=_FLOWER + "FedAdam",
        summary="Adam on the server (Reddi et al. 2021)",
        options=o.FedAdamOptions,
        linear=True,
        state=("m_t", "v_t"),
    ),
    StrategyEntry(
        name="fedyogi",
        reference=_FLOWER + "FedYogi",
        summary="Yogi on the server (Reddi et al. 2021)",
        options=o.FedYogiOptions,
        linear=True,
        state=("m_t", "v_t"),
    ),
    StrategyEntry(
        name="fedmedian",
        reference=_FLOWER + "FedMedian",
        summary="median, coordinate by coordinate (Yin et al. 2018)",
    ),
    StrategyEntry(
        name="fedtrimmedavg",
        reference=_FLOWER + "FedTrimmedAvg",
        summary="trimmed mean, coordinate by coordinate (Yin et al. 2018)",
        options=o.FedTrimmedAvgOptions,
    ),
    StrategyEntry(
        name="krum",
        reference=_FLOWER + "Krum",
        summary="the update closest to its neighbours (Blanchard et al. 2017)",
        options=o.KrumOptions,
        smallest_cohort=lambda options: 2 * options.num_malicious_nodes + 3,
    ),
    StrategyEntry(
        name="multikrum",
        reference=_FLOWER + "MultiKrum",
        summary="mean of the updates closest to their neighbours (Blanchard et al. 2017)",
        options=o.MultiKrumOptions,
        smallest_cohort=lambda options: max(2 * options.num_malicious_nodes + 3, options.num_nodes_to_select),
    ),
    StrategyEntry(
        name="bulyan",
        reference=_FLOWER + "Bulyan",
        summary="Krum's choice, then a trimmed mean around the median (El Mhamdi et al. 2018)",
        options=o.BulyanOptions,
        smallest_cohort=lambda options: 4 * options.num_malicious_nodes + 3,
    ),
    StrategyEntry(
        name="qfedavg",
        reference=_FLOWER + "QFedAvg",
        summary="fairness: clients with a higher loss count more (Li et al. 2020)",
        options=o.QFedAvgOptions,
        needs_initial_loss=True,
    ),
)


def option_keys(entry: Entry) -> set[str]:
    """Return the keys of an entry's options, as TOML has them."""
    return {kebab(name) for name in entry.options.model_fields}


def find(entries: dict[str, AnyEntry], name: str, and_own: str = "") -> AnyEntry:
    """Return the entry of a name; raises `Refused` where there is none, naming all, and then `and_own`."""
    if name not in entries:
        raise Refused(f"there is no such name; allowed: {', '.join(entries)}{and_own}")
    return entries[name]


def find_source(name: str) -> SourceEntry:
    """Return the entry of a source; raises `Refused` where there is none."""
    return find(SOURCES, name)


def find_partition(name: str) -> PartitionEntry:
    """Return the entry of a partition; raises `Refused` where there is none."""
    return find(PARTITIONS, name)


def find_task(name: str) -> TaskEntry:
    """Return the entry of a task; `"module:callable"` is the user's own."""
    if ":" in name:
        return TaskEntry(name=name, reference=name, summary="", options=o.FreeOptions)
    return find(TASKS, name, ', or "module:callable"')


def find_model(name: str) -> ModelEntry:
    """Return the entry of a model; `"module:callable"` is the user's own, for any kind of data."""
    if ":" in name:
        return ModelEntry(name=name, reference=name, summary="", options=o.FreeOptions, draws=True)
    return find(MODELS, name, ', or "module:callable"')


def find_strategy(name: str) -> StrategyEntry:
    """Return the entry of a strategy; `"module:callable"` is the user's own and sees each update."""
    if ":" in name:
        return StrategyEntry(name=name, reference=name, summary="", options=o.FreeOptions, state=None)
    return find(STRATEGIES, name, ', or "module:callable"')


def find_optimizer(name: str) -> OptimizerEntry:
    """Return the entry of an optimizer; `"module:callable"` is the user's own; raises `Refused` where there is none."""
    if ":" in name:
        return OptimizerEntry(name=name, reference=name, summary="", options=o.FreeOptions, draws=True)
    return find(OPTIMIZERS, name, ', or "module:callable"')


def find_schedule(name: str) -> ScheduleEntry:
    """Return the entry of a schedule; `"module:callable"` is the user's own; raises `Refused` where there is none."""
    if ":" in name:
        return ScheduleEntry(name=name, reference=name, summary="", options=o.FreeOptions)
    return find(SCHEDULES, name, ', or "module:callable"')


def find_mechanism(name: str) -> MechanismEntry:
    """Return the entry of a privacy mechanism; `"module:Class"` is the user's own."""
    if ":" in name:
        return MechanismEntry(name=name, reference=name, summary="")
    return find(MECHANISMS, name, ', or "module:Class"')
