"""Secure aggregation between Flower's messages and `fedsim.privacy.secagg`: what server and clients have to agree on."""

__all__: list[str] = []
