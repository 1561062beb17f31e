"""Which experiments a server or a client runs: what the operator sends must be on its own allow-list, or name nothing of it.

The allow-list are the experiments of `--only`. Without one, an experiment may name no code (`module:callable`), and no file or
data set of the hub, which this machine would load for the operator.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Sequence
from typing import Literal

from flwr.app import UserConfig

from fedsim.catalogue import option_keys
from fedsim.experiment import Experiment, own_code_in
from fedsim.overrides import apply_overrides

Who = Literal["client", "server"]
LONGEST = 200  # characters of a refused name


def admitted_experiment(config: UserConfig, only: Sequence[Experiment], who: Who) -> Experiment:
    """Return the experiment of a run config that this machine may run.

    Nothing that it names is imported, opened or looked for before it is admitted. Raises `ValueError`, which says why not.
    """
    text = str(config["experiment"])
    if text.endswith(".toml") and "\n" not in text:
        raise ValueError(f"its experiment is the path {text[:LONGEST]!r}; TOML text is needed")
    try:
        _check_code(config, only, who)
        experiment = Experiment.from_run_config(config)
    except RecursionError:
        raise ValueError("its experiment is nested too deeply") from None
    if not only:
        _check_data(experiment, who)
    elif without_noise(experiment) not in map(without_noise, only):
        raise ValueError(f"its experiment is none of those that this {who} was started with (--only)")
    return experiment


def _check_code(config: UserConfig, only: Sequence[Experiment], who: Who) -> None:
    """Refuse code that no experiment of `only` names, before the experiment is validated, which may load some of it.

    Strategies and samplings run on the server alone. Raises `ValueError`.
    """
    try:
        tree = tomllib.loads(str(config["experiment"]))
    except tomllib.TOMLDecodeError:
        return  # it is no experiment, and refused as that
    apply_overrides(tree, shlex.split(str(config["set"])))
    named = own_code_in(tree)
    code = {key: name for key, name in named.items() if who == "server" or not key.startswith("server.")}
    if any(code.items() <= experiment.own_code.items() for experiment in only):
        return
    for key, name in code.items():
        raise ValueError(
            f"{key} = {name[:LONGEST]!r} is a function of the caller's choice; "
            f"a {who} calls it only if it was started with this experiment (--only)"
        )


def _check_data(experiment: Experiment, who: Who) -> None:
    """Refuse a file or a data set of the hub of the operator's choice; raises `ValueError`.

    Where clients bring their own data, the file is the server's test set, which no client reads.
    """
    source = experiment.data.source_entry
    if "path" in option_keys(source) and not (who == "client" and source.by_clients):
        path = str((experiment.data.model_extra or {})["path"])
        raise ValueError(
            f"data.path = {path[:LONGEST]!r} is of the caller's choice; "
            f"a {who} reads it only if it was started with this experiment (--only)"
        )


def without_noise(experiment: Experiment) -> Experiment:
    """Return an experiment without its `privacy.noise`, which a deployment sets."""
    privacy = experiment.privacy.model_copy(update={"noise": "seeded"})
    return experiment.model_copy(update={"privacy": privacy})
