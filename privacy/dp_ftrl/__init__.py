"""DP-FTRL: client-level privacy by a trusted server, with noise that is correlated over rounds (Denisov et al. 2022).

`participation` says how often and how far apart a client takes part; `factorization` makes a matrix mechanism of it
(banded, buffered linear Toeplitz, square root), which knows its sensitivity and its error; `calibration` finds the noise
for an epsilon, and `release` adds it, row by row.
"""

__all__: list[str] = []
