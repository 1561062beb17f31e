"""DP-FTRL: client-level privacy by a trusted server, with noise that is correlated over rounds (Denisov et al. 2022).

`factorization` makes a matrix mechanism of a pattern of participations (banded, buffered linear Toeplitz, square root), which
knows its sensitivity and its error; `calibration` finds the noise for an epsilon, and `release` adds it, row by row.
"""

__all__: list[str] = []
