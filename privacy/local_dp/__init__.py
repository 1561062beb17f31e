"""Local differential privacy at client level: each client clips and noises its own update."""

__all__: list[str] = []
