"""Secure aggregation over Flower: message records, and settings that server and clients derive independently."""

__all__: list[str] = []
