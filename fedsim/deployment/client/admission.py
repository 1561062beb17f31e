"""Which runs a client takes part in: those of fedsim's own apps, with the client's own version and code."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import UserConfig

from fedsim.deployment.bundle import check_bundle, installed_code
from fedsim.experiment import Experiment, own_code_in
from fedsim.flower.runs import Run, fused_run_config
from fedsim.overrides import apply_overrides


@dataclass(frozen=True)
class Admitted:
    """A run that a client takes part in."""

    series: int  # id of its series: a run and those that resume it
    name: str  # or its id if it has none
    run_config: UserConfig
    experiment: Experiment  # in its run config

    @property
    def is_private(self) -> bool:
        """Whether the clients' data are protected, so that no error message may reveal anything about them."""
        privacy = self.experiment.privacy
        return privacy.releases or privacy.secagg is not None

    @property
    def once_a_round(self) -> bool:
        """Whether a second update in a round would be a second release, which no ledger holds."""
        privacy = self.experiment.privacy
        return privacy.noise == "os" and privacy.secagg is None


def admit(run: Run, fab: bytes, only: Sequence[Experiment]) -> Admitted:
    """Return a run that a client may take part in; raises `ValueError`, which says why the client refuses it.

    The client takes part in the experiments of `only`; empty: in all that name no code of the operator's choice.
    """
    try:
        check_bundle(fab)
    except ValueError as error:
        raise ValueError(f"its bundle is not one of fedsim's: {error}") from None
    config = fused_run_config(run, fab)
    theirs, ours = str(config["code"]), installed_code()
    if theirs != ours:
        raise ValueError(f"its code differs from this client's: {theirs[:12] or 'none'}, not {ours[:12]}")
    text = str(config["experiment"])
    if text.endswith(".toml") and "\n" not in text:
        raise ValueError(f"its experiment is the path {text!r}; TOML text is needed")
    if not only:
        _check_code(config)
    experiment = Experiment.from_run_config(config)
    if only and _without_noise(experiment) not in map(_without_noise, only):
        raise ValueError("its experiment is none of those that this client was started with (--only)")
    return Admitted(run.series_id, str(config["run-name"]) or str(run.run_id), config, experiment)


def _check_code(config: UserConfig) -> None:
    """Refuse code of the caller's choice, before the experiment is validated, which may load some of it.

    Strategies and samplings run on the server alone. Raises `ValueError`.
    """
    try:
        tree = tomllib.loads(str(config["experiment"]))
    except tomllib.TOMLDecodeError:
        return  # it is no experiment, and refused as that
    apply_overrides(tree, shlex.split(str(config["set"])))
    for key, name in own_code_in(tree).items():
        if not key.startswith("server."):
            raise ValueError(
                f"{key} = {name!r} is a function of the caller's choice; "
                "a client calls it only if it was started with this experiment (--only)"
            )


def _without_noise(experiment: Experiment) -> Experiment:
    """Return an experiment without its `privacy.noise`, which a deployment sets."""
    privacy = experiment.privacy.model_copy(update={"noise": "seeded"})
    return experiment.model_copy(update={"privacy": privacy})
