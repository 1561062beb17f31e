"""State as a tree: nested dicts and lists of arrays and JSON scalars, split for storage and rebuilt."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Tree = Any
"""A dict with string keys, a list, an array, or a JSON scalar."""


def take_apart(tree: Tree, name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a tree as JSON that refers to arrays by name, and the arrays.

    Args:
        tree: Order, dtypes and bits are kept, but not the memory layout of arrays; a tuple becomes a list, a NumPy
            scalar a 0-d array.
        name: Prefix of the arrays' names.

    Raises:
        ValueError: A value can't be stored; the message says where.
    """
    arrays: dict[str, NDArray[Any]] = {}
    return _take(tree, name, arrays), arrays


def _take(node: Tree, name: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    if isinstance(node, dict):
        for key in node:
            if not isinstance(key, str):
                raise ValueError(f"{name} has the key {key!r}; strings are needed")
        return {"dict": {key: _take(value, f"{name}/{key}", arrays) for key, value in node.items()}}
    if isinstance(node, list | tuple):
        return {"list": [_take(value, f"{name}/{i}", arrays) for i, value in enumerate(node)]}
    if isinstance(node, np.ndarray | np.generic):
        if node.dtype.kind not in "biuf" or node.dtype.itemsize > 8:
            raise ValueError(
                f"{name} has dtype {node.dtype}; bool, integers or floats of up to 64 bits are needed"
            )
        while name in arrays:  # {"a/b": ...} beside {"a": {"b": ...}}
            name += "'"
        arrays[name] = np.asarray(node)
        return {"array": name}
    if node is None or isinstance(node, bool | int | float | str):
        return {"value": node}
    raise ValueError(
        f"{name} is a {type(node).__name__}; arrays, numbers, strings, dicts and lists are needed"
    )


def put_together(json: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Tree:
    """Return the tree that `take_apart` took apart."""
    ((kind, content),) = json.items()
    match kind:
        case "dict":
            return {key: put_together(value, arrays) for key, value in content.items()}
        case "list":
            return [put_together(value, arrays) for value in content]
        case "array":
            return arrays[content]
        case "value":
            return content
        case _:
            raise ValueError(f"there is no {kind!r} in a tree")
