"""Random small models, trained under every mechanism and on every engine."""

__all__: list[str] = []
