"""The sources: each a function `(options, generator) -> Raw`, named in `fedsim.catalogue`."""

__all__: list[str] = []
