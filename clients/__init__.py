"""The ClientApp: local training, evaluation, and mods that transform an update."""

__all__: list[str] = []
