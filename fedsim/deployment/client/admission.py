"""Which runs a client takes part in: those of fedsim's own apps, with the client's own version and code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import UserConfig

from fedsim.catalogue import option_keys
from fedsim.deployment.admission import admitted_experiment
from fedsim.deployment.bundle import check_bundle, installed_code
from fedsim.experiment import Experiment
from fedsim.flower.runs import Run, fused_run_config


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
    def reads_files(self) -> bool:
        """Whether the data are in files, so that no error message may reveal what is on this machine's disk."""
        return "path" in option_keys(self.experiment.data.source_entry) or bool(self.experiment.own_code)

    @property
    def once_a_round(self) -> bool:
        """Whether a second update in a round would be a second release, which no ledger holds."""
        privacy = self.experiment.privacy
        return privacy.noise == "os" and privacy.secagg is None


def admit(run: Run, fab: bytes, only: Sequence[Experiment]) -> Admitted:
    """Return a run that a client may take part in; raises `ValueError`, which says why the client refuses it.

    The client takes part in the experiments of `only`; empty: in all that name no code and no data of the operator's choice.
    """
    try:
        check_bundle(fab)
    except ValueError as error:
        raise ValueError(f"its bundle is not one of fedsim's: {error}") from None
    config = fused_run_config(run, fab)
    theirs, ours = str(config["code"]), installed_code()
    if theirs != ours:
        raise ValueError(f"its code differs from this client's: {theirs[:12] or 'none'}, not {ours[:12]}")
    experiment = admitted_experiment(config, only, "client")
    return Admitted(run.series_id, str(config["run-name"]) or str(run.run_id), config, experiment)
