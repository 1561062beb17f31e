"""Server strategies."""

from __future__ import annotations

from fedsim import options as o
from fedsim.catalogue.entries import StrategyEntry, find, table

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


def find_strategy(name: str) -> StrategyEntry:
    """Return the entry of a strategy; `"module:callable"` is the user's own, which gets each update."""
    if ":" in name:
        return StrategyEntry(name=name, reference=name, summary="", options=o.FreeOptions, state=None)
    return find(STRATEGIES, name, ', or "module:callable"')
