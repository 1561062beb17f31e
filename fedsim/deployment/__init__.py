"""Server and clients as processes of their own: Flower's SuperLink and Fleet API, with what they leave open closed."""

__all__: list[str] = []
