"""Which runs a client takes part in: those of fedsim itself, of the client's own version and code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import UserConfig
from flwr.common.config import get_fused_config_from_fab
from flwr.supercore.run import Run

from fedsim.deployment.bundle import check_bundle, installed_code
from fedsim.experiment import Experiment


@dataclass(frozen=True)
class Admitted:
    """A run that a client takes part in.

    Attributes:
        series: What it has in common with the runs that go on with it.
        name: What it is called.
        run_config: What its apps are told.
        experiment: What they are to do.
    """

    series: int
    name: str
    run_config: UserConfig
    experiment: Experiment

    @property
    def is_private(self) -> bool:
        """Whether a client's data are to stay unknown, so that no error may tell of them."""
        privacy = self.experiment.privacy
        return privacy.releases or privacy.secagg is not None

    @property
    def once_a_round(self) -> bool:
        """Whether a second update of a round would be another release, which no ledger has."""
        privacy = self.experiment.privacy
        return privacy.noise == "os" and privacy.secagg is None


def admit(run: Run, fab: bytes, only: Sequence[Experiment]) -> Admitted:
    """Return a run that a client may take part in.

    Args:
        run: What the server says of it.
        fab: Its bundle.
        only: The experiments that the client takes part in; empty: in all that hold no code of their own.

    Raises:
        ValueError: The client refuses it; says why.
    """
    try:
        check_bundle(fab)
    except ValueError as error:
        raise ValueError(f"its bundle is not one of fedsim's: {error}") from None
    config = get_fused_config_from_fab(fab, run)
    theirs, ours = str(config["code"]), installed_code()
    if theirs != ours:
        raise ValueError(f"it is of other code than this client's: {theirs[:12] or 'none'}, not {ours[:12]}")
    text = str(config["experiment"])
    if text.endswith(".toml") and "\n" not in text:
        raise ValueError(f"its experiment is the path {text!r}; TOML text is needed")
    experiment = Experiment.from_run_config(config)
    if only and not any(_same(experiment, one) for one in only):
        raise ValueError("its experiment is none of those that this client was started with (--only)")
    task = "" if experiment.task is None else experiment.task.name
    for key, name in (("model.name", experiment.model.name), ("task.name", task)):
        if ":" in name and not only:
            raise ValueError(
                f"{key} = {name!r} is a function of the caller's choice; "
                "a client calls it only if it was started with this experiment (--only)"
            )
    return Admitted(run.series_id, str(config["run-name"]) or str(run.run_id), config, experiment)


def _same(one: Experiment, other: Experiment) -> bool:
    """Say whether two experiments are the same but for where noise comes from, which deployment decides."""
    return _without_noise(one) == _without_noise(other)


def _without_noise(experiment: Experiment) -> Experiment:
    privacy = experiment.privacy.model_copy(update={"noise": "seeded"})
    return experiment.model_copy(update={"privacy": privacy})
