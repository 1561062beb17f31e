"""The sources: each a function `(options, generator, targets) -> Raw`, named in `fedsim.catalogue`."""

__all__: list[str] = []
