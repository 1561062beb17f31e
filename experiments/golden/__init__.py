"""Golden digests: check that a code change keeps the bits of seeded runs, and the bytes of written files.

    python -m fedsim.experiments.golden between main~5 main

A digest holds on one kind of processor and for one set of packages, so none is committed: both sides are recorded on the
same machine.
"""

__all__: list[str] = []
