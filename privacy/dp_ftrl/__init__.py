"""DP-FTRL: client-level privacy by a trusted server, with noise that is correlated over rounds (Denisov et al. 2022).

`factorization` builds a matrix mechanism (banded, buffered linear Toeplitz, square root) for a participation pattern,
with its sensitivity and error; `accounting` finds the noise for an epsilon, and `server` adds it, row by row.
"""

__all__: list[str] = []
