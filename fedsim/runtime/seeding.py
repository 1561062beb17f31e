"""Python's, NumPy's and PyTorch's global generators, from which other people's apps draw."""

from __future__ import annotations

import random  # noqa: TID251 (others draw from it, not fedsim)
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

import numpy as np

from fedsim.streams import numpy_stream


@contextmanager
def global_draws_from(seed: int, purpose: str, *, round_: int = 0, client: int = 0) -> Iterator[None]:
    """Let the three global generators draw from one named stream inside the block, and restore them at its end.

    PyTorch isn't loaded for it, but seeded if the block imports it. Arguments as in `fedsim.streams.numpy_stream`.
    """
    draws = numpy_stream(seed, purpose, round_=round_, client=client)
    ours, arrays, torch = random.getstate(), np.random.get_state(), sys.modules.get("torch")  # noqa: NPY002
    tensors = None if torch is None else torch.get_rng_state()
    random.seed(int(draws.integers(2**63)))
    np.random.seed(draws.integers(2**32, size=4, dtype=np.uint32))  # noqa: NPY002
    late = _LateTorch(int(draws.integers(2**63)))
    if torch is None:
        sys.meta_path.insert(0, late)
    else:
        late.seed(torch)
    try:
        yield
    finally:
        if late in sys.meta_path:
            sys.meta_path.remove(late)
        random.setstate(ours)
        np.random.set_state(arrays)  # noqa: NPY002
        if torch is not None:
            torch.set_rng_state(tensors)


class _LateTorch(MetaPathFinder):
    """Seeds PyTorch when it is imported."""

    def __init__(self, number: int) -> None:
        self._number = number

    def seed(self, torch: ModuleType) -> None:
        torch.manual_seed(self._number)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == "torch" else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def seeded(module: ModuleType) -> None:
                execute(module)
                self.seed(module)

            spec.loader.exec_module = seeded  # type: ignore[method-assign]
        return spec
