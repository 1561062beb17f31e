"""The options of the catalogue's entries.

A source's, a partition's and a model's options are directly in `[data]` and `[model]`; a strategy's in
`[server.options]`, an algorithm's in `[algorithm]`, a transform's in its `[[transforms]]`. Each field documents its
meaning, unit and range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from fedsim.privacy.settings import Section

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def snake(key: str) -> str:
    """Return the Python name of a TOML key: `learning-rate` is `learning_rate`."""
    return key.replace("-", "_")


def keywords(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return options by TOML keys as keyword arguments."""
    return {snake(key): value for key, value in (options or {}).items()}


class Options(Section):
    """No options."""


class FreeOptions(Options):
    """The options of a user's own object: any arguments of its callable."""

    model_config = ConfigDict(extra="allow")


def make_with(make: Callable[..., Any], first: Any, options: Options) -> Any:
    """Call what has these options: with them as one object, or as keyword arguments if it is a user's own."""
    if isinstance(options, FreeOptions):
        return make(first, **keywords(options.model_extra or {}))
    return make(first, options)


class DigitsOptions(Options):
    """Options of the source `digits`."""

    test_share: Share = 0.2
    """Share of the 1,797 images that makes the central test set."""


class DiabetesOptions(Options):
    """Options of the source `diabetes`."""

    test_share: Share = 0.2
    """Share of the 442 patients that makes the central test set."""


class TextOptions(Options):
    """Shared options of text sources."""

    sequence_length: int = Field(default=80, ge=2, le=4096)
    """Characters that the model reads in one example."""
    min_characters: int = Field(default=1000, ge=1)
    """A text with fewer characters is left out."""
    max_characters: int | None = Field(default=None, ge=1)
    """Characters used of each text, from its start; unset: all."""
    test_share: Share = 0.1
    """Share of the texts (modules, users) that makes the central test set."""


class PathOptions(Options):
    """Options of a source in a file."""

    path: str = Field(min_length=1)
    """The file; a relative path starts at the folder of the experiment file."""


class InputOptions(Options):
    """Shared options of sources of arrays and images."""

    layout: Literal["channels-first", "channels-last"] | None = None
    """Where images have their channels; unset: on the side that has 1 or 3 of them, else 2 or 4."""
    scale: Positive | None = None
    """What all inputs are divided by, 1 for nothing; unset: images of whole numbers, and uint8, by 255 or 65,535."""


class ArrayOptions(PathOptions, InputOptions):
    """Options of the source `npz`."""


class OwnOptions(PathOptions, InputOptions):
    """Options of the source `own`."""

    classes: int | None = Field(default=None, ge=2, le=1_000_000)
    """Number of labels of all clients; unset for text and for real-valued targets."""
    sequence_length: int = Field(default=80, ge=2, le=4096)
    """Characters that the model reads in one example of text."""


class TextJsonOptions(PathOptions, TextOptions):
    """Options of the source `text-json`."""


class HuggingFaceOptions(InputOptions):
    """Options of the source `huggingface`."""

    path: str = Field(min_length=1)
    """A data set's name on the Hugging Face hub, or a local folder of parquet files."""
    input: str | None = None
    """Column of the inputs; unset: the only column beside `label` and `client`."""
    label: str = "label"
    """Column of the labels, or of real-valued targets."""
    client: str | None = None
    """Column of each example's user, for the partition `natural`."""
    train_split: str = "train"
    """The split that is partitioned over the clients."""
    test_split: str = "test"
    """The split for the central test set; without one, `test-share` of the training split is used."""
    test_share: Share = 0.1
    """Share of the training split for the central test set, without a test split."""
    sequence_length: int = Field(default=128, ge=2, le=4096)
    """Characters read of a text: longer ones are cut, shorter ones padded."""


class SyntheticOptions(Options):
    """Options of the source `synthetic`."""

    model_spread: float = Field(default=1.0, ge=0)
    """The alpha of Li et al. 2020: variance of the clients' true models around each other."""
    input_spread: float = Field(default=1.0, ge=0)
    """The beta of Li et al. 2020: variance of the clients' mean inputs around each other."""
    users: int = Field(default=30, ge=1)
    """Number of users, each a natural client."""
    features: int = Field(default=60, ge=1)
    """Length of an input."""
    classes: int = Field(default=10, ge=2, le=1_000_000)
    """Number of labels."""
    iid: bool = False
    """Give every user the same true model and the same distribution of inputs."""
    test_share: Share = 0.2
    """Share of each user's examples that goes to the central test set."""


class DirichletOptions(Options):
    """Options of the partition `dirichlet`."""

    alpha: Positive = 0.5
    """Concentration: small gives each client few labels, large gives all the same mixture."""
    min_size: int = Field(default=1, ge=1)
    """Examples that every client must have; the draw is repeated up to ten times."""
    self_balancing: bool = False
    """Give nothing more to a client that already has more than the average."""


class InnerDirichletOptions(Options):
    """Options of the partition `inner-dirichlet`."""

    alpha: Positive = 0.5
    """Concentration of each client's mixture of labels."""
    sizes: list[Annotated[int, Field(ge=1)]] | None = None
    """Examples of each client, all examples together; unset: as equal as can be."""


class PathologicalOptions(Options):
    """Options of the partition `pathological`."""

    classes_per_client: int = Field(default=2, ge=1)
    """Labels that each client has."""
    assignment: Literal["random", "deterministic", "first-deterministic"] = "first-deterministic"
    """How labels go to clients; `first-deterministic` takes the first in turn, so that all are used."""


class ShardOptions(Options):
    """Options of the partition `shard`."""

    shards_per_client: int = Field(default=2, ge=1)
    """Runs of examples, sorted by label, that each client gets."""


class SizeOptions(Options):
    """Options of the partition `size`."""

    sizes: list[Annotated[int, Field(ge=1)]]
    """Examples of each client; together all examples."""


class GroupedNaturalOptions(Options):
    """Options of the partition `grouped-natural`."""

    group_size: int = Field(default=2, ge=1)
    """Users that together make one client; the last client may have fewer."""


class RegressionOptions(Options):
    """Options of the task `regression`."""

    loss: Literal["mse", "huber"] = "mse"
    """The loss: squared error, or Huber's loss, which grows linearly beyond `delta`."""
    delta: Positive = 1.0
    """Where Huber's loss turns from a parabola into lines, in units of `scale`."""
    offset: float = 0.0
    """Subtracted from each target before training: a public constant near the targets' mean."""
    scale: Positive = 1.0
    """Unit in which targets are trained: a public constant near their standard deviation. Metrics are in the targets'
    own unit."""


Units = Annotated[int, Field(ge=1, le=65536)]


class MlpOptions(Options):
    """Options of the model `mlp`."""

    hidden: list[Units] = Field(default_factory=lambda: [200, 200], min_length=1)
    """Units of each hidden layer; the default is McMahan's 2NN."""


class CnnOptions(Options):
    """Options of the model `cnn`."""

    width: Annotated[float, Field(gt=0, le=16)] = 1.0
    """Factor on the channels (32, 64), and on the 512 hidden units where `hidden` is unset."""
    hidden: Units | None = None
    """Hidden units; unset: 512 times `width`."""
    group_norm: bool = False
    """Normalise after each convolution over groups of channels (Wu and He 2018)."""


class LstmOptions(Options):
    """Options of the model `lstm`."""

    embedding: Units = 32
    """Length of a character's vector."""
    hidden: Units = 128
    """Units of each layer."""
    layers: int = Field(default=1, ge=1, le=16)
    """Layers of the stack."""


class FedAvgMOptions(Options):
    """Options of the strategy `fedavgm`."""

    server_learning_rate: Positive = 1.0
    """Step of the server along the mean update."""
    server_momentum: Fraction = 0.9
    """Share of the last step to keep."""


class FedProxOptions(Options):
    """Options of the strategy `fedprox`."""

    proximal_mu: float = Field(default=0.01, ge=0)
    """Pull of the proximal term mu/2 ||w - w_t||^2."""


class FedAdagradOptions(Options):
    """Options of the strategy `fedadagrad`."""

    eta: Positive = 0.1
    """Step of the server."""
    eta_l: Positive = 0.1
    """Recorded by Flower, not used: the clients' rate is `client.learning-rate`."""
    tau: Positive = 1e-3
    """Adaptivity: added to the root of the second moment."""


class FedAdamOptions(FedAdagradOptions):
    """Options of the strategy `fedadam`."""

    beta_1: Fraction = 0.9
    """Decay of the first moment."""
    beta_2: Fraction = 0.99
    """Decay of the second moment."""


class FedYogiOptions(FedAdamOptions):
    """Options of the strategy `fedyogi`."""

    eta: Positive = 0.01
    """Step of the server."""
    eta_l: Positive = 0.0316
    """Recorded by Flower, not used: the clients' rate is `client.learning-rate`."""


class FedTrimmedAvgOptions(Options):
    """Options of the strategy `fedtrimmedavg`."""

    beta: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    """Share of the values trimmed at each end, coordinate by coordinate."""


class KrumOptions(Options):
    """Options of the strategy `krum`."""

    num_malicious_nodes: int = Field(default=0, ge=0)
    """Byzantine clients f that a round must withstand; the cohort must be at least 2f + 3."""


class MultiKrumOptions(KrumOptions):
    """Options of the strategy `multikrum`."""

    num_nodes_to_select: int = Field(default=1, ge=1)
    """Updates that are averaged, at most the cohort."""


class BulyanOptions(Options):
    """Options of the strategy `bulyan`."""

    num_malicious_nodes: int = Field(default=0, ge=0)
    """Byzantine clients f that a round must withstand; the cohort must be at least 4f + 3."""


class QFedAvgOptions(Options):
    """Options of the strategy `qfedavg`."""

    q: float = Field(default=0.1, ge=0)
    """Fairness: 0 is a uniform mean; the larger, the more a client with a high loss counts."""


class BufferedOptions(Options):
    """Options of the schedule of rounds `buffered`."""

    concurrency: int | None = Field(default=None, ge=1)
    """Clients that train at any time; unset: twice the cohort, or all clients where there are fewer."""
    staleness_exponent: float = Field(default=0.5, ge=0)
    """An update on a model that is s versions old counts (1 + s) to the minus this."""


class ScaffoldOptions(Options):
    """Options of the algorithm `scaffold`."""

    control_scale: Positive = 1.0
    """What a unit of a control variate counts beside a unit of the model where both are clipped, noised or rounded as one
    vector; steps x learning-rate makes them weigh the same in a client's first round."""


class TopKOptions(Options):
    """Options of the transform `top-k`."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the coordinates that are kept, rounded up to a whole number of them."""


class QuantiseOptions(Options):
    """Options of the transform `quantise`."""

    levels: int = Field(default=256, ge=1, le=2**31)
    """Magnitudes above zero, equally spaced up to the update's L2 norm; the square root of the number of parameters keeps
    the error's norm below the update's."""


class AdamOptions(Options):
    """Options of the optimizers `adam` and `adamw`."""

    beta_1: Fraction = 0.9
    """Decay of the first moment."""
    beta_2: Fraction = 0.999
    """Decay of the second moment."""
    eps: Positive = 1e-8
    """Added to the root of the second moment."""


class StepOptions(Options):
    """Options of the schedule `step`."""

    every: int = Field(ge=1)
    """Rounds from one drop of the rate to the next."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor on the rate at each drop."""


class CosineOptions(Options):
    """Options of the schedule `cosine`."""

    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the learning rate that is left at the end."""
