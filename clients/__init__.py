"""The ClientApp: local training and evaluation, and the mods that transform an update."""

__all__: list[str] = []
