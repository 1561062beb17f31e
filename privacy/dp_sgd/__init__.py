"""DP-SGD: example-level privacy in each client's training (Abadi et al. 2016).

`gradient` clips each record's gradient, sums and noises; `kernels` are the ways to compute it; `independence` and
`validator` refuse models in which one record's gradient depends on another record; `release` draws the batches of a
round and says what it released.
"""

__all__: list[str] = []
