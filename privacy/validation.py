"""Validation errors of an experiment in one line: the key, the value, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from fedsim.privacy.settings import kebab


def invalid(key: str, value: Any, message: str) -> ValidationError:
    """Return a validator's error about one key of its table."""
    return _error([((key,), value, message)])


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
    """Return a table's error with the allowed keys, for a model that the enclosing table does not declare.

    Args:
        error: The model's error.
        model: The table's model.
        others: Further allowed keys.
    """
    return _error(
        [
            (
                e["loc"],
                None if e["type"] == "missing" else e["input"],
                f"is no key here; allowed: {', '.join(sorted([*others, *_allowed(model, e['loc'][:-1])]))}"
                if e["type"] == "extra_forbidden"
                else _message(e["msg"], e["type"]),
            )
            for e in error.errors(include_url=False)
        ]
    )


@contextmanager
def at_path(table: str) -> Iterator[None]:
    """Prefix the keys of errors raised inside the block with a table's name."""
    try:
        yield
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise _error(
            [
                (
                    (table, *e["loc"]),
                    None if e["type"] == "missing" else e["input"],
                    _message(e["msg"], e["type"]),
                )
                for e in details
            ]
        ) from None


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
    key = ".".join(kebab(str(part)) for part in first["loc"]) or "experiment"
    more = f" (and {len(rest)} more)" if rest else ""
    if first["type"] == "missing":
        return f"{key} is missing{more}"
    message = _message(first["msg"], first["type"])
    if first["type"] == "extra_forbidden":
        message = f"is no key here; allowed: {', '.join(_allowed(model, first['loc'][:-1]))}"
    return f"{key} = {_short(first['input'])}: {message}{more}"


def _error(details: list[tuple[tuple[int | str, ...], Any, str]]) -> ValidationError:
    return ValidationError.from_exception_data(
        "experiment",
        [
            InitErrorDetails(
                type=PydanticCustomError("experiment", "{text}", {"text": message}), loc=loc, input=value
            )
            for loc, value, message in details
        ],
    )


def _message(message: str, kind: str) -> str:
    if kind == "extra_forbidden":
        return "is no key here"
    if kind == "missing":
        return "must be set"
    if kind in {"model_type", "dict_type"}:
        return "must be a table"
    return message.replace("Input should be", "must be")


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
        field = next((f for name, f in model.model_fields.items() if kebab(name) == part), None)
        kinds = (
            () if field is None else (field.annotation, *get_args(field.annotation))
        )  # an optional table, too
        tables = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not tables:
            return []
        model = tables[0]
    return sorted(kebab(name) for name in model.model_fields)
