"""Server and clients as separate processes, over Flower's SuperLink and its Fleet API."""

__all__: list[str] = []
