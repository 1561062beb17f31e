"""Local differential privacy at client level: each client clips and noises its own update, and trusts nobody."""

__all__: list[str] = []
