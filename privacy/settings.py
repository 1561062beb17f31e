"""The base of every table of an experiment file, and its errors in one line: the key, the value, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError


def kebab(name: str) -> str:
    """Return the TOML key of a Python name: `learning_rate` is `learning-rate`."""
    return name.replace("_", "-")


NoiseMultiplier = Annotated[float, Field(ge=1e-9, le=1e9)]
"""The noise's standard deviation, in units of the sensitivity; beyond, float64 has no room for what follows from it."""
ClipNorm = Annotated[float, Field(ge=1e-12, le=1e12)]
"""An L2 norm to which gradients or updates are clipped."""


class Section(BaseModel):
    """A frozen, strictly typed table; its keys are the field names with hyphens for underscores."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=kebab,
        populate_by_name=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def invalid(key: str, value: Any, message: str) -> ValidationError:
    """Return a validator's error about one key of its table."""
    return invalid_at((key,), value, message)


def invalid_at(path: tuple[str, ...], value: Any, message: str) -> ValidationError:
    """Return a validator's error about one key, by its path from the validator's table."""
    return _error([(path, value, message)])


def check_one_of(epsilon: float | None, noise_multiplier: float | None) -> None:
    """Refuse a mechanism's table with both `epsilon` and `noise-multiplier`, or neither."""
    if epsilon is not None and noise_multiplier is not None:
        raise invalid(
            "noise-multiplier", noise_multiplier, "can't stand beside epsilon; allowed: one of them"
        )
    if epsilon is None and noise_multiplier is None:
        raise invalid("epsilon", None, "this or noise-multiplier must be set")


def with_allowed_keys(error: ValidationError, model: type[BaseModel], *others: str) -> ValidationError:
    """Return an error of a table that no enclosing model declares, with the allowed keys: the model's, and others."""
    return _error([_reworded(e, model, others) for e in error.errors(include_url=False)])


@contextmanager
def at_path(table: str) -> Iterator[None]:
    """Prefix the keys of errors raised inside the block with a table's name."""
    try:
        yield
    except ValidationError as error:
        details = [_reworded(e) for e in error.errors(include_url=False)]
        raise _error([((table, *path), value, message) for path, value, message in details]) from None


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first error as a line, and the number of others.

    >>> from pydantic import Field
    >>> class Table(BaseModel):
    ...     rounds: int = Field(ge=1)
    >>> try:
    ...     Table.model_validate({"rounds": 0})
    ... except ValidationError as error:
    ...     print(one_line(error, Table))
    rounds = 0: must be greater than or equal to 1
    """
    first, *rest = error.errors(include_url=False)
    path, value, message = _reworded(first, model)
    key = ".".join(kebab(str(part)) for part in path) or "experiment"
    more = f" (and {len(rest)} more)" if rest else ""
    if first["type"] == "missing":
        return f"{key} is missing{more}"
    return f"{key} = {_short(value)}: {message}{more}"


_Detail = tuple[tuple[int | str, ...], Any, str]  # path, value, message


def _error(details: list[_Detail]) -> ValidationError:
    return ValidationError.from_exception_data(
        "experiment",
        [
            InitErrorDetails(
                type=PydanticCustomError("experiment", "{text}", {"text": message}), loc=loc, input=value
            )
            for loc, value, message in details
        ],
    )


def _reworded(
    error: ErrorDetails, model: type[BaseModel] | None = None, others: tuple[str, ...] = ()
) -> _Detail:
    """Return one of pydantic's errors in fedsim's words; with a model, a wrong key is told the allowed ones."""
    path, value, kind = error["loc"], error["input"], error["type"]
    if kind == "missing":
        return path, None, "must be set"
    if kind in {"model_type", "dict_type"}:
        return path, value, "must be a table"
    if kind != "extra_forbidden":
        return path, value, error["msg"].replace("Input should be", "must be")
    if model is None:
        return path, value, "is no key here"
    return (
        path,
        value,
        f"is no key here; allowed: {', '.join(sorted([*others, *_allowed(model, path[:-1])]))}",
    )


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _allowed(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the table at a path."""
    for part in path:
        fields = {kebab(name): field for name, field in model.model_fields.items()}
        if part not in fields:
            return []
        kind = fields[part].annotation  # an optional table, too
        tables = [k for k in (kind, *get_args(kind)) if isinstance(k, type) and issubclass(k, BaseModel)]
        if not tables:
            return []
        model = tables[0]
    return sorted(kebab(name) for name in model.model_fields)
