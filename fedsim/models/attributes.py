"""What modules keep in attributes of Python, outside of their state dict: put back before each client's training."""

from __future__ import annotations

import copy
import random  # noqa: TID251 (the type of a generator that a module may keep)
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OF_MODULES = frozenset(vars(nn.Module()))  # every module's own: parameters, buffers, hooks, its mode
ATOMS = (type(None), bool, int, float, complex, str, bytes)
WHOLES = (Tensor, np.ndarray, np.generic, np.random.Generator, torch.Generator, random.Random)


@dataclass
class Attributes:
    """The attributes of a user's module, and their values when the model was built.

    Numbers, text, tensors, arrays, generators and collections of them are put back by value, others by identity.

    Attributes:
        path: Of the module in the model.
        module: Their owner.
        first: The objects.
        copies: Copies of those that can change in place.
        added: Names that the first trial of the model added; others may be a kernel's.
    """

    path: str
    module: nn.Module
    first: dict[str, Any]
    copies: dict[str, Any]
    added: list[str] | None = None

    @classmethod
    def of(cls, model: nn.Module) -> list[Attributes]:
        """Return the attributes of all modules whose class is not PyTorch's."""
        shared = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        return [
            cls(
                path, module, first, {n: copy.deepcopy(v) for n, v in first.items() if _may_change(v, shared)}
            )
            for path, module in model.named_modules()
            if not type(module).__module__.startswith("torch.nn.")
            for first in [_attributes(module)]
        ]

    def reset(self) -> list[str]:
        """Return to the first values; return the names of those that had been changed."""
        now = _attributes(self.module)
        if self.added is None:
            self.added = [name for name in now if name not in self.first]
        changed = [name for name in self.added if name in now]
        for name in changed:
            object.__delattr__(self.module, name)
        for name, value in self.first.items():
            if name in self.copies:
                if name not in now or not _alike(now[name], self.copies[name]):
                    changed.append(name)
                    object.__setattr__(self.module, name, copy.deepcopy(self.copies[name]))
            elif now.get(name, self) is not value:
                changed.append(name)
                object.__setattr__(self.module, name, value)
        return [f"{self.path}.{name}".lstrip(".") for name in changed]


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in OF_MODULES}


def _may_change(value: object, shared: Container[int]) -> bool:
    """Return whether a value can change in place, and be copied; not if it has memory that parameters have."""
    return not isinstance(value, ATOMS) and _plain(value, shared)


def _plain(value: object, shared: Container[int]) -> bool:
    if type(value) is dict:
        return all(_plain(each, shared) for each in value.values())
    if type(value) in (list, tuple, set, frozenset):
        return all(_plain(each, shared) for each in value)  # type: ignore[attr-defined]
    if isinstance(value, Tensor):
        return not value.requires_grad and value.untyped_storage().data_ptr() not in shared
    return isinstance(value, ATOMS + WHOLES)


def _alike(value: Any, first: Any) -> bool:
    """Return whether a value is what it was first; both have plain values."""
    if type(value) is not type(first):
        return False
    if isinstance(first, Tensor):
        return value.shape == first.shape and value.dtype == first.dtype and torch.equal(value, first)
    if isinstance(first, np.ndarray):
        return value.dtype == first.dtype and bool(np.array_equal(value, first))
    if isinstance(first, dict):
        return value.keys() == first.keys() and all(_alike(value[name], first[name]) for name in first)
    if isinstance(first, list | tuple):
        return len(value) == len(first) and all(map(_alike, value, first))
    if isinstance(first, np.random.Generator):
        return _alike(value.bit_generator.state, first.bit_generator.state)
    if isinstance(first, torch.Generator):
        return torch.equal(value.get_state(), first.get_state())
    if isinstance(first, random.Random):
        return bool(value.getstate() == first.getstate())
    return bool(value == first) or (value != value and first != first)
