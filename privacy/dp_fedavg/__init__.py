"""DP-FedAvg: client-level privacy by a trusted server, which noises the sum of clipped updates (McMahan et al. 2018).

`adaptive` lets the clip norm follow the updates (Andrew et al. 2021).
"""

__all__: list[str] = []
