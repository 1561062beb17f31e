"""Secure aggregation (Bonawitz et al. 2017, Bell et al. 2020): the server learns a sum and nothing else.

Bytes and arrays in, bytes and arrays out: nothing here knows Flower, a network or an experiment.
"""

__all__: list[str] = []
