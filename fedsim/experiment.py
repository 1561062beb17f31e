"""The experiment: one frozen description that says everything, from TOML or from Python.

The same experiment drives every engine. Anything that it can't mean (an unknown key, a wrong type, a value
out of range, a combination without an answer) is refused here, before anything runs.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import tomli_w
from pydantic import Field, ValidationError, model_validator

from fedsim.catalogue import STRATEGIES, TaskEntry, find_task
from fedsim.errors import Refused
from fedsim.options import Options
from fedsim.overrides import apply_overrides, resolve_path
from fedsim.privacy.dp_ftrl.settings import DpFtrlSettings
from fedsim.privacy.dp_sgd.settings import DpSgdSettings
from fedsim.privacy.events import Relation
from fedsim.privacy.secagg.settings import SecaggSettings
from fedsim.privacy.settings import Section
from fedsim.privacy.validation import at_path, invalid, one_line
from fedsim.privacy_sections import PrivacySection
from fedsim.sections import (
    ClientSection,
    DataSection,
    FaultsSection,
    ModelSection,
    RuntimeSection,
    ServerSection,
    TaskSection,
)


class Experiment(Section):
    """One experiment. Without arguments: the quickstart, digits by 50 Dirichlet clients.

    >>> Experiment(rounds=3).server.cohort
    10
    """

    name: str = Field(default="experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Names the run directory: letters, digits, dot, hyphen, underscore."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Every random draw of the experiment follows from it."""
    rounds: int = Field(default=30, ge=1)
    """Rounds of training, at most."""
    data: DataSection = Field(default_factory=DataSection)
    task: TaskSection | None = None
    model: ModelSection = Field(default_factory=ModelSection)
    client: ClientSection = Field(default_factory=ClientSection)
    server: ServerSection = Field(default_factory=ServerSection)
    privacy: PrivacySection = Field(default_factory=PrivacySection)
    faults: FaultsSection = Field(default_factory=FaultsSection)
    runtime: RuntimeSection = Field(default_factory=RuntimeSection)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        clients = self.data.clients
        if clients is not None and self.server.cohort > clients and not self.privacy.hides_clients:
            with at_path("server"):
                raise invalid("cohort", self.server.cohort, f"must be at most data.clients = {clients}")
        warmup = self.client.warmup_rounds
        if warmup is not None and warmup >= self.rounds:
            with at_path("client"):
                raise invalid("warmup-rounds", warmup, f"must be below rounds = {self.rounds}")
        evaluation = self.server.client_evaluation
        if evaluation != "none" and self.data.held_out == 0:
            with at_path("server"):
                raise invalid("client-evaluation", evaluation, "needs data.held-out above 0")
        if self.privacy.dp_sgd is not None:
            self._check_dp_sgd(self.privacy.dp_sgd)
        if self.privacy.central is not None:
            self._check_central("dp-fedavg" if self.privacy.dp_fedavg is not None else "dp-ftrl")
        if self.privacy.local_dp is not None:
            self._check_local_dp()
        self._check_separation(self.privacy.dp_ftrl)
        if self.privacy.secagg is not None:
            self._check_secagg(self.privacy.secagg)
        if self.data.source_entry.by_clients:
            self._check_own()
        return self

    def _check_own(self) -> None:
        """Refuse what needs to know how many examples clients have, where they bring them."""
        if self.privacy.dp_sgd is not None:
            with at_path("privacy"):
                raise invalid(
                    "dp-sgd",
                    "a table",
                    "is accounted for by each client's number of examples, which stays with clients that bring their "
                    f"own; allowed with data.source = {self.data.source!r}: client-level mechanisms",
                )
        secagg = self.privacy.secagg
        if secagg is not None and secagg.max_weight is None and self.server.weighting == "examples":
            with at_path("privacy"), at_path("secagg"):
                raise invalid(
                    "max-weight",
                    None,
                    "the most examples of a client must be agreed on, or server.weighting = 'uniform'",
                )

    def _check_central(self, name: str) -> None:
        """Refuse what a trusted server's noise can't stand beside."""
        self._need_sums_only(
            f"which moves its answer by more than any noise is made for; allowed with privacy.{name}"
        )
        if self.privacy.hides_clients:
            self._check_declared_rate()
        if self.privacy.secagg is not None:
            self._check_central_under_secagg(self.privacy.secagg)
        self._weigh_alike(
            "one client could weigh as much as all others, and the noise is made for equal weights; allowed with "
            f"privacy.{name}: uniform"
        )

    def _need_sums_only(self, why: str) -> None:
        """Refuse a strategy that needs each client's update; `why` ends with what comes before the allowed ones."""
        server = self.server
        if not server.strategy_entry.linear:
            linear = ", ".join(name for name, entry in STRATEGIES.items() if entry.linear)
            with at_path("server"):
                raise invalid("strategy", server.strategy, f"needs each client's update, {why}: {linear}")

    def _check_declared_rate(self) -> None:
        """Refuse cohorts whose law has the number of clients in it, where that is protected."""
        if self.privacy.secagg is not None:
            with at_path("privacy"):
                raise invalid(
                    "secagg",
                    "a table",
                    "has no theorem with privacy.dp-fedavg.relation = 'add-or-remove-one': a round without a sum tells "
                    "how many clients were drawn; allowed with it: no privacy.secagg, or relation = 'zero-out'",
                )
        if self.server.sampling != "poisson":
            with at_path("server"):
                raise invalid(
                    "sampling",
                    self.server.sampling,
                    "its law has the number of clients in it, which privacy.dp-fedavg.relation = 'add-or-remove-one' "
                    "protects; allowed with it: poisson",
                )

    def _check_central_under_secagg(self, secagg: SecaggSettings) -> None:
        """Refuse secret cohorts, and a range of coordinates that clipped updates don't fit.

        That a round had too few clients for a sum would say how many there were. A vector of L2 norm C may have all
        of it in one coordinate.
        """
        central, name = self.privacy.central, "dp-fedavg" if self.privacy.dp_fedavg is not None else "dp-ftrl"
        if central is not None and secagg.clip < central.clip:
            with at_path("privacy"), at_path("secagg"):
                raise invalid(
                    "clip",
                    secagg.clip,
                    f"must be at least privacy.{name}.clip = {central.clip}: an update of that norm may have it all in "
                    "one coordinate, which would be cut unnoticed",
                )
        why = (
            "with privacy.secagg a round fails where too few are drawn, and secret coins have no theorem then"
        )
        dp_ftrl = self.privacy.dp_ftrl
        if dp_ftrl is None and self.server.sampling != "fixed":
            with at_path("server"):
                raise invalid(
                    "sampling", self.server.sampling, f"{why}; allowed with privacy.dp-fedavg: fixed"
                )
        if dp_ftrl is not None and dp_ftrl.adversary == "released-models":
            with at_path("privacy"), at_path("dp-ftrl"):
                raise invalid("adversary", dp_ftrl.adversary, f"{why}; allowed: known-cohort")

    def _check_local_dp(self) -> None:
        """Refuse what clients that noise their own updates would say without noise."""
        server = self.server
        if server.strategy_entry.needs_initial_loss:
            with at_path("server"):
                raise invalid(
                    "strategy", server.strategy, "uses its clients' losses, which are sent without noise"
                )
        if self.privacy.noise == "os" and self.runtime.engine == "ray":
            with at_path("privacy"):
                raise invalid(
                    "noise",
                    "os",
                    "needs the clients' ledger on this machine; allowed: engine local, sequential",
                )
        self._weigh_alike(
            "clients would send their numbers of examples without noise; allowed with privacy.local-dp: uniform"
        )

    def _weigh_alike(self, why: str) -> None:
        """Have all clients weigh the same where nothing else was asked for; else refuse, and losses with real noise."""
        server = self.server
        with at_path("server"):
            if server.weighting == "examples" and "weighting" in server.model_fields_set:
                raise invalid("weighting", server.weighting, why)
            if self.privacy.noise == "os" and server.client_evaluation != "none":
                raise invalid(
                    "client-evaluation",
                    server.client_evaluation,
                    "asks for losses of clients, and privacy.noise = 'os' sends none; allowed: none",
                )
        if server.weighting != "uniform":
            object.__setattr__(self, "server", server.model_copy(update={"weighting": "uniform"}))

    def _check_separation(self, dp_ftrl: DpFtrlSettings | None) -> None:
        """Refuse cohorts that don't keep the separation that noise is made for, and a separation that nothing needs."""
        server, clients = self.server, self.data.clients
        if (dp_ftrl is not None) != (server.sampling == "b-min-sep"):
            why = (
                "is for privacy.dp-ftrl, whose min-separation it keeps; allowed: fixed, poisson, truncated-poisson"
                if dp_ftrl is None
                else "lets a client take part in rounds that are too close together for the noise; allowed with "
                "privacy.dp-ftrl: b-min-sep"
            )
            with at_path("server"):
                raise invalid("sampling", server.sampling, why)
        if dp_ftrl is not None and clients is not None and dp_ftrl.min_separation * server.cohort > clients:
            with at_path("privacy"), at_path("dp-ftrl"):
                raise invalid(
                    "min-separation",
                    dp_ftrl.min_separation,
                    f"{dp_ftrl.min_separation} groups of {server.cohort} clients need more than data.clients = {clients}",
                )

    def _check_dp_sgd(self, dp_sgd: DpSgdSettings) -> None:
        """Refuse what DP-SGD can't stand beside: each for want of a theorem."""
        server = self.server
        if server.strategy_entry.needs_initial_loss:
            with at_path("server"):
                raise invalid(
                    "strategy", server.strategy, "uses its clients' losses, which are sent without noise"
                )
        with at_path("privacy"), at_path("dp-sgd"):
            if dp_sgd.adversary == "released-models" and server.sampling != "poisson":
                raise invalid(
                    "adversary",
                    dp_sgd.adversary,
                    f"needs server.sampling = 'poisson', not {server.sampling!r}: without coins the cohort "
                    "hides nobody",
                )
            if dp_sgd.neighbours is Relation.ADD_OR_REMOVE_ONE:
                needs = {
                    "a public rate": dp_sgd.rate is not None,
                    "client.steps": self.client.steps is not None,
                    "server.weighting = 'uniform'": server.weighting == "uniform",
                }
                for need in (need for need, met in needs.items() if not met):
                    raise invalid(
                        "relation",
                        dp_sgd.relation,
                        f"needs {need}: else a record more changes what is public",
                    )
            if dp_sgd.rate is not None and self.client.steps is None:
                raise invalid("rate", dp_sgd.rate, "needs client.steps: epochs are counted by batch size")
        with at_path("privacy"):
            if self.privacy.noise == "os" and self.runtime.engine == "ray":
                raise invalid(
                    "noise",
                    "os",
                    "needs the clients' ledger on this machine; allowed: engine local, sequential",
                )
            if self.privacy.noise == "os" and dp_sgd.neighbours is Relation.ADD_OR_REMOVE_ONE:
                raise invalid(
                    "noise",
                    "os",
                    "clients send their number of records, which relation = 'add-or-remove-one' protects; allowed: "
                    "seeded, or relation = 'zero-out'",
                )
            if self.privacy.noise == "os" and server.client_evaluation != "none":
                raise invalid(
                    "noise", "os", "sends no losses of clients, and server.client-evaluation asks for them"
                )

    def _check_secagg(self, secagg: SecaggSettings) -> None:
        """Refuse what secure aggregation can't stand beside, and a cohort that no threshold protects."""
        server = self.server
        self._need_sums_only("and secure aggregation shows only their sum; allowed")
        with at_path("server"):
            if server.client_evaluation != "none":
                raise invalid(
                    "client-evaluation",
                    server.client_evaluation,
                    "clients would send their losses and numbers of examples in clear; allowed with secure "
                    "aggregation: none",
                )
        with at_path("privacy"), at_path("secagg"):
            if secagg.max_weight is not None and server.weighting == "uniform":
                raise invalid(
                    "max-weight", secagg.max_weight, "is for server.weighting = 'examples', not 'uniform'"
                )
        if server.sampling == "fixed":
            self._check_cohort_of_secagg()

    def _check_cohort_of_secagg(self) -> None:
        """Refuse a cohort for which there is no graph or no ring."""
        from fedsim.secagg.setup import policy_of  # loads cryptography, which few experiments need

        policy = policy_of(self, 1, np.ones(1, np.int64))
        try:
            if policy is not None:
                policy.spec(run="", round_=1, session="", clients=self.server.cohort, task="")
        except ValueError as error:
            with at_path("server"):
                raise invalid("cohort", self.server.cohort, f"for privacy.secagg: {error}") from None

    # --- task -------------------------------------------------------------------------------------------

    @property
    def task_entry(self) -> TaskEntry:
        """The task's entry in the catalogue: the one that `[task]` names, else the one that the source is made for."""
        if self.task is not None:
            return self.task.entry
        source = self.data.source_entry
        return find_task(source.task(self.data.pick(source)))

    @property
    def task_options(self) -> Options:
        """The task's options, typed."""
        entry = self.task_entry
        return entry.options() if self.task is None else self.task.pick(entry)

    # --- in ---------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
        """Read an experiment file.

        Args:
            path: A TOML file; relative paths in it start at its folder.
            overrides: `"section.key=value"`, each key once.

        Raises:
            Refused: The file is missing or malformed, or says something that can't be.
        """
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise Refused(f"experiment file {str(path)!r}: {reason}; a TOML file is needed") from None
        return cls.from_toml(text, overrides, folder=file.parent, origin=str(path))

    @classmethod
    def from_toml(
        cls,
        text: str,
        overrides: Iterable[str] = (),
        *,
        folder: str | Path = ".",
        origin: str = "experiment",
    ) -> Experiment:
        """Read an experiment from TOML text; `folder` is where relative paths start, `origin` names it in errors.

        Raises:
            Refused: The text is malformed, or says something that can't be.
        """
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise Refused(f"{origin}: not valid TOML: {error}") from None
        if "sweep" in tree:
            raise Refused(f"{origin}: is a sweep file, with a table [sweep]; fedsim sweep {origin} plays it")
        apply_overrides(tree, overrides)
        resolve_path(tree, Path(folder))
        return cls.from_dict(tree)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Experiment:
        """Build an experiment from nested dictionaries with TOML's keys.

        Raises:
            Refused: It says something that can't be.
        """
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise Refused(one_line(error, cls)) from None

    @classmethod
    def from_run_config(cls, config: Mapping[str, Any]) -> Experiment:
        """Read the experiment that travels in Flower's run config.

        `experiment` is TOML text or a file's path (a text of one line that ends in .toml), `set` holds
        overrides, separated by spaces as in a shell.
        """
        text = str(config.get("experiment", ""))
        overrides = shlex.split(str(config.get("set", "")))
        if "\n" not in text and text.endswith(".toml"):
            return cls.load(text, overrides)
        return cls.from_toml(text, overrides)

    # --- out --------------------------------------------------------------------------------------------

    def to_toml(self) -> str:
        """Return the experiment as TOML, every default included; unset options are left out."""
        return tomli_w.dumps(without_unset(self.model_dump(by_alias=True)))

    def to_run_config(self) -> dict[str, str]:
        """Return the experiment as Flower's run config carries it."""
        return {"experiment": self.to_toml(), "set": ""}


def without_unset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what is None, which TOML can't say."""
    return {
        key: without_unset(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if value is not None
    }
