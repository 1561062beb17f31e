"""Secure aggregation between Flower's messages and `privacy.secagg`: what server and clients have to agree on."""

__all__: list[str] = []
