"""What the server does: strategies, cohort samplings, and schedules of rounds."""

from __future__ import annotations

from fedsim import options as o
from fedsim.catalogue.entries import RoundScheduleEntry, SamplingEntry, StrategyEntry, finder, table

_FLOWER = "flwr.serverapp.strategy:"

STRATEGIES = table(
    StrategyEntry(
        "fedavg",
        _FLOWER + "FedAvg",
        "weighted mean of the clients' models (McMahan et al. 2017)",
        linear=True,
    ),
    StrategyEntry(
        "fedavgm",
        _FLOWER + "FedAvgM",
        "FedAvg with momentum on the server (Hsu et al. 2019)",
        options=o.FedAvgMOptions,
        linear=True,
        state=("current_arrays", "momentum_vector"),
    ),
    StrategyEntry(
        "fedprox",
        _FLOWER + "FedProx",
        "FedAvg with a proximal term in the clients (Li et al. 2020)",
        options=o.FedProxOptions,
        linear=True,
    ),
    StrategyEntry(
        "fedadagrad",
        _FLOWER + "FedAdagrad",
        "Adagrad on the server (Reddi et al. 2021)",
        options=o.FedAdagradOptions,
        linear=True,
        state=("m_t", "v_t"),
    ),
    StrategyEntry(
        "fedadam",
        _FLOWER + "FedAdam",
        "Adam on the server (Reddi et al. 2021)",
        options=o.FedAdamOptions,
        linear=True,
        state=("m_t", "v_t"),
    ),
    StrategyEntry(
        "fedyogi",
        _FLOWER + "FedYogi",
        "Yogi on the server (Reddi et al. 2021)",
        options=o.FedYogiOptions,
        linear=True,
        state=("m_t", "v_t"),
    ),
    StrategyEntry("fedmedian", _FLOWER + "FedMedian", "median, coordinate by coordinate (Yin et al. 2018)"),
    StrategyEntry(
        "fedtrimmedavg",
        _FLOWER + "FedTrimmedAvg",
        "trimmed mean, coordinate by coordinate (Yin et al. 2018)",
        options=o.FedTrimmedAvgOptions,
    ),
    StrategyEntry(
        "krum",
        _FLOWER + "Krum",
        "the update closest to its neighbours (Blanchard et al. 2017)",
        options=o.KrumOptions,
        smallest_cohort=lambda options: 2 * options.num_malicious_nodes + 3,
    ),
    StrategyEntry(
        "multikrum",
        _FLOWER + "MultiKrum",
        "mean of the updates closest to their neighbours (Blanchard et al. 2017)",
        options=o.MultiKrumOptions,
        smallest_cohort=lambda options: max(2 * options.num_malicious_nodes + 3, options.num_nodes_to_select),
    ),
    StrategyEntry(
        "bulyan",
        _FLOWER + "Bulyan",
        "Krum's choice, then a trimmed mean around the median (El Mhamdi et al. 2018)",
        options=o.BulyanOptions,
        smallest_cohort=lambda options: 4 * options.num_malicious_nodes + 3,
    ),
    StrategyEntry(
        "qfedavg",
        _FLOWER + "QFedAvg",
        "fairness: clients with a higher loss count more (Li et al. 2020)",
        options=o.QFedAvgOptions,
        needs_initial_loss=True,
    ),
)
find_strategy = finder(STRATEGIES, state=None)  # a user's own gets each update

SAMPLINGS = table(
    SamplingEntry(
        "fixed", "fedsim.privacy.cohorts.sampling:IndependentCohorts", "`cohort` clients, without replacement"
    ),
    SamplingEntry(
        "poisson",
        "fedsim.privacy.cohorts.sampling:IndependentCohorts",
        "each client independently (Poisson sampling)",
    ),
    SamplingEntry(
        "truncated-poisson",
        "fedsim.privacy.cohorts.sampling:IndependentCohorts",
        "Poisson sampling, truncated to `max-cohort` clients",
    ),
    SamplingEntry(
        "b-min-sep",
        "fedsim.privacy.cohorts.separated:SeparatedCohorts",
        "each client at most once in `min-separation` rounds, for a mechanism that needs it",
    ),
)
find_sampling = finder(SAMPLINGS)

ROUND_SCHEDULES = table(
    RoundScheduleEntry(
        "buffered",
        "fedsim.server.schedules.buffered:Buffered",
        "FedBuff: every `cohort` arrived updates make a model, in virtual time (Nguyen et al. 2022)",
        options=o.BufferedOptions,
    ),
)
find_round_schedule = finder(ROUND_SCHEDULES, '"module:callable"; unset: synchronous')
