"""Published results, run again."""

__all__: list[str] = []
