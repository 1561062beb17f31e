"""DP-SGD: example-level privacy in each client's training (Abadi et al. 2016).

`gradient` clips, sums and noises per-record gradients; `kernels` compute them; `independence` and `validator` refuse
models in which one record's gradient depends on another record; `release` has a round's batches and event, and `steps`
takes its steps.
"""

__all__: list[str] = []
